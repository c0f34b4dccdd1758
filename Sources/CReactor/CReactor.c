// Definitions for include/CReactor.h that cannot be inline.
#include "CReactor.h"

static int argument_count;
static char **argument_values;

// glibc passes constructors the arguments of main.
__attribute__((constructor)) static void keep_arguments(int count, char **values) {
  argument_count = count;
  argument_values = values;
}

int creactor_arguments(char ***values) {
  *values = argument_values;
  return argument_count;
}

static long refused_result = X509_V_OK;

// A client's TLS session that verifies certificates and ends before the handshake is complete.
static void keep_refusal(void *session, void *unused, CRYPTO_EX_DATA *data, int index, long number, void *pointer) {
  if (SSL_is_init_finished(session) || SSL_get_verify_mode(session) == SSL_VERIFY_NONE) return;
  refused_result = SSL_get_verify_result(session);
}

void creactor_watch_refusals(void) {
  static int index = -1;
  if (index < 0) index = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, NULL, NULL, NULL, keep_refusal);
  refused_result = X509_V_OK;
}

long creactor_refusal(void) { return refused_result; }
