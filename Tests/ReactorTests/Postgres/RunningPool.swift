// A pool that runs, and what it tells of the server.

import TestSupport

@testable import Reactor

@EventLoop
final class PostgresChanges {
  var list: [ServerAvailability] = []
}

@EventLoop
func withRunningPool(
  _ url: String, connectTimeout: Duration = .seconds(10), clock: LoopClock = .system,
  _ body: @escaping @EventLoop (PostgresPool, PostgresChanges) async throws -> Void
) async throws {
  let configuration = try PostgresConfiguration(url: url, applicationName: "health test")
  let pool = PostgresPool(
    configuration, maximumConnections: 2, connectionLifetime: .seconds(1800), connectTimeout: connectTimeout,
    clock: clock)
  let changes = PostgresChanges()
  pool.onStateChange = { changes.list.append($0) }
  try await withThrowingTaskGroup { group in
    group.addTask { await pool.run() }
    try await body(pool, changes)
    group.cancelAll()
  }
}
