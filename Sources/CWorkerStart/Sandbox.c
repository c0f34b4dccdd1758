// What the process gives up, so that whoever has taken it over through a fault gains little: core dumps and privileges
// at first, system calls and files once everything is loaded. docs/security.md has the table.
//
// A refused call fails with EPERM rather than killing the process: a library that tries something new after an update
// then falls back on something else, and an attacker gets no further. Calls that are newer than this list fail with
// ENOSYS, as on a kernel without them, for which libraries have a way around; io_uring and clone3 are among them.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // O_PATH, statx
#endif
#include "CWorkerStart.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/sockios.h>
#include <unistd.h>

// A sanitizer's run time needs more, at the end of the process for instance.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif

#if defined(__x86_64__)
#define OUR_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

// ---- At the start of main ----

void worker_give_up_dumps(void) {
#ifndef IS_SANITIZED
  const char *setting = getenv("SB_WORKER_SANDBOX");
  if (setting != NULL && strcmp(setting, "off") == 0) return;
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#endif
}

// ---- System calls ----

// What glibc, Swift's runtime, libev, libpq, hiredis, c-ares, libcurl and OpenSSL use once the program runs, in error
// paths too; the most frequent first. Harmless relatives of a call are here as well, for other versions of the
// libraries.
static const int allowed_calls[] = {
    SYS_epoll_pwait, SYS_epoll_ctl, SYS_read, SYS_write, SYS_recvfrom, SYS_sendto, SYS_close, SYS_accept4, SYS_ppoll,
    SYS_connect, SYS_getsockopt, SYS_setsockopt, SYS_recvmsg, SYS_sendmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_shutdown,
    SYS_getsockname, SYS_getpeername, SYS_accept, SYS_bind, SYS_socketpair, SYS_readv, SYS_writev, SYS_pread64,
    SYS_pselect6, SYS_epoll_create1, SYS_eventfd2, SYS_pipe2, SYS_timerfd_create, SYS_timerfd_settime, SYS_signalfd4,
    SYS_fcntl, SYS_dup, SYS_dup3, SYS_lseek, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_statfs,
    SYS_faccessat, SYS_readlinkat, SYS_getdents64, SYS_getcwd,
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_membarrier, SYS_sched_yield, SYS_sched_getaffinity,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_sigaltstack,
    SYS_restart_syscall, SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday,
    SYS_getrandom, SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
    SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_uname, SYS_sysinfo, SYS_getrusage, SYS_getcpu, SYS_times,
    SYS_set_robust_list, SYS_set_tid_address, SYS_wait4, SYS_exit, SYS_exit_group,
#ifdef SYS_getrlimit
    SYS_getrlimit,
#endif
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
#ifdef SYS_poll
    SYS_poll, SYS_select,
#endif
#ifdef SYS_stat
    SYS_stat, SYS_lstat, SYS_access, SYS_readlink,
#endif
#ifdef SYS_time
    SYS_time,
#endif
#ifdef SYS_pipe
    SYS_pipe, SYS_dup2, SYS_epoll_create, SYS_eventfd,
#endif
#ifdef SYS_rseq
    SYS_rseq,
#endif
#ifdef SYS_faccessat2
    SYS_faccessat2,
#endif
};

enum { allowed_count = sizeof allowed_calls / sizeof *allowed_calls };

// From this number on, all architectures have the same calls: Linux 5.1 and later.
enum { first_recent_call = 424 };

// A filter under construction.
struct filter {
  struct sock_filter code[2 * allowed_count + 96];
  unsigned short length;
};

static void add(struct filter *filter, struct sock_filter instruction) { filter->code[filter->length++] = instruction; }

static void load(struct filter *filter, size_t offset) {
  add(filter, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

// The word of an argument that the kernel looks at where the argument is an int.
static void load_argument(struct filter *filter, int index) {
  load(filter, offsetof(struct seccomp_data, args) + 8 * (size_t)index);
}

static void load_number(struct filter *filter) { load(filter, offsetof(struct seccomp_data, nr)); }

static void end_with(struct filter *filter, uint32_t action) {
  add(filter, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

enum { refused = SECCOMP_RET_ERRNO | EPERM, unknown = SECCOMP_RET_ERRNO | ENOSYS };

// Ends with the action if the loaded word is the value.
static void end_if(struct filter *filter, uint32_t value, uint32_t action) {
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
  end_with(filter, action);
}

// The rule for one call: its instructions follow, and are skipped for other calls once `close_rule` has run.
static unsigned short open_rule(struct filter *filter, int call) {
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 0));
  return filter->length - 1;
}

static void close_rule(struct filter *filter, unsigned short opening, uint32_t otherwise) {
  end_with(filter, otherwise);
  filter->code[opening].jf = (uint8_t)(filter->length - opening - 1);
}

// Allowed if none of the bits of an argument is set.
static void allow_without_bits(struct filter *filter, int call, int index, uint32_t bits) {
  unsigned short opening = open_rule(filter, call);
  load_argument(filter, index);
  add(filter, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits));
  end_if(filter, 0, SECCOMP_RET_ALLOW);
  close_rule(filter, opening, refused);
}

// Connections, datagrams to name servers, and the kernel's list of this host's addresses. No raw packets, and no other
// protocol: most of the kernel's network code is never reached.
static void add_sockets(struct filter *filter) {
  unsigned short opening = open_rule(filter, SYS_socket);
  load_argument(filter, 0);
  // Netlink: its protocol 0 lists addresses. The four instructions after the jump are skipped for other families.
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 0, 4));
  load_argument(filter, 2);
  end_if(filter, 0, SECCOMP_RET_ALLOW);
  end_with(filter, refused);
  end_if(filter, AF_UNIX, SECCOMP_RET_ALLOW);
  // Either family goes on behind the refusal.
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0));
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 1, 0));
  end_with(filter, refused);
  load_argument(filter, 1);
  add(filter, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf));
  end_if(filter, SOCK_STREAM, SECCOMP_RET_ALLOW);
  end_if(filter, SOCK_DGRAM, SECCOMP_RET_ALLOW);
  close_rule(filter, opening, refused);
}

// Memory is writable or executable, never both, and what was written is never executed: libraries are mapped from
// files.
static void add_mappings(struct filter *filter) {
  unsigned short opening = open_rule(filter, SYS_mmap);
  load_argument(filter, 2);
  add(filter, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, PROT_WRITE | PROT_EXEC));
  end_if(filter, PROT_WRITE | PROT_EXEC, refused);
  close_rule(filter, opening, SECCOMP_RET_ALLOW);
  allow_without_bits(filter, SYS_mprotect, 2, PROT_EXEC);
}

static void add_files(struct filter *filter) {
  // glibc hides the first name.
  const uint32_t writing = O_ACCMODE | O_CREAT | O_TRUNC | 020000000 /* __O_TMPFILE */;
  allow_without_bits(filter, SYS_openat, 2, writing);
#ifdef SYS_open
  allow_without_bits(filter, SYS_open, 1, writing);
#endif
}

static void add_others(struct filter *filter) {
  // No typing into a terminal (TIOCSTI), no settings of network interfaces.
  unsigned short opening = open_rule(filter, SYS_ioctl);
  load_argument(filter, 1);
  end_if(filter, FIONREAD, SECCOMP_RET_ALLOW);
  end_if(filter, FIONBIO, SECCOMP_RET_ALLOW);
  end_if(filter, SIOCOUTQ, SECCOMP_RET_ALLOW);
  end_if(filter, TCGETS, SECCOMP_RET_ALLOW);
  end_if(filter, SIOCGIFNAME, SECCOMP_RET_ALLOW);
  end_if(filter, SIOCGIFINDEX, SECCOMP_RET_ALLOW);
  close_rule(filter, opening, refused);
  // abort, and what ends a trapped program: signals to this process alone.
  opening = open_rule(filter, SYS_tgkill);
  load_argument(filter, 0);
  end_if(filter, (uint32_t)getpid(), SECCOMP_RET_ALLOW);
  close_rule(filter, opening, refused);
  // getrlimit: a null pointer to new limits, in both of its words.
  opening = open_rule(filter, SYS_prlimit64);
  load_argument(filter, 2);
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3));
  load(filter, offsetof(struct seccomp_data, args) + 8 * 2 + 4);
  end_if(filter, 0, SECCOMP_RET_ALLOW);
  close_rule(filter, opening, refused);
}

static int confine_calls(void) {
#ifdef OUR_ARCHITECTURE
  struct filter filter = {.length = 0};
  load(&filter, offsetof(struct seccomp_data, arch));
  add(&filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCHITECTURE, 1, 0));
  end_with(&filter, SECCOMP_RET_KILL_PROCESS);
  load_number(&filter);
#ifdef __x86_64__
  // The x32 calls have the same numbers and this bit; nothing of ours uses them.
  add(&filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1));
  end_with(&filter, SECCOMP_RET_KILL_PROCESS);
#endif
  for (int index = 0; index < allowed_count; index++) {
    end_if(&filter, (uint32_t)allowed_calls[index], SECCOMP_RET_ALLOW);
  }
  add_sockets(&filter);
  add_mappings(&filter);
  add_files(&filter);
  add_others(&filter);
  add(&filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first_recent_call, 0, 1));
  end_with(&filter, unknown);
  end_with(&filter, refused);
  struct sock_fprog program = {.len = filter.length, .filter = filter.code};
  // Without the flag, kernels before 5.16 would also slow down every load in the process (speculative store bypass).
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) == 0) return 1;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
#else
  return 0;
#endif
}

// ---- Files ----

// Landlock's interface is the same on all architectures, and newer than some systems' headers.
enum {
  create_ruleset = 444,
  add_rule = 445,
  restrict_self = 446,
  create_ruleset_version = 1,
  rule_path_beneath = 1,
  may_read_file = 1 << 2,
  may_read_directory = 1 << 3,
};

struct ruleset_attributes {
  uint64_t file_rights;
  uint64_t network_rights;
};

struct path_attributes {
  uint64_t rights;
  int32_t directory;
} __attribute__((packed));

int worker_sandbox_open(void) {
#ifdef IS_SANITIZED
  return -1;
#endif
  long version = syscall(create_ruleset, NULL, 0, create_ruleset_version);
  if (version < 1) return -1;
  // Every right to files that the kernel knows: 13 at first, then moving files, truncating them, and devices' ioctl.
  int count = 13 + (version >= 2) + (version >= 3) + (version >= 5);
  // Since version 4: listening on a TCP port. The listener is there already.
  struct ruleset_attributes attributes = {.file_rights = (UINT64_C(1) << count) - 1, .network_rights = 1};
  size_t size = version >= 4 ? sizeof attributes : sizeof attributes.file_rights;
  return (int)syscall(create_ruleset, &attributes, size, 0);
}

// A path that does not exist needs no permission.
static void allow_reading(int rules, const char *path) {
  int place = open(path, O_PATH | O_CLOEXEC);
  if (place < 0) return;
  struct stat status;
  if (fstat(place, &status) == 0) {
    uint64_t rights = S_ISDIR(status.st_mode) ? may_read_file | may_read_directory : may_read_file;
    struct path_attributes attributes = {.rights = rights, .directory = place};
    syscall(add_rule, rules, rule_path_beneath, &attributes, 0);
  }
  close(place);
}

// The directory that a file is in, unless that is the root: a file that is replaced has a new identity, and rules are
// about identities.
static void allow_directory(int rules, const char *path) {
  char directory[PATH_MAX];
  const char *slash = strrchr(path, '/');
  if (slash == NULL || slash == path || (size_t)(slash - path) >= sizeof directory) return;
  memcpy(directory, path, (size_t)(slash - path));
  directory[slash - path] = 0;
  // The password file is in it, and so is much else.
  const char *home = getenv("HOME");
  if (home != NULL && strcmp(directory, home) == 0) return;
  allow_reading(rules, directory);
}

// Where a directory's links lead: OpenSSL finds certificates by links that are named after their digests.
static void allow_linked(int rules, const char *path) {
  enum { entry_limit = 4096 };
  DIR *directory = opendir(path);
  if (directory == NULL) return;
  char last[PATH_MAX] = "";
  struct dirent *entry;
  for (int count = 0; count < entry_limit && (entry = readdir(directory)) != NULL; count++) {
    if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN) continue;
    char link[PATH_MAX];
    if (snprintf(link, sizeof link, "%s/%s", path, entry->d_name) >= (int)sizeof link) continue;
    char target[PATH_MAX];
    if (realpath(link, target) == NULL) continue;
    size_t length = (size_t)(strrchr(target, '/') - target);
    // Most lead to one place.
    if (strncmp(target, last, length) == 0 && last[length] == 0) continue;
    allow_directory(rules, target);
    memcpy(last, target, length);
    last[length] = 0;
  }
  closedir(directory);
}

void worker_sandbox_allow(int rules, const char *path) {
  if (rules < 0) return;
  allow_reading(rules, path);
  struct stat status;
  if (stat(path, &status) != 0) return;
  if (S_ISDIR(status.st_mode)) return allow_linked(rules, path);
  allow_directory(rules, path);
  // Kubernetes' files are links to links: /tls/ca.pem, /tls/..data, /tls/..2026_01_01.
  char *target = realpath(path, NULL);
  if (target != NULL) allow_directory(rules, target);
  free(target);
}

// A plain file of /etc is changed by putting another one in its place. A link is not, and neither is a file that a
// container's run time has mounted.
static int is_replaced_in_place(const char *path) {
  struct statx status;
  if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &status) != 0 || !S_ISREG(status.stx_mode)) return 0;
  return (status.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) == 0 ||
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0;
}

// Where the resolver's file is, if /etc has a link to it. One that leads nowhere yet, because the worker starts before
// what writes the file, leads into the nearest directory that is there.
static void allow_resolver(int rules) {
  char place[PATH_MAX];
  if (realpath("/etc/resolv.conf", place) != NULL) {
    if (strncmp(place, "/etc/", 5) != 0) allow_directory(rules, place);
    return;
  }
  char link[PATH_MAX];
  ssize_t length = readlink("/etc/resolv.conf", link, sizeof link - 1);
  if (length <= 0) return;
  link[length] = 0;
  char path[2 * PATH_MAX];
  snprintf(path, sizeof path, "%s%s", link[0] == '/' ? "" : "/etc/", link);
  char *slash;
  while ((slash = strrchr(path, '/')) != NULL && slash != path) {
    *slash = 0;
    if (realpath(path, place) == NULL) continue;
    if (strcmp(place, "/") != 0) allow_reading(rules, place);
    return;
  }
}

// What the libraries read: certificates, the resolver's files, accounts, their own parts, and this process's figures.
static void allow_system_files(int rules) {
  static const char *const places[] = {
      "/usr", "/lib", "/lib64", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/nsswitch.conf", "/etc/host.conf",
      "/etc/gai.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/passwd", "/etc/group", "/etc/services", "/etc/protocols",
      "/etc/localtime", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/krb5.conf",
      "/etc/krb5.conf.d", "/etc/gss", "/etc/ldap", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
      "/proc", "/dev/null", "/dev/urandom", "/dev/random",
  };
  for (size_t index = 0; index < sizeof places / sizeof *places; index++) allow_reading(rules, places[index]);
  if (is_replaced_in_place("/etc/resolv.conf") || is_replaced_in_place("/etc/hosts")) allow_reading(rules, "/etc");
  allow_resolver(rules);
}

int worker_sandbox_enforce(int rules) {
#ifdef IS_SANITIZED
  return 0;
#endif
  int parts = 0;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 0;
  if (rules >= 0) {
    allow_system_files(rules);
    if (syscall(restrict_self, rules, 0) == 0) parts |= WORKER_SANDBOX_FILES;
    close(rules);
  }
  if (confine_calls()) parts |= WORKER_SANDBOX_CALLS;
  return parts;
}
