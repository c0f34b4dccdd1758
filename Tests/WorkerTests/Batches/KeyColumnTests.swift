// A key column that becomes a timestamp without a time zone while the worker knows the table.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct KeyColumnTests {
  /// What is live for an hour, and what tells that it still is. By the worker's zone it is due.
  @Test(arguments: [
    (
      "wraps-expired", "secret_wraps", "expires_at",
      SweeperTests.wrap + " VALUES ('live', '', '', '', 'k', '', 0, now() + interval '1 hour', NULL, NULL)",
      "SELECT key_name FROM secret_wraps"
    ),
    (
      "agents-stale", "agents", "last_seen_at",
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('live', '', now())",
      "SELECT name FROM agents WHERE status = 'active'"
    ),
    (
      "reveal-sessions-expired", "reveal_sessions", "expires_at",
      RevealRows.sessionWithWraps("live", expiry: "now() + interval '1 hour'"), RevealRows.open
    ),
  ])
  func nothingIsDueByAKeyOfAnotherType(
    name: String, table: String, key: String, live: String, left: String
  ) async throws {
    let plane = try await ControlPlane.fresh()
    let database = try await plane.sql("SELECT current_database()")
    try await plane.sql("ALTER DATABASE \"\(database)\" SET timezone = 'Asia/Kolkata'")
    try await plane.sql(live)
    let sweeper = try #require(Sweepers.declared(try plane.settings()).first { $0.name == name })
    let memory = try await onLoop { TableMemory() }
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      let first = try await plane.sweep(sweeper, through: pool, knowing: memory)
      #expect(first.changed == 0)
      // In this session's zone nothing is written anew, so that the table's file and size are what they were.
      try await plane.sql("SET timezone = 'UTC'; ALTER TABLE \(table) ALTER \(key) TYPE timestamp")
      let refusal = await #expect(throws: SweepRefusal.self) {
        try await plane.sweep(sweeper, through: pool, knowing: memory)
      }
      #expect(refusal == .unusableKey("\(key) is timestamp without time zone", table: "public.\(table)"))
      #expect(try await plane.sql(left) == "live")
      await pool.close()
    }
  }
}
