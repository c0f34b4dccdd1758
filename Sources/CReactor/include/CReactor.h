// The C libraries that the reactor uses, and inline shims for what Swift cannot import (macros and variadic functions).
// Invariant: no logic. Used only by Sources/Reactor.

#ifndef CREACTOR_H
#define CREACTOR_H

#include <ares.h>
#include <ev.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <jansson.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <postgresql/libpq-fe.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <ifaddrs.h>
#include <link.h>
#include <linux/sockios.h>
#include <malloc.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "Curl.h"

#if __has_include(<hiredis/hiredis_ssl.h>)
#include <hiredis/hiredis_ssl.h>
#endif

// libev's initializers are macros.

static inline void creactor_io_init(ev_io *watcher, void (*callback)(struct ev_loop *, ev_io *, int), int descriptor,
                                    int events) {
  ev_io_init(watcher, callback, descriptor, events);
}

/// Changes the events and the descriptor of a stopped watcher, which registers the descriptor anew.
static inline void creactor_io_set(ev_io *watcher, int descriptor, int events) {
  ev_io_set(watcher, descriptor, events);
}

/// Changes the events of a stopped watcher. On the same descriptor this costs a system call only if they differ when
/// the loop polls next.
static inline void creactor_io_modify(ev_io *watcher, int events) { ev_io_modify(watcher, events); }

static inline void creactor_timer_init(ev_timer *watcher, void (*callback)(struct ev_loop *, ev_timer *, int),
                                       double after_seconds) {
  ev_timer_init(watcher, callback, after_seconds, 0.);
}

/// The last prepare watcher to run, so that whatever others resume runs in the same turn.
static inline void creactor_prepare_init(ev_prepare *watcher, void (*callback)(struct ev_loop *, ev_prepare *, int)) {
  ev_prepare_init(watcher, callback);
  ev_set_priority(watcher, EV_MINPRI);
}

/// The first watcher to run after the poll.
static inline void creactor_check_init(ev_check *watcher, void (*callback)(struct ev_loop *, ev_check *, int)) {
  ev_check_init(watcher, callback);
  ev_set_priority(watcher, EV_MAXPRI);
}

static inline void creactor_idle_init(ev_idle *watcher, void (*callback)(struct ev_loop *, ev_idle *, int)) {
  ev_idle_init(watcher, callback);
}

static inline void creactor_async_init(ev_async *watcher, void (*callback)(struct ev_loop *, ev_async *, int)) {
  ev_async_init(watcher, callback);
}

static inline void creactor_signal_init(ev_signal *watcher, void (*callback)(struct ev_loop *, ev_signal *, int),
                                        int number) {
  ev_signal_init(watcher, callback, number);
}

// Socket calls that return a negative errno: errno is a macro, and accept4 a GNU extension that the importer does not
// see.

static inline int creactor_socket(int family) {
  int made = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return made < 0 ? -errno : made;
}

static inline int creactor_datagram_socket(int family) {
  int made = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return made < 0 ? -errno : made;
}

static inline int creactor_bind(int descriptor, const void *address, socklen_t size) {
  return bind(descriptor, (const struct sockaddr *)address, size) < 0 ? -errno : 0;
}

static inline int creactor_connect(int descriptor, const void *address, socklen_t size) {
  return connect(descriptor, (const struct sockaddr *)address, size) < 0 ? -errno : 0;
}

static inline int creactor_listen(int descriptor, int backlog) {
  return listen(descriptor, backlog) < 0 ? -errno : 0;
}

static inline int creactor_accept(int listener) {
  extern int accept4(int, struct sockaddr *, socklen_t *, int);
  int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return accepted < 0 ? -errno : accepted;
}

static inline ssize_t creactor_receive(int descriptor, void *bytes, size_t count) {
  ssize_t received = recv(descriptor, bytes, count, 0);
  return received < 0 ? -errno : received;
}

static inline ssize_t creactor_send(int descriptor, const void *bytes, size_t count) {
  ssize_t sent = send(descriptor, bytes, count, MSG_NOSIGNAL);
  return sent < 0 ? -errno : sent;
}

/// Bytes sent on a TCP connection that its peer has not acknowledged; the kernel keeps them even after close. ioctl is
/// variadic.
static inline int creactor_unacknowledged(int descriptor) {
  int count = 0;
  return ioctl(descriptor, SIOCOUTQ, &count) < 0 ? 0 : count;
}

// c-ares's status codes are macros up to 1.2x and an enumeration afterwards; here they are integers.

static const int creactor_ares_success = ARES_SUCCESS;
static const int creactor_ares_no_data = ARES_ENODATA;
static const int creactor_ares_not_found = ARES_ENOTFOUND;
static const int creactor_ares_bad_name = ARES_EBADNAME;
static const int creactor_ares_timed_out = ARES_ETIMEOUT;
static const int creactor_ares_no_sort = ARES_AI_NOSORT;
static const int creactor_ares_use_tcp = ARES_FLAG_USEVC;

// TLS for hiredis, which Debian 12's lacks. It is given an SSL object, because hiredis does not verify host names.

#if __has_include(<hiredis/hiredis_ssl.h>)
static inline int creactor_redis_has_tls(void) { return 1; }
static inline int creactor_redis_start_tls(redisAsyncContext *context, SSL *session) {
  return redisInitiateSSL(&context->c, session);
}
#else
static inline int creactor_redis_has_tls(void) { return 0; }
static inline int creactor_redis_start_tls(redisAsyncContext *context, SSL *session) {
  (void)context;
  (void)session;
  return REDIS_ERR;
}
#endif

/// Clears OpenSSL's error queue, which all libraries of the thread share: errors left there would be taken for the next
/// library's own.
static inline void creactor_clear_tls_errors(void) { ERR_clear_error(); }

static inline long creactor_ssl_set_server_name(SSL *session, const char *name) {
  return SSL_set_tlsext_host_name(session, (char *)name);
}

// libpq 17 cancels without blocking. Before that there is only PQcancel, which blocks and is not used. Both have one
// set of names: without the functions nothing can be created, and no other function is called.

#ifdef LIBPQ_HAS_ASYNC_CANCEL
typedef PGcancelConn creactor_cancel;
static inline int creactor_has_cancel(void) { return 1; }
static inline creactor_cancel *creactor_cancel_create(PGconn *connection) { return PQcancelCreate(connection); }
static inline int creactor_cancel_start(creactor_cancel *cancel) { return PQcancelStart(cancel); }
static inline PostgresPollingStatusType creactor_cancel_poll(creactor_cancel *cancel) { return PQcancelPoll(cancel); }
static inline int creactor_cancel_socket(creactor_cancel *cancel) { return PQcancelSocket(cancel); }
static inline void creactor_cancel_finish(creactor_cancel *cancel) { PQcancelFinish(cancel); }
#else
typedef struct creactor_cancel creactor_cancel;
static inline int creactor_has_cancel(void) { return 0; }
static inline creactor_cancel *creactor_cancel_create(PGconn *connection) { return (void)connection, (void *)0; }
static inline int creactor_cancel_start(creactor_cancel *cancel) { return (void)cancel, 0; }
static inline PostgresPollingStatusType creactor_cancel_poll(creactor_cancel *cancel) {
  return (void)cancel, PGRES_POLLING_FAILED;
}
static inline int creactor_cancel_socket(creactor_cancel *cancel) { return (void)cancel, -1; }
static inline void creactor_cancel_finish(creactor_cancel *cancel) { (void)cancel; }
#endif

/// Drops a notice of the server: it can quote rows, and stderr is for the log.
static inline void creactor_drop_notice(void *context, const PGresult *notice) { (void)context, (void)notice; }

static inline void creactor_drop_notices(PGconn *connection) {
  PQsetNoticeReceiver(connection, creactor_drop_notice, NULL);
}

static inline void creactor_ignore_sigpipe(void) { signal(SIGPIPE, SIG_IGN); }

// The process: C's global variables, which Swift cannot access directly.

extern char **environ;

static inline char *const *creactor_environment(void) { return environ; }

/// The arguments of the command line and their number.
int creactor_arguments(char ***values);

/// From now on, records the certificate verification result of TLS sessions that are freed before the handshake is
/// complete. libpq frees a session in the step in which it fails.
void creactor_watch_refusals(void);

/// The result recorded since then: X509_V_OK, or why a certificate was refused.
long creactor_refusal(void);

/// The number of bytes written, or a negative errno.
static inline ssize_t creactor_write(int descriptor, const void *bytes, size_t count) {
  ssize_t written = write(descriptor, bytes, count);
  return written < 0 ? -errno : written;
}

/// Whether a descriptor becomes writable within a time; a negative errno if waiting failed.
static inline int creactor_poll_writable(int descriptor, int milliseconds) {
  struct pollfd entry = {.fd = descriptor, .events = POLLOUT};
  int ready = poll(&entry, 1, milliseconds);
  return ready < 0 ? -errno : ready;
}

/// The program or a library as the dynamic linker knows it: the first fields of struct dl_phdr_info, a GNU extension
/// that the importer does not see.
struct creactor_loaded_object {
  ElfW(Addr) base;
  const char *name;
  const ElfW(Phdr) *headers;
  ElfW(Half) header_count;
};

/// Calls `visit` for the program and each loaded library until it returns nonzero.
extern int creactor_each_loaded_object(int (*visit)(struct creactor_loaded_object *, size_t, void *), void *context)
    __asm__("dl_iterate_phdr");

/// open is variadic. Does not wait for a pipe's writer or a terminal; returns a negative errno on failure.
static inline int creactor_open_read(const char *path) {
  int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  return opened < 0 ? -errno : opened;
}

/// The number of bytes read, or a negative errno.
static inline ssize_t creactor_read(int descriptor, void *bytes, size_t count) {
  ssize_t got = read(descriptor, bytes, count);
  return got < 0 ? -errno : got;
}

static inline int creactor_open_null(void) { return open("/dev/null", O_RDWR); }

/// Restarts getopt_long (0 resets GNU's state too) and keeps it silent on stderr.
static inline void creactor_getopt_reset(void) {
  optind = 0;
  opterr = 0;
}

static inline char *creactor_getopt_argument(void) { return optarg; }

/// The index of the next argument for getopt_long.
static inline int creactor_getopt_next_index(void) { return optind; }

/// The short option that getopt_long rejected, 0 if it was a long one.
static inline int creactor_getopt_faulty_option(void) { return optopt; }

#endif
