// Counts a process's allocations from inside: loaded by LD_PRELOAD, it wraps the C library's functions.
// Invariant: it allocates nothing itself. On SIGUSR1 it writes the counts to the file that ALLOCATIONS names, as
// "allocations bytes frees", the counts since the start. Compiled as a shared object by Tests/Measure.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static unsigned long allocations, bytes, frees;

// The handler runs on the only thread that counts, between two instructions, so the counts are consistent.
static void report(int number) {
  char line[128];
  int saved = errno;
  const char *path = getenv("ALLOCATIONS");
  int length = snprintf(line, sizeof line, "%lu %lu %lu\n", allocations, bytes, frees);
  int file = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file >= 0 && write(file, line, (size_t)length) != length) abort();
  if (file >= 0) close(file);
  (void)number;
  errno = saved;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_handler = report, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
}

static void *counted(void *memory, size_t size) {
  allocations++;
  bytes += size;
  return memory;
}

void *malloc(size_t size) { return counted(__libc_malloc(size), size); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size), count * size); }
void *realloc(void *memory, size_t size) { return counted(__libc_realloc(memory, size), size); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size), size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **memory, size_t alignment, size_t size) {
  *memory = memalign(alignment, size);
  return *memory == NULL ? ENOMEM : 0;
}

void free(void *memory) {
  if (memory != NULL) frees++;
  __libc_free(memory);
}
