// The wall clock of a server under test, which a test can step: preloaded, it adds to the time of day what a file says.
// Monotonic clocks stay as they are. (libfaketime does the same, and hangs in programs that allocate with jemalloc.)

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// In seconds, eight bytes in the host's order.
static const volatile long long *offset;

__attribute__((constructor)) static void find_offset(void) {
  const char *path = getenv("STEPPED_CLOCK_FILE");
  int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (descriptor < 0) return;
  void *page = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (page != MAP_FAILED) offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int status = (int)syscall(SYS_clock_gettime, clock, now);
  if (status == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  int status = clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return status;
}

time_t time(time_t *copy) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (copy) *copy = precise.tv_sec;
  return precise.tv_sec;
}
