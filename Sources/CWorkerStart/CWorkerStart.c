// What the worker does before main. Linked by its executable only: a program that merely uses the Reactor library keeps
// the signal mask that it was given.
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

// The kernel drops a signal for process 1 of a namespace while nothing handles it, so a SIGTERM that comes while the
// program starts would be lost. A SIGHUP would end any other process that is to reload. Blocked ones wait; the loop's
// watchers unblock them once they are there. A command other than `run` has no watchers.
static void hold_signals(int count, char **arguments) {
  const bool serves = count == 1 || (count == 2 && strcmp(arguments[1], "run") == 0);
  const bool isFirst = getpid() == 1;
  if (!serves && !isFirst) return;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGHUP);
  if (isFirst) {
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
  }
  sigprocmask(SIG_BLOCK, &signals, NULL);
}

// Before the constructors of the libraries, some of which take milliseconds.
__attribute__((section(".preinit_array"), used)) static void (*const hold_signals_first)(int, char **) = hold_signals;
