// What the worker does before main. Linked by its executable only: a program that merely uses the Reactor library keeps
// the signal mask that it was given.
#include <signal.h>
#include <unistd.h>

// The kernel drops a signal for process 1 of a namespace while nothing handles it, so a SIGTERM that comes while the
// program starts would be lost. Blocked ones wait; the loop's watchers unblock them once they are there.
static void hold_signals(void) {
  if (getpid() != 1) return;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  sigprocmask(SIG_BLOCK, &signals, NULL);
}

// Before the constructors of the libraries, some of which take milliseconds.
__attribute__((section(".preinit_array"), used)) static void (*const hold_signals_first)(void) = hold_signals;
