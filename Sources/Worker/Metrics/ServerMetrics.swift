// What the worker's connections to its servers do, as metrics read when they are rendered.

import Reactor

/// The metrics of both servers' connections.
@EventLoop
enum ServerMetrics {
  static func register(_ pool: PostgresPool, _ redis: RedisClient, in registry: MetricsRegistry) {
    registry.gauge("worker_postgres_connected", help: "Whether PostgreSQL answered when it was last asked.") {
      pool.outage == nil ? 1 : 0
    }
    registry.gauge("worker_postgres_connections", help: "Open connections to PostgreSQL.") {
      Double(pool.statistics.open)
    }
    registry.counter("worker_postgres_connects_total", help: "Connections to PostgreSQL that were opened.") {
      Double(pool.statistics.connectsTotal)
    }
    registry.counter("worker_postgres_connect_failures_total", help: "Connections to PostgreSQL that failed to open.") {
      Double(pool.statistics.failedConnects)
    }
    registry.counter("worker_postgres_connections_lost_total", help: "Connections to PostgreSQL that broke.") {
      Double(pool.statistics.lost)
    }
    registry.gauge("worker_redis_connected", help: "Whether Redis took a write when it was last asked.") {
      redis.outage == nil ? 1 : 0
    }
    registry.counter("worker_redis_reconnects_total", help: "Connections to Redis that became ready after the first.") {
      Double(redis.statistics.reconnects)
    }
    registry.counter("worker_redis_timeouts_total", help: "Commands to Redis that were not answered in time.") {
      Double(redis.statistics.timeouts)
    }
  }
}
