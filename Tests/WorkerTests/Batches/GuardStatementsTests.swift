// The guard's statements on a real server, in isolation: what its deadline on the server's clock permits and prevents.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct GuardStatementsTests {
  static let insert = """
    INSERT INTO agents (name, secret_hash) SELECT 'written', '' WHERE \(CatalogSQL.qualified(GuardStatements.filter))
    """

  /// The opening statement, with its deadline this many ms from now on PostgreSQL's clock.
  @EventLoop
  private func opening(
    _ connection: PostgresConnection, milliseconds: Int64, text: String = GuardStatements.open
  ) async throws -> PostgresStatement {
    let limit = LoopClock.system.now.advanced(by: .seconds(10))
    let time = try await connection.query(PostgresStatement(GuardStatements.clock), by: limit)
    let now = try #require(time[row: 0, column: 0].flatMap { Int64($0) })
    return PostgresStatement(text, ["\(now + milliseconds * 1_000)", "a run 7", nil, "0", "42"])
  }

  private func withConnection(
    _ plane: ControlPlane,
    _ body: @escaping @EventLoop @Sendable (PostgresConnection, MonotonicInstant) async throws -> Void
  ) async throws {
    try await onLoop {
      let pool = try plane.pool()
      let limit = LoopClock.system.now.advanced(by: .seconds(15))
      try await pool.withConnection(by: limit) { try await body($0, limit) }
      await pool.close()
    }
  }

  @Test func whatIsWrittenInTimeIsCommittedAndTheGuardIsReadBack() async throws {
    let plane = try await ControlPlane.fresh()
    try await withConnection(plane) { connection, limit in
      let open = try await opening(connection, milliseconds: 5_000)
      let results = try await connection.pipeline(
        [open, PostgresStatement(Self.insert), PostgresStatement(GuardStatements.close)], by: limit)
      #expect(results[0][row: 0, column: 0] == "t")
      #expect(results[2][row: 0, column: 0] == "true" || results[2][row: 0, column: 0] == "t")
    }
    #expect(try await plane.sql("SELECT name FROM agents") == "written")
  }

  @Test func aBatchThatArrivesAfterItsDeadlineWritesNothing() async throws {
    let plane = try await ControlPlane.fresh()
    try await withConnection(plane) { connection, limit in
      let open = try await opening(connection, milliseconds: -1)
      let error = await #expect(throws: PostgresError.self) {
        try await connection.pipeline(
          [open, PostgresStatement(Self.insert), PostgresStatement(GuardStatements.close)], by: limit)
      }
      #expect(error?.sqlState != nil)
    }
    #expect(try await plane.sql("SELECT count(*) FROM agents") == "0")
  }

  /// No single statement reaches its timeout, but together they pass the deadline.
  @Test func aBatchThatEndsAfterItsDeadlineIsRolledBack() async throws {
    let plane = try await ControlPlane.fresh()
    try await withConnection(plane) { connection, limit in
      let open = try await opening(connection, milliseconds: 600)
      let nap = PostgresStatement("SELECT pg_sleep(0.4)")
      let error = await #expect(throws: PostgresError.self) {
        try await connection.pipeline(
          [open, PostgresStatement(Self.insert), nap, nap, PostgresStatement(GuardStatements.close)], by: limit)
      }
      #expect(error?.sqlState == GuardStatements.pastDeadlineState)
    }
    #expect(try await plane.sql("SELECT count(*) FROM agents") == "0")
  }

  @Test func aStatementThatIsStuckIsCancelledAtTheDeadline() async throws {
    let plane = try await ControlPlane.fresh()
    try await withConnection(plane) { connection, limit in
      let open = try await opening(connection, milliseconds: 300)
      let error = await #expect(throws: PostgresError.self) {
        try await connection.pipeline([open, PostgresStatement("SELECT pg_sleep(60)")], by: limit)
      }
      #expect(error?.sqlState == "57014")
    }
  }

  private static func serverVersion() async throws -> Int {
    Int(try await PrivatePostgres.shared.psql("SHOW server_version_num").filter(\.isNumber)) ?? 0
  }

  /// What a client leaves that froze in the middle of a pipeline: a transaction in which no statement runs.
  @Test(
    .enabled("from PostgreSQL 17 on, which has transaction_timeout") {
      try await serverVersion() >= GuardStatements.transactionTimeoutVersion
    })
  func aTransactionThatStandsStillIsEndedByTheServerShortlyAfterItsDeadline() async throws {
    let plane = try await ControlPlane.fresh()
    try await withConnection(plane) { connection, limit in
      let open = try await opening(
        connection, milliseconds: 300, text: GuardStatements.openWithTransactionTimeout)
      _ = try await connection.query(PostgresStatement("BEGIN"), by: limit)
      _ = try await connection.query(open, by: limit)
      _ = try await connection.query(PostgresStatement(Self.insert), by: limit)
      try await eventually("the session is gone") {
        try await plane.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'a run 7'") == "0"
      }
      let error = await #expect(throws: PostgresError.self) {
        try await connection.query(PostgresStatement("COMMIT"), by: limit)
      }
      // The server's last words, unless the connection has read them while nobody asked anything.
      let unasked = PostgresError.connectionLost(reason: "connection closed")
      #expect(error?.sqlState == GuardStatements.transactionTimeoutState || error == unasked)
    }
    #expect(try await plane.sql("SELECT count(*) FROM agents") == "0")
  }
}
