// What the process does before main, for which linking the target is enough, and what it gives up after that.

#ifndef CWORKERSTART_H
#define CWORKERSTART_H

/// Parts of the sandbox.
enum {
  /// Only the system calls that the worker needs (seccomp).
  WORKER_SANDBOX_CALLS = 1,
  /// No file but those that were allowed, and those only for reading (Landlock).
  WORKER_SANDBOX_FILES = 2,
};

/// Gives up core dumps, which would hold credentials, being read by other processes of the same user, and privileges
/// that a program could gain. Does nothing if SB_WORKER_SANDBOX is `off`.
void worker_give_up_dumps(void);

/// Begins a list of the files that stay readable; negative if the kernel does not offer it, which `allow` and `enforce`
/// accept.
int worker_sandbox_open(void);

/// Leaves a directory and all below it readable, or a file and the directory that it is in.
void worker_sandbox_allow(int rules, const char *path);

/// Confines the process, for ever, to the files allowed and those of the system, and to the system calls that it needs.
/// Call it when everything is loaded and the listener is there, in a process with one thread.
///
/// Returns the parts that the kernel has put into effect.
int worker_sandbox_enforce(int rules);

#endif
