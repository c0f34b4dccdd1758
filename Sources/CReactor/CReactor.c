// What of the door to C needs a definition of its own; the door itself is include/CReactor.h.
#include "CReactor.h"

static int argument_count;
static char **argument_values;

// glibc gives its constructors what it gives main.
__attribute__((constructor)) static void keep_arguments(int count, char **values) {
  argument_count = count;
  argument_values = values;
}

int creactor_arguments(char ***values) {
  *values = argument_values;
  return argument_count;
}
