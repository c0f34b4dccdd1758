// Starts the worker and measures it from outside: when it was ready, how many threads it had.
// Invariant: the worker ends with it. Compiled and called by Tests/Measure.
//
//   measure ready PORT COMMAND...     milliseconds from before the exec to the first 200 of /readyz on 127.0.0.1:PORT
//   measure said TEXT COMMAND...      milliseconds from before the exec until it writes TEXT to stderr
//   measure requests PORT PATH COUNT  sends COUNT requests over one connection, one at a time
//   measure threads FILE COMMAND...   writes the maximum number of threads and the number of samples to FILE at the
//                                     end; SIGTERM is passed on to the worker

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t worker;

static void forward(int signal) { kill(worker, signal); }

static double now_milliseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void start(char **command) {
  worker = fork();
  if (worker < 0) exit(1);
  if (worker > 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  execv(command[0], command);
  perror(command[0]);
  _exit(127);
}

// Asks once. Any fault counts as no answer yet.
static int is_ready(int port) {
  static const char request[] = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct timeval limit = {.tv_sec = 3};
  char answer[16] = "";
  int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0 &&
      send(descriptor, request, sizeof request - 1, MSG_NOSIGNAL) == sizeof request - 1) {
    recv(descriptor, answer, sizeof answer - 1, MSG_WAITALL);
  }
  close(descriptor);
  return strncmp(answer, "HTTP/1.1 200", 12) == 0;
}

static int measure_ready(int port, char **command) {
  double began = now_milliseconds();
  start(command);
  while (!is_ready(port)) {
    if (now_milliseconds() - began > 30e3 || waitpid(worker, NULL, WNOHANG) != 0) {
      fprintf(stderr, "measure: the worker did not get ready\n");
      kill(worker, SIGKILL);
      waitpid(worker, NULL, 0);
      return 1;
    }
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
  }
  printf("%.2f\n", now_milliseconds() - began);
  kill(worker, SIGTERM);
  int status = 0;
  waitpid(worker, &status, 0);
  return status == 0 ? 0 : 1;
}

// Does not use the probes, because polling costs time: for the floor, which has none, and for the worker beside it.
static int measure_said(const char *text, char **command) {
  static char output[65536];
  size_t length = 0;
  int pipes[2], status = 0;
  if (pipe(pipes) != 0) return 1;
  double began = now_milliseconds();
  worker = fork();
  if (worker < 0) return 1;
  if (worker == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(pipes[1], STDERR_FILENO);
    execv(command[0], command);
    _exit(127);
  }
  close(pipes[1]);
  while (strstr(output, text) == NULL) {
    ssize_t got = read(pipes[0], output + length, sizeof output - 1 - length);
    if (got <= 0) {
      fprintf(stderr, "measure: it ended or wrote too much before it said %s: %s\n", text, output);
      kill(worker, SIGKILL);
      waitpid(worker, NULL, 0);
      return 1;
    }
    length += (size_t)got;
  }
  printf("%.2f\n", now_milliseconds() - began);
  kill(worker, SIGTERM);
  waitpid(worker, &status, 0);
  return 0;
}

// Sends one request and reads the response; false if there is none.
static int request_once(int descriptor, const char *request) {
  static char answer[1 << 20];
  size_t length = 0, wanted = sizeof answer;
  if (send(descriptor, request, strlen(request), MSG_NOSIGNAL) < 0) return 0;
  while (length < wanted) {
    ssize_t got = recv(descriptor, answer + length, sizeof answer - 1 - length, 0);
    if (got <= 0) return 0;
    length += (size_t)got;
    answer[length] = 0;
    char *end = strstr(answer, "\r\n\r\n"), *field = strstr(answer, "Content-Length: ");
    if (end != NULL && field != NULL) wanted = (size_t)(end + 4 - answer + atol(field + 16));
  }
  return length == wanted;
}

static int measure_requests(int port, const char *path, long count) {
  char request[512];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
  if (connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0) return 1;
  for (long number = 0; number < count; number++) {
    if (!request_once(descriptor, request)) return 1;
  }
  close(descriptor);
  return 0;
}

static int thread_count(void) {
  char path[64], line[256];
  int count = 0;
  snprintf(path, sizeof path, "/proc/%d/status", (int)worker);
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL && sscanf(line, "Threads: %d", &count) != 1) continue;
  fclose(file);
  return count;
}

static int measure_threads(const char *result, char **command) {
  int most = 0, status = 0;
  long samples = 0;
  start(command);
  signal(SIGTERM, forward);
  signal(SIGINT, forward);
  while (waitpid(worker, &status, WNOHANG) == 0) {
    int count = thread_count();
    if (count > most) most = count;
    samples++;
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
  }
  FILE *file = fopen(result, "w");
  if (file == NULL) return 1;
  fprintf(file, "%d %ld\n", most, samples);
  fclose(file);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int count, char **arguments) {
  if (count >= 4 && strcmp(arguments[1], "ready") == 0) return measure_ready(atoi(arguments[2]), arguments + 3);
  if (count >= 4 && strcmp(arguments[1], "threads") == 0) return measure_threads(arguments[2], arguments + 3);
  if (count >= 4 && strcmp(arguments[1], "said") == 0) return measure_said(arguments[2], arguments + 3);
  if (count == 5 && strcmp(arguments[1], "requests") == 0) {
    return measure_requests(atoi(arguments[2]), arguments[3], atol(arguments[4]));
  }
  fprintf(stderr, "usage: measure ready|said|requests|threads ...\n");
  return 64;
}
