// Confines itself as the worker does, tries what an attacker would, and prints a line for each attempt: its name and
// "ok" or the error's number. Compiled together with Sources/CWorkerStart/Sandbox.c by SandboxTests.
#include <CWorkerStart.h>

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int map_page(int protection) {
  return mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static void report(const char *name, long result) {
  if (result < 0) {
    printf("%s %d\n", name, errno);
  } else {
    printf("%s ok\n", name);
  }
  fflush(stdout);
}

static void *nothing(void *argument) { return argument; }

// The arguments: a directory that is allowed, with a file "allowed" in it, a file that is not, and perhaps a directory
// of links that is allowed, with a link "linked" in it.
int main(int count, char **arguments) {
  if (count < 3) return 64;
  char allowed[4096];
  snprintf(allowed, sizeof allowed, "%s/allowed", arguments[1]);
  char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  worker_give_up_dumps();
  int rules = worker_sandbox_open();
  worker_sandbox_allow(rules, allowed);
  char linked[4096] = "";
  if (count > 3) {
    worker_sandbox_allow(rules, arguments[3]);
    snprintf(linked, sizeof linked, "%s/linked", arguments[3]);
  }
  printf("parts %d\n", worker_sandbox_enforce(rules));
  struct rlimit core;
  report("no-dump-limit", getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0 ? 0 : -1);

  // What the worker does.
  report("read-allowed", open(allowed, O_RDONLY));
  report("read-linked", open(linked, O_RDONLY));
  report("read-library", open("/usr/bin/env", O_RDONLY));
  report("read-resolver", open("/etc/nsswitch.conf", O_RDONLY));
  report("read-statistics", open("/proc/self/stat", O_RDONLY));
  report("tcp", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  report("udp6", socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  report("unix", socket(AF_UNIX, SOCK_STREAM, 0));
  struct ifaddrs *addresses = NULL;
  report("addresses", getifaddrs(&addresses));
  report("map-memory", map_page(PROT_READ | PROT_WRITE));

  // What it does not.
  char *command[] = {"/usr/bin/env", NULL};
  report("execve", execv("/usr/bin/env", command));
  report("fork", fork());
  pthread_t thread;
  errno = pthread_create(&thread, NULL, nothing, NULL);
  report("thread", errno == 0 ? 0 : -1);
  report("packet", socket(AF_PACKET, SOCK_RAW, 0));
  report("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
  report("netlink-audit", socket(AF_NETLINK, SOCK_RAW, 9));
  report("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
  report("listen", listen(socket(AF_INET, SOCK_STREAM, 0), 1));
  report("read-secret", open(arguments[2], O_RDONLY));
  report("write-allowed", open(allowed, O_WRONLY));
  report("create", open("/tmp/sandboxed-made", O_CREAT | O_RDWR, 0600));
  report("unlink", unlink(allowed));
  report("write-execute", map_page(PROT_READ | PROT_WRITE | PROT_EXEC));
  report("make-executable", mprotect(page, 4096, PROT_READ | PROT_EXEC));
  report("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
  report("kill-other", kill(getppid(), 0));
  report("raise-limit", setrlimit(RLIMIT_CORE, &core));
  report("uring", syscall(425, 1, NULL));
  report("memory-file", syscall(SYS_memfd_create, "m", 0));
  report("namespace", syscall(SYS_unshare, 0x10000000));
  report("dumpable", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
  fflush(stdout);
  abort();
}
