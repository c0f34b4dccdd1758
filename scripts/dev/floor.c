// The floor: the cost of a program that links libpq, hiredis and libev, connects to both servers and only waits.
// Invariant: only the two connections and one query on each. Compiled and run by Tests/Measure.
//
//   floor    takes DATABASE_URL and REDIS_URL (redis://:password@address:port/number) as the worker does; writes
//            "ready" to stderr when both servers have answered, then waits until it is terminated

#define _GNU_SOURCE
#include <ev.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-function"
#include <hiredis/adapters/libev.h>
#pragma clang diagnostic pop
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static PGconn *connection;
static ev_io socket_watcher;
static int unanswered = 2;

static void fail(const char *what) {
  fprintf(stderr, "floor: %s\n", what);
  exit(1);
}

static void answered(void) {
  if (--unanswered == 0 && write(STDERR_FILENO, "ready\n", 6) != 6) exit(1);
}

static void watch(struct ev_loop *loop, int events) {
  ev_io_stop(loop, &socket_watcher);
  ev_io_set(&socket_watcher, PQsocket(connection), events);
  ev_io_start(loop, &socket_watcher);
}

static void query_step(struct ev_loop *loop, ev_io *watcher, int events) {
  (void)loop, (void)watcher, (void)events;
  if (!PQconsumeInput(connection)) fail(PQerrorMessage(connection));
  while (!PQisBusy(connection)) {
    PGresult *result = PQgetResult(connection);
    if (result == NULL) break;
    if (PQresultStatus(result) == PGRES_TUPLES_OK) answered();
    PQclear(result);
  }
}

static void connect_step(struct ev_loop *loop, ev_io *watcher, int events) {
  (void)watcher, (void)events;
  switch (PQconnectPoll(connection)) {
    case PGRES_POLLING_READING: watch(loop, EV_READ); break;
    case PGRES_POLLING_WRITING: watch(loop, EV_WRITE); break;
    case PGRES_POLLING_OK:
      if (!PQsendQuery(connection, "SELECT 1")) fail(PQerrorMessage(connection));
      ev_set_cb(&socket_watcher, query_step);
      watch(loop, EV_READ);
      break;
    default: fail(PQerrorMessage(connection));
  }
}

static void redis_answered(redisAsyncContext *context, void *reply, void *data) {
  (void)context, (void)data;
  if (reply == NULL || ((redisReply *)reply)->type == REDIS_REPLY_ERROR) fail("Redis refused");
  answered();
}

static void redis_accepted(redisAsyncContext *context, void *reply, void *data) {
  (void)context, (void)data;
  if (reply == NULL || ((redisReply *)reply)->type == REDIS_REPLY_ERROR) fail("Redis refused");
}

static void connect_redis(struct ev_loop *loop) {
  char password[256] = "", address[64] = "";
  int port = 0, number = 0;
  const char *url = getenv("REDIS_URL");
  if (url == NULL || (sscanf(url, "redis://:%255[^@]@%63[^:]:%d/%d", password, address, &port, &number) != 4)) {
    fail("REDIS_URL");
  }
  redisAsyncContext *context = redisAsyncConnect(address, port);
  if (context == NULL || context->err) fail("Redis");
  redisLibevAttach(loop, context);
  redisAsyncCommand(context, redis_accepted, NULL, "AUTH %s", password);
  redisAsyncCommand(context, redis_accepted, NULL, "SELECT %d", number);
  redisAsyncCommand(context, redis_answered, NULL, "PING");
}

int main(void) {
  struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL);
  const char *url = getenv("DATABASE_URL");
  if (url == NULL) fail("DATABASE_URL");
  connection = PQconnectStart(url);
  if (connection == NULL || PQstatus(connection) == CONNECTION_BAD) fail("PostgreSQL");
  ev_io_init(&socket_watcher, connect_step, PQsocket(connection), EV_WRITE);
  ev_io_start(loop, &socket_watcher);
  connect_redis(loop);
  ev_run(loop, 0);
  return 1;
}
