// Metrics of the connections to the servers, read when they are rendered.

import Reactor

/// The metrics of both servers' connections.
@EventLoop
enum ServerMetrics {
  static func register(_ pool: PostgresPool, _ redis: any RedisBackend, in registry: MetricsRegistry) {
    registry.gauge("worker_postgres_connected", help: "1 if PostgreSQL answered the last check, else 0.") {
      pool.outage == nil ? 1 : 0
    }
    registry.gauge("worker_postgres_connections", help: "Open PostgreSQL connections.") {
      Double(pool.statistics.open)
    }
    registry.counter("worker_postgres_connects_total", help: "PostgreSQL connections opened.") {
      Double(pool.statistics.connectsTotal)
    }
    registry.counter("worker_postgres_connect_failures_total", help: "Failed attempts to connect to PostgreSQL.") {
      Double(pool.statistics.failedConnects)
    }
    registry.counter("worker_postgres_connections_lost_total", help: "PostgreSQL connections lost.") {
      Double(pool.statistics.lost)
    }
    registry.gauge("worker_redis_connected", help: "1 if Redis accepted the last write check, else 0.") {
      redis.outage == nil ? 1 : 0
    }
    registry.counter("worker_redis_reconnects_total", help: "Reconnects to Redis.") {
      Double(redis.statistics.reconnects)
    }
    registry.counter("worker_redis_timeouts_total", help: "Redis commands that timed out.") {
      Double(redis.statistics.timeouts)
    }
  }
}
