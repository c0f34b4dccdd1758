// Servers that answer but are read-only: unavailable, with that reason, until one is writable.

import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresReadOnlyTests {
  private static let readOnly = ServerAvailability.unavailable(reason: "the database is read-only")

  @Test func aHotStandbyIsUnavailableUntilItIsPromoted() async throws {
    let server = try await PrivatePostgres.start()
    try await server.psql(
      "CREATE ROLE strict LOGIN; ALTER ROLE strict SET default_transaction_isolation = 'serializable'")
    try await server.demote()
    try await onLoop {
      try await withRunningPool(server.url(user: "strict")) { pool, changes in
        let error = await postgresError { try await pool.ping(by: soon()) }
        #expect(error == .unavailable(reason: "the database is read-only"))
        let lent = await postgresError { try await pool.withConnection(by: soon()) { _ in } }
        #expect(lent == error)
        #expect(pool.isReadOnly && pool.outage == "the database is read-only" && changes.list == [Self.readOnly])
        #expect(try await pool.waitUntilWritable(by: soon(.milliseconds(50))) == false)
        let asked = pool.statistics.failedConnects
        try await eventually("it asks again, over a new connection") { pool.statistics.failedConnects > asked }
        async let isWritable = pool.waitUntilWritable(by: soon())
        try await server.psql("SELECT pg_promote()")
        #expect(try await isWritable)
        #expect(!pool.isReadOnly && changes.list == [Self.readOnly, .ready])
        #expect(try await pool.waitUntilWritable(by: soon()))
      }
    }
    await server.stop()
  }

  @Test func aDatabaseThatIsReadOnlyByDefaultIsUnavailable() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    let database = String(url.split(separator: "/").last!)
    try await server.psql("ALTER DATABASE \(database) SET default_transaction_read_only = on")
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        _ = await postgresError { try await pool.ping(by: soon()) }
        #expect(pool.isReadOnly)
        try await server.psql("ALTER DATABASE \(database) SET default_transaction_read_only = off")
        try await eventually("it can be written to") { !pool.isReadOnly }
        #expect(changes.list == [Self.readOnly, .ready])
      }
    }
  }

  @Test(arguments: ["default_transaction_read_only=off", "default_transaction_read_only=off&work_mem=1MB"])
  func aURLThatMakesTransactionsWritableOverridesTheDefaultButNotAStandby(_ query: String) async throws {
    let server = try await PrivatePostgres.start()
    try await server.psql(
      "CREATE TABLE t (n int); ALTER DATABASE postgres SET default_transaction_read_only = on;"
        + " ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'")
    try await onLoop {
      try await withRunningPool(server.url(query: query)) { pool, changes in
        try await pool.ping(by: soon())
        try await pool.withConnection(by: soon()) { connection in
          let insert = PostgresStatement("INSERT INTO t VALUES (1)")
          for _ in 0..<2 { _ = try await connection.pipeline(connection.prelude + [insert], by: soon()) }
          // Nothing of it is left in the session.
          let left = try await connection.query(PostgresStatement("SHOW transaction_read_only"), by: soon())
          #expect(left[row: 0, column: 0] == "on")
        }
        try await pool.ping(by: soon())
        #expect(!pool.isReadOnly && changes.list == [.ready])
      }
    }
    try await server.demote()
    try await onLoop {
      try await withRunningPool(server.url(query: query)) { pool, _ in
        let error = await postgresError { try await pool.ping(by: soon()) }
        #expect(error == .unavailable(reason: "the database is read-only"))
        let lent = await postgresError { try await pool.withConnection(by: soon()) { _ in } }
        #expect(lent == error)
      }
    }
    await server.stop()
  }

  @Test(arguments: [("", 0), ("default_transaction_read_only=off", 1)])
  func aPingSetsTheIsolationLevelAtMostOnce(_ query: String, _ expected: Int) async throws {
    let server = try await PrivatePostgres.start(settings: ["log_statement=all", "log_min_messages=log"])
    func count() throws -> Int { try server.log().split(separator: "SET transaction_isolation").count - 1 }
    try await onLoop {
      try await withRunningPool(server.url(query: query)) { pool, _ in
        for number in 1...2 {
          try await pool.ping(by: soon())
          #expect(try count() == number * expected)
        }
      }
    }
    await server.stop()
  }

  /// By a setting of the server, which a session sees at once.
  @Test func anOpenConnectionThatBecomesReadOnlyIsNotUsedAgain() async throws {
    let server = try await PrivatePostgres.start()
    try await server.psql("CREATE TABLE t (n int)")
    try await onLoop {
      try await withRunningPool(server.url()) { pool, changes in
        try await pool.ping(by: soon())
        try await server.psql("ALTER SYSTEM SET default_transaction_read_only = on")
        try await server.psql("SELECT pg_reload_conf()")
        try await eventually("the question says so") {
          do {
            try await pool.ping(by: soon())
            return false
          } catch {
            return (error as? PostgresError)?.publicReason == "the database is read-only"
          }
        }
        #expect(pool.statistics.open == 0)
      }
    }
    await server.stop()
  }

  @Test func aStatementThatIsRefusedForItNotesIt() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        let error = await postgresError {
          try await pool.withConnection(by: soon()) { connection in
            _ = try await connection.query(PostgresStatement("CREATE TABLE t (n int)"), by: soon())
            _ = try await connection.query(PostgresStatement("SET transaction_read_only = on"), by: soon())
            _ = try await connection.pipeline(
              [PostgresStatement("SET transaction_read_only = on"), PostgresStatement("INSERT INTO t VALUES (1)")],
              by: soon())
          }
        }
        #expect(error?.publicReason == "the database is read-only (SQLSTATE 25006)")
        #expect(changes.list.suffix(1) == [Self.readOnly] || changes.list == [.ready, Self.readOnly, .ready])
        try await eventually("another connection is asked") { changes.list == [.ready, Self.readOnly, .ready] }
        #expect(pool.statistics.connectsTotal == 2 && pool.statistics.lost == 0)
      }
    }
  }

  @Test func ofSeveralHostsTheOneThatCanBeWrittenToIsUsed() async throws {
    let standby = try await PrivatePostgres.start()
    try await standby.demote()
    let primary = try await PrivatePostgres.shared
    let url = "postgres://postgres@127.0.0.1:\(standby.port),127.0.0.1:\(primary.port)/postgres"
    for query in ["", "?target_session_attrs=prefer-standby"] {
      try await onLoop {
        try await withRunningPool(url + query) { pool, changes in
          let port = try await pool.withConnection(by: soon()) { connection in
            try await connection.query(PostgresStatement("SHOW port"), by: soon())[row: 0, column: 0]
          }
          #expect(port == "\(primary.port)")
          #expect(changes.list == [.ready])
        }
      }
    }
    await standby.stop()
  }

  @Test func aStandbyIsTakenOnlyWhereTargetSessionAttrsAllowsOne() async throws {
    let standby = try await PrivatePostgres.start()
    try await standby.demote()
    for attributes in ["read-write", "primary"] {
      try await onLoop {
        try await withRunningPool(standby.url(query: "target_session_attrs=\(attributes)")) { pool, changes in
          _ = await postgresError { try await pool.ping(by: soon()) }
          #expect(pool.isReadOnly && changes.list == [Self.readOnly], "\(attributes)")
        }
      }
    }
    try await onLoop {
      try await withRunningPool(standby.url(query: "target_session_attrs=standby")) { pool, changes in
        try await pool.ping(by: soon())
        try await pool.withConnection(by: soon()) { _ in }
        #expect(changes.list == [.ready] && pool.statistics.connectsTotal == 1)
      }
    }
    await standby.stop()
  }
}
