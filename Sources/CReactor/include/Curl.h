// libcurl, which is loaded on demand and never linked: the functions that are called, and the constants that they take.
// All are part of libcurl's stable interface (curl.h, multi.h, urlapi.h from 7.85 on). They are declared here so that
// its headers are not needed; a test compares each option's number with the loaded library.

#ifndef CREACTOR_CURL_H
#define CREACTOR_CURL_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum {
  CREACTOR_CURLOPT_POST = 47,
  CREACTOR_CURLOPT_UPLOAD = 46,
  CREACTOR_CURLOPT_POSTFIELDSIZE = 60,
  CREACTOR_CURLOPT_NOSIGNAL = 99,
  CREACTOR_CURLOPT_USE_SSL = 119,
  CREACTOR_CURLOPT_TIMEOUT_MS = 155,
  // Its name in libcurl before 8.2, an alias since.
  CREACTOR_CURLOPT_MAIL_RCPT_ALLLOWFAILS = 290,
  CREACTOR_CURLOPT_WRITEDATA = 10001,
  CREACTOR_CURLOPT_URL = 10002,
  CREACTOR_CURLOPT_PROXY = 10004,
  CREACTOR_CURLOPT_READDATA = 10009,
  CREACTOR_CURLOPT_USERAGENT = 10018,
  CREACTOR_CURLOPT_HTTPHEADER = 10023,
  CREACTOR_CURLOPT_HEADERDATA = 10029,
  CREACTOR_CURLOPT_CAINFO = 10065,
  CREACTOR_CURLOPT_CAPATH = 10097,
  CREACTOR_CURLOPT_COPYPOSTFIELDS = 10165,
  CREACTOR_CURLOPT_NOPROXY = 10177,
  CREACTOR_CURLOPT_MAIL_FROM = 10186,
  CREACTOR_CURLOPT_MAIL_RCPT = 10187,
  CREACTOR_CURLOPT_RESOLVE = 10203,
  CREACTOR_CURLOPT_LOGIN_OPTIONS = 10224,
  CREACTOR_CURLOPT_PROXY_CAINFO = 10246,
  CREACTOR_CURLOPT_PROXY_CAPATH = 10247,
  CREACTOR_CURLOPT_PROTOCOLS_STR = 10318,
  CREACTOR_CURLOPT_WRITEFUNCTION = 20011,
  CREACTOR_CURLOPT_READFUNCTION = 20012,
  CREACTOR_CURLOPT_HEADERFUNCTION = 20079,
  CREACTOR_CURLOPT_RESOLVER_START_FUNCTION = 20272,
} creactor_curl_option;

/// CURLOPT_USE_SSL: never, if the server offers it, or required.
typedef enum {
  CREACTOR_CURLUSESSL_NONE = 0,
  CREACTOR_CURLUSESSL_TRY = 1,
  CREACTOR_CURLUSESSL_ALL = 3,
} creactor_curl_use_ssl;

typedef enum {
  CREACTOR_CURLMOPT_MAXCONNECTS = 6,
  CREACTOR_CURLMOPT_SOCKETDATA = 10002,
  CREACTOR_CURLMOPT_TIMERDATA = 10005,
  CREACTOR_CURLMOPT_SOCKETFUNCTION = 20001,
  CREACTOR_CURLMOPT_TIMERFUNCTION = 20004,
} creactor_curl_multi_option;

typedef enum {
  CREACTOR_CURLINFO_REDIRECT_URL = 0x10001f,
  CREACTOR_CURLINFO_RESPONSE_CODE = 0x200002,
  CREACTOR_CURLINFO_SSL_VERIFYRESULT = 0x20000d,
  CREACTOR_CURLINFO_HTTP_VERSION = 0x20002e,
  CREACTOR_CURLINFO_NUM_CONNECTS = 0x20001a,
  CREACTOR_CURLINFO_RETRY_AFTER = 0x600039,
} creactor_curl_info;

typedef enum {
  CREACTOR_CURLUPART_URL = 0,
  CREACTOR_CURLUPART_SCHEME = 1,
  CREACTOR_CURLUPART_USER = 2,
  CREACTOR_CURLUPART_PASSWORD = 3,
  CREACTOR_CURLUPART_OPTIONS = 4,
  CREACTOR_CURLUPART_HOST = 5,
  CREACTOR_CURLUPART_PORT = 6,
  CREACTOR_CURLUPART_PATH = 7,
} creactor_curl_url_part;

enum { creactor_curl_poll_in = 1, creactor_curl_poll_out = 2, creactor_curl_poll_remove = 4 };
enum { creactor_curl_select_in = 1, creactor_curl_select_out = 2 };
enum { creactor_curl_global_default = 3, creactor_curl_url_default_port = 1, creactor_curl_url_any_scheme = 8,
       creactor_curl_url_encode = 128 };
enum { creactor_curl_ok = 0, creactor_curl_weird_reply = 8, creactor_curl_access_denied = 9,
       creactor_curl_write_error = 23, creactor_curl_no_memory = 27, creactor_curl_timed_out = 28,
       creactor_curl_send_error = 55, creactor_curl_peer_not_verified = 60, creactor_curl_no_encryption = 64,
       creactor_curl_login_denied = 67, creactor_curl_http2_stream = 92 };
static const int creactor_curl_socket_timeout = -1;

/// CURLMsg: there is one only for a finished transfer.
typedef struct {
  int kind;
  void *easy;
  union {
    void *whatever;
    int result;
  } data;
} creactor_curl_message;

/// The beginning of curl_easyoption, for the test of the numbers above.
typedef struct {
  const char *name;
  int identifier;
} creactor_curl_easy_option;

typedef int (*creactor_curl_socket_callback)(void *easy, int socket, int what, void *owner, void *socket_data);
typedef int (*creactor_curl_timer_callback)(void *multi, long milliseconds, void *owner);
typedef size_t (*creactor_curl_data_callback)(char *bytes, size_t size, size_t count, void *owner);
typedef int (*creactor_curl_resolver_callback)(void *resolver, void *reserved, void *owner);

/// The functions of the loaded library.
typedef struct {
  int (*global_init)(long flags);
  const char *(*version)(void);
  void *(*easy_init)(void);
  int (*easy_setopt)(void *easy, int option, ...);
  int (*easy_getinfo)(void *easy, int info, ...);
  void (*easy_cleanup)(void *easy);
  const char *(*easy_strerror)(int code);
  const creactor_curl_easy_option *(*easy_option_by_name)(const char *name);
  void *(*multi_init)(void);
  int (*multi_setopt)(void *multi, int option, ...);
  int (*multi_add_handle)(void *multi, void *easy);
  int (*multi_remove_handle)(void *multi, void *easy);
  int (*multi_socket_action)(void *multi, int socket, int events, int *running);
  creactor_curl_message *(*multi_info_read)(void *multi, int *waiting);
  int (*multi_cleanup)(void *multi);
  void *(*slist_append)(void *list, const char *text);
  void (*slist_free_all)(void *list);
  void *(*url)(void);
  int (*url_set)(void *url, int part, const char *text, unsigned int flags);
  int (*url_get)(const void *url, int part, char **text, unsigned int flags);
  void (*url_cleanup)(void *url);
  void (*free)(void *text);
} creactor_curl;

/// Loads libcurl and looks up its functions. Returns NULL on success, otherwise the loader's error.
static inline const char *creactor_curl_load(creactor_curl *curl) {
  void *library = dlopen("libcurl.so.4", RTLD_LAZY | RTLD_LOCAL);
  if (!library) return dlerror();
  struct {
    const char *name;
    void *place;
  } functions[] = {
      {"curl_global_init", &curl->global_init},
      {"curl_version", &curl->version},
      {"curl_easy_init", &curl->easy_init},
      {"curl_easy_setopt", &curl->easy_setopt},
      {"curl_easy_getinfo", &curl->easy_getinfo},
      {"curl_easy_cleanup", &curl->easy_cleanup},
      {"curl_easy_strerror", &curl->easy_strerror},
      {"curl_easy_option_by_name", &curl->easy_option_by_name},
      {"curl_multi_init", &curl->multi_init},
      {"curl_multi_setopt", &curl->multi_setopt},
      {"curl_multi_add_handle", &curl->multi_add_handle},
      {"curl_multi_remove_handle", &curl->multi_remove_handle},
      {"curl_multi_socket_action", &curl->multi_socket_action},
      {"curl_multi_info_read", &curl->multi_info_read},
      {"curl_multi_cleanup", &curl->multi_cleanup},
      {"curl_slist_append", &curl->slist_append},
      {"curl_slist_free_all", &curl->slist_free_all},
      {"curl_url", &curl->url},
      {"curl_url_set", &curl->url_set},
      {"curl_url_get", &curl->url_get},
      {"curl_url_cleanup", &curl->url_cleanup},
      {"curl_free", &curl->free},
  };
  for (size_t index = 0; index < sizeof functions / sizeof functions[0]; index++) {
    void *function = dlsym(library, functions[index].name);
    if (!function) return dlerror();
    memcpy(functions[index].place, &function, sizeof function);
  }
  return NULL;
}

// Variadic functions, one shim for each type of argument.

static inline int creactor_curl_set_long(const creactor_curl *curl, void *easy, creactor_curl_option option,
                                         long value) {
  return curl->easy_setopt(easy, option, value);
}

/// A string, a list or the owner of a callback.
static inline int creactor_curl_set_pointer(const creactor_curl *curl, void *easy, creactor_curl_option option,
                                            const void *value) {
  return curl->easy_setopt(easy, option, value);
}

static inline int creactor_curl_set_data_callback(const creactor_curl *curl, void *easy, creactor_curl_option option,
                                                  creactor_curl_data_callback callback) {
  return curl->easy_setopt(easy, option, callback);
}

static inline int creactor_curl_set_resolver_callback(const creactor_curl *curl, void *easy,
                                                      creactor_curl_resolver_callback callback) {
  return curl->easy_setopt(easy, CREACTOR_CURLOPT_RESOLVER_START_FUNCTION, callback);
}

static inline long creactor_curl_get_long(const creactor_curl *curl, void *easy, creactor_curl_info info) {
  long value = 0;
  return curl->easy_getinfo(easy, info, &value) == creactor_curl_ok ? value : 0;
}

/// A string that lives as long as the handle; NULL if there is none.
static inline const char *creactor_curl_get_text(const creactor_curl *curl, void *easy, creactor_curl_info info) {
  const char *text = NULL;
  return curl->easy_getinfo(easy, info, &text) == creactor_curl_ok ? text : NULL;
}

static inline int64_t creactor_curl_get_offset(const creactor_curl *curl, void *easy, creactor_curl_info info) {
  int64_t value = 0;
  return curl->easy_getinfo(easy, info, &value) == creactor_curl_ok ? value : 0;
}

static inline int creactor_curl_drive(const creactor_curl *curl, void *multi, void *owner,
                                      creactor_curl_socket_callback on_socket, creactor_curl_timer_callback on_timer,
                                      long most_connections) {
  return curl->multi_setopt(multi, CREACTOR_CURLMOPT_SOCKETDATA, owner) ||
         curl->multi_setopt(multi, CREACTOR_CURLMOPT_SOCKETFUNCTION, on_socket) ||
         curl->multi_setopt(multi, CREACTOR_CURLMOPT_TIMERDATA, owner) ||
         curl->multi_setopt(multi, CREACTOR_CURLMOPT_TIMERFUNCTION, on_timer) ||
         curl->multi_setopt(multi, CREACTOR_CURLMOPT_MAXCONNECTS, most_connections);
}

#endif
