// One connection against a real server: results, pipelines, errors, deadlines, cancellation.

import TestSupport
import Testing

@testable import Reactor

@EventLoop
func soon(_ limit: Duration = .seconds(10)) -> MonotonicInstant {
  LoopClock.system.now.advanced(by: limit)
}

/// The error that `body` throws; a test fails where it throws none.
@EventLoop
func postgresError(_ body: @EventLoop () async throws -> Void) async -> PostgresError? {
  do {
    try await body()
    Issue.record("nothing was thrown")
    return nil
  } catch {
    if let error = error as? PostgresError { return error }
    Issue.record("not a PostgresError: \(error)")
    return nil
  }
}

@Suite struct PostgresConnectionTests {
  /// Runs `body` with a connection to a database of its own.
  private func connected(
    query: String = "", _ body: @escaping @EventLoop @Sendable (PostgresConnection) async throws -> Void
  ) async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase() + "?\(query)"
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "connection test")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      try await body(connection)
    }
  }

  @Test func aQueryReturnsItsRowsAsText() async throws {
    try await connected { connection in
      let result = try await connection.query(
        PostgresStatement("SELECT $1::int + 1, $2::text, $3::text", ["41", "grüße 🔑", nil]), by: soon())
      #expect(result.rowCount == 1)
      #expect(result.columnCount == 3)
      #expect(result[row: 0, column: 0] == "42")
      #expect(result[row: 0, column: 1] == "grüße 🔑")
      #expect(result[row: 0, column: 2] == nil)
      #expect(connection.backendPID > 0)
      #expect(connection.serverVersion >= 130_000)
    }
  }

  @Test func affectedRowsAreCounted() async throws {
    try await connected { connection in
      _ = try await connection.query(PostgresStatement("CREATE TABLE t (n int)"), by: soon())
      let insert = PostgresStatement("INSERT INTO t SELECT generate_series(1, 1234)")
      #expect(try await connection.query(insert, by: soon()).affectedRows == 1234)
      let delete = PostgresStatement("DELETE FROM t WHERE n > $1", ["1000"])
      #expect(try await connection.query(delete, by: soon()).affectedRows == 234)
    }
  }

  @Test func largeParametersAndResultsPass() async throws {
    try await connected { connection in
      let text = String(repeating: "0123456789abcdef", count: 512 * 1024)
      let result = try await connection.query(
        PostgresStatement("SELECT $1::text, length($1::text)", [text]), by: soon())
      #expect(result[row: 0, column: 0] == text)
      #expect(result[row: 0, column: 1] == "\(8 * 1024 * 1024)")
    }
  }

  @Test func aPipelineIsOneTransactionWithAResultForEach() async throws {
    try await connected { connection in
      let results = try await connection.pipeline(
        [
          PostgresStatement("SELECT set_config('my.guard', 'yes', true), txid_current()"),
          PostgresStatement("CREATE TABLE t (n int)"),
          PostgresStatement("INSERT INTO t VALUES ($1), ($2)", ["1", "2"]),
          PostgresStatement("SELECT current_setting('my.guard'), txid_current()"),
        ], by: soon())
      #expect(results.count == 4)
      #expect(results[2].affectedRows == 2)
      #expect(results[3][row: 0, column: 0] == "yes")
      #expect(results[0][row: 0, column: 1] == results[3][row: 0, column: 1])
    }
  }

  @Test func anErrorInAPipelineUndoesAllOfItAndTheConnectionGoesOn() async throws {
    try await connected { connection in
      _ = try await connection.query(PostgresStatement("CREATE TABLE t (n int)"), by: soon())
      let error = await postgresError {
        _ = try await connection.pipeline(
          [
            PostgresStatement("INSERT INTO t VALUES (1)"), PostgresStatement("SELECT 1 / $1::int", ["0"]),
            PostgresStatement("INSERT INTO t VALUES (2)"),
          ], by: soon())
      }
      #expect(error == .server(sqlState: "22012", message: "division by zero", statement: 1))
      #expect(connection.isReusable)
      let count = try await connection.query(PostgresStatement("SELECT count(*) FROM t"), by: soon())
      #expect(count[row: 0, column: 0] == "0")
    }
  }

  @Test func errorsCarryNoDetailOfARow() async throws {
    try await connected { connection in
      _ = try await connection.query(PostgresStatement("CREATE TABLE t (secret text UNIQUE)"), by: soon())
      let insert = PostgresStatement("INSERT INTO t VALUES ($1)", ["planted-secret"])
      _ = try await connection.query(insert, by: soon())
      let error = await postgresError { _ = try await connection.query(insert, by: soon()) }
      #expect(error?.sqlState == "23505")
      #expect(error?.publicReason == "unique constraint violated on public.t, by t_secret_key (SQLSTATE 23505)")
      #expect(!"\(error!) \(String(reflecting: error!))".contains("planted-secret"))
    }
  }

  @Test func aTextWithNULIsRefusedAndTheConnectionGoesOn() async throws {
    try await connected { connection in
      let error = await postgresError {
        _ = try await connection.query(PostgresStatement("SELECT $1::text", ["a\0b"]), by: soon())
      }
      #expect(error?.sqlState == "22021")
      let next = try await connection.query(PostgresStatement("SELECT 1"), by: soon())
      #expect(next.rowCount == 1)
    }
  }

  @Test func aSecondStatementAtTheSameTimeIsRefused() async throws {
    try await connected { connection in
      try await withThrowingTaskGroup { group in
        group.addTask { _ = try await connection.query(PostgresStatement("SELECT pg_sleep(0.3)"), by: soon()) }
        try await eventually("the first one runs") { connection.state.phase == .running }
        let error = await postgresError { _ = try await connection.query(PostgresStatement("SELECT 1"), by: soon()) }
        #expect(error == .busy)
        try await group.waitForAll()
      }
    }
  }

  @Test func aDeadlineReleasesTheCallerAndEndsTheStatementOnTheServer() async throws {
    let server = try await PrivatePostgres.shared
    try await connected { connection in
      let process = connection.backendPID
      let start = LoopClock.system.now
      let error = await postgresError {
        _ = try await connection.query(PostgresStatement("SELECT pg_sleep(60)"), by: soon(.milliseconds(150)))
      }
      let waited = start.duration(to: LoopClock.system.now)
      #expect(error == .timedOut(.statement))
      #expect(waited >= .milliseconds(150) && waited < .milliseconds(600))
      try await eventually("the connection is clean") { connection.state.phase == .idle }
      #expect(
        try await server.psql("SELECT state FROM pg_stat_activity WHERE pid = \(process)") == "idle")
      #expect(connection.backendPID == process)
      #expect(try await connection.query(PostgresStatement("SELECT 1"), by: soon()).rowCount == 1)
    }
  }

  /// Cancels the task of a pipeline whose first statement changes the session's name.
  @EventLoop private func cancelPipeline(renamedTo name: String, on connection: PostgresConnection) async {
    await withTaskGroup { group in
      group.addTask {
        await #expect(throws: CancellationError.self) {
          try await connection.pipeline(
            connection.prelude + [
              PostgresStatement("SELECT set_config('application_name', $1, true)", [name]),
              PostgresStatement("SELECT pg_sleep(60)"), PostgresStatement("SELECT pg_sleep(60)"),
            ], by: soon(.seconds(30)))
        }
      }
      try? await LoopClock.system.sleep(for: .milliseconds(100))
      group.cancelAll()
    }
  }

  @Test func aCancelledTaskLeavesNothingRunningOnTheServer() async throws {
    let server = try await PrivatePostgres.shared
    try await connected { connection in
      let process = connection.backendPID
      await cancelPipeline(renamedTo: "connection test, epoch 7", on: connection)
      try await eventually("it is clean") { connection.state.phase == .idle }
      #expect(try await server.psql("SELECT state FROM pg_stat_activity WHERE pid = \(process)") == "idle")
      #expect(connection.isReusable)
    }
  }

  /// A transaction may have a name of its own, which the server reports only when it has ended.
  @Test func aSessionThatHasAnotherNameIsCancelledAllTheSame() async throws {
    let server = try await PrivatePostgres.shared
    try await connected { connection in
      let process = connection.backendPID
      await cancelPipeline(renamedTo: "somebody else", on: connection)
      try await eventually("it is clean", within: .seconds(3)) { connection.state.phase == .idle }
      #expect(try await server.psql("SELECT state FROM pg_stat_activity WHERE pid = \(process)") == "idle")
    }
  }

  @Test func manyCancellationsNeverHitTheNextStatement() async throws {
    try await connected { connection in
      var cancelled = 0
      for round in 0..<60 {
        // Around the time that the statement takes, so that some end by themselves while the request is on its way.
        let limit = Duration.microseconds(2_000 + round * 100)
        do {
          _ = try await connection.query(PostgresStatement("SELECT pg_sleep(0.004)"), by: soon(limit))
        } catch {
          #expect(error as? PostgresError == .timedOut(.statement))
          try await eventually("clean again, or given up") { [.idle, .closed].contains(connection.state.phase) }
          // On a busy machine a request can be too slow for its limit: then nobody uses the connection any more.
          if connection.state.phase == .closed { break }
          cancelled += 1
        }
        _ = try await connection.query(PostgresStatement("SELECT pg_sleep(0.002)"), by: soon())
      }
      #expect(cancelled > 0)
    }
  }

  @Test func aTerminatedSessionIsALostConnectionAndSaysWhy() async throws {
    let server = try await PrivatePostgres.shared
    try await connected { connection in
      let process = connection.backendPID
      try await withThrowingTaskGroup { group in
        group.addTask {
          let error = await postgresError {
            _ = try await connection.query(PostgresStatement("SELECT pg_sleep(60)"), by: soon(.seconds(30)))
          }
          guard case .connectionLost = error else {
            Issue.record("\(String(describing: error))")
            return
          }
          #expect(error?.sqlState == "57P01")
          #expect(error?.publicReason == "the session was ended by an administrator or a shutdown (SQLSTATE 57P01)")
        }
        try await eventually("it runs") { connection.state.phase == .running }
        _ = try await server.psql("SELECT pg_terminate_backend(\(process))")
        try await group.waitForAll()
      }
      #expect(connection.state.phase == .closed)
    }
  }

  @Test func anIdleConnectionNoticesItsEnd() async throws {
    let server = try await PrivatePostgres.shared
    try await connected { connection in
      _ = try await server.psql("SELECT pg_terminate_backend(\(connection.backendPID))")
      try await eventually("it is closed") { connection.state.phase == .closed }
    }
  }

  @Test func noticesGoNowhere() async throws {
    try await connected { connection in
      let noisy = PostgresStatement("DO $$ BEGIN FOR i IN 1..50 LOOP RAISE WARNING 'planted-secret'; END LOOP; END $$")
      let result = try await connection.query(noisy, by: soon())
      #expect(result.rowCount == 0)
    }
  }
}
