// A session's, a role's, a database's and a pooler's settings around what this library sends: it works in all of them,
// and leaves nothing behind in any.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresSurroundingsTests {
  /// How the server is reached.
  enum Way: String, CaseIterable, CustomTestStringConvertible {
    case direct, sessionPooling, transactionPooling, statementPooling

    var mode: PrivatePgBouncer.Mode? {
      switch self {
      case .direct: nil
      case .sessionPooling: .session
      case .transactionPooling: .transaction
      case .statementPooling: .statement
      }
    }
    var testDescription: String { rawValue }
  }

  /// What the server's log and its sessions are looked at for: a role of its own, with settings of its own.
  @EventLoop
  private func values(_ names: [String], on connection: PostgresConnection) async throws -> [String?] {
    let list = names.map { "current_setting('\($0)')" }.joined(separator: ", ")
    let results = try await connection.pipeline(
      connection.prelude + [PostgresStatement("SELECT \(list)")], by: soon())
    return names.indices.map { results[results.count - 1][row: 0, column: $0] }
  }

  private func through(
    _ way: Way, to server: PrivatePostgres, user: String, query: String = "",
    _ body: @escaping @EventLoop @Sendable (PostgresConnection) async throws -> Void
  ) async throws {
    var pooler: PrivatePgBouncer?
    var url = server.url(user: user, query: query)
    if let mode = way.mode {
      pooler = try await PrivatePgBouncer.start(to: server, mode: mode, users: [user])
      url = pooler!.url(user: user, query: query)
    }
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "surroundings")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      try await body(connection)
    }
    await pooler?.stop()
  }

  @Test(arguments: Way.allCases)
  func aTransactionHasTheURLsSettingsAndIsReadCommittedAndTheSessionKeepsItsOwn(_ way: Way) async throws {
    let server = try await PrivatePostgres.start(settings: ["log_min_messages=warning"])
    try await server.psql(
      """
      CREATE ROLE api LOGIN; ALTER ROLE api SET default_transaction_isolation = 'serializable';
      ALTER ROLE api SET statement_timeout = '77s'; CREATE ROLE worker; GRANT worker TO api
      """)
    let names = ["transaction_isolation", "search_path", "statement_timeout", "work_mem", "my.own", "role"]
    let usual = ["serializable", "\"$user\", public", "77s", "4MB", "", "none", "0"]
    let query =
      "search_path=%22a%20b%22,public&statement_timeout=12345&my.own=x%5Cy%20z&role=worker"
      + "&options=-c%20work_mem%3D6MB"
    try await through(way, to: server, user: "api", query: query) { connection in
      for _ in 0..<3 {
        #expect(
          try await values(names, on: connection)
            == ["read committed", "\"a b\",public", "12345ms", "6MB", "x\\y z", "worker"])
        let checked = try await values(["client_connection_check_interval"], on: connection)
        #expect(checked == ["5s"])
        // The next one to get the session finds it as the role has it.
        let shown = names.map { "current_setting('\($0)', true)" }.joined(separator: ", ")
        let left = try await connection.query(
          PostgresStatement("SELECT \(shown), current_setting('client_connection_check_interval')"), by: soon())
        #expect(usual.indices.map { left[row: 0, column: $0] } == usual)
      }
      #expect((connection.identity == nil) == (way != .direct))
    }
    #expect(try server.log().contains("WARNING") == false)
    await server.stop()
  }

  /// What a session is notified of, by another client's LISTEN in it, is dropped: libpq would keep 80 MB here.
  @Test func notificationsDoNotPileUp() async throws {
    let url = try await PrivatePostgres.shared.url()
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "listener")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      _ = try await connection.query(PostgresStatement("LISTEN everything"), by: soon())
      let notify = PostgresStatement(
        "SELECT count(pg_notify('everything', repeat('x', 7900) || n)) FROM generate_series(1, 10000) AS n")
      _ = try await connection.query(notify, by: soon(.seconds(20)))
      let before = residentBytes()
      _ = try await connection.query(notify, by: soon(.seconds(20)))
      _ = try await connection.query(PostgresStatement("SELECT 1"), by: soon())
      #expect(residentBytes() < before + 40_000_000)
    }
  }

  @Test func theOperatorsClientCheckIntervalIsKept() async throws {
    let server = try await PrivatePostgres.shared
    try await server.psql(
      "CREATE ROLE watched LOGIN; ALTER ROLE watched SET client_connection_check_interval = '700ms'")
    try await through(.direct, to: server, user: "watched") { connection in
      let checked = try await values(["client_connection_check_interval"], on: connection)
      #expect(checked == ["700ms"])
    }
  }

  @Test func aFailedPipelineLeavesNothingBehindEither() async throws {
    let server = try await PrivatePostgres.shared
    try await through(.transactionPooling, to: server, user: "postgres", query: "search_path=pg_temp") { connection in
      _ = await postgresError {
        _ = try await connection.pipeline(connection.prelude + [PostgresStatement("SELECT 1 / 0")], by: soon())
      }
      let left = try await connection.query(PostgresStatement("SHOW search_path"), by: soon())
      #expect(left[row: 0, column: 0] == "\"$user\", public")
    }
  }

  /// A role that may create functions, operators and types gives them names of PostgreSQL's, in a schema that comes
  /// first.
  @Test func whatOthersNamedAsPostgreSQLsOwnIsNotCalled() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    let database = String(url.split(separator: "/").last!)
    try await server.psql(Self.traps, database: database)
    let query = "?search_path=traps,pg_catalog&options=-c%20my.own%3Dx"
    try await server.psql("ALTER DATABASE \(database) SET search_path = traps, pg_catalog")
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url + query, applicationName: "surroundings")
      let connection = try await PostgresConnection.connect(
        configuration, by: soon(), on: .system, for: .use, mustBeWritable: true,
        canceller: PostgresCanceller(clock: .system))
      defer { connection.close() }
      #expect(connection.identity?.processID == String(connection.backendPID))
      _ = try await connection.pipeline(connection.prelude, by: soon())
      let error = await postgresError {
        _ = try await connection.query(PostgresStatement("SELECT pg_catalog.pg_sleep(60)"), by: soon(.milliseconds(50)))
      }
      #expect(error == .timedOut(.statement))
      try await eventually("it is clean") { connection.state.phase == .idle }
    }
    #expect(try await server.psql("SELECT count(*) FROM public.caught", database: database) == "0")
  }

  private static let traps = """
    CREATE SCHEMA traps;
    CREATE SEQUENCE public.caught_number;
    CREATE TABLE public.caught (name text);
    CREATE FUNCTION public.catch(name text) RETURNS void LANGUAGE sql AS
      $$ INSERT INTO public.caught VALUES (name) $$;
    CREATE FUNCTION traps.pg_backend_pid() RETURNS int LANGUAGE sql AS
      $$ SELECT public.catch('pg_backend_pid'); SELECT 1 $$;
    CREATE FUNCTION traps.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS
      $$ SELECT public.catch('set_config'); SELECT '' $$;
    CREATE FUNCTION traps.set_config(unknown text, value varchar, local boolean) RETURNS text LANGUAGE sql AS
      $$ SELECT public.catch('set_config'); SELECT '' $$;
    CREATE FUNCTION traps.current_setting(text, boolean) RETURNS text LANGUAGE sql AS
      $$ SELECT public.catch('current_setting'); SELECT '' $$;
    CREATE FUNCTION traps.pg_cancel_backend(int) RETURNS boolean LANGUAGE sql AS
      $$ SELECT public.catch('pg_cancel_backend'); SELECT false $$;
    CREATE FUNCTION traps.starts_with(text, text) RETURNS boolean LANGUAGE sql AS
      $$ SELECT public.catch('starts_with'); SELECT false $$;
    CREATE FUNCTION traps.equal(a int, b int) RETURNS boolean LANGUAGE sql AS
      $$ SELECT public.catch('='); SELECT false $$;
    CREATE OPERATOR traps.= (LEFTARG = int, RIGHTARG = int, FUNCTION = traps.equal);
    CREATE FUNCTION traps.equal(a text, b text) RETURNS boolean LANGUAGE sql AS
      $$ SELECT public.catch('='); SELECT false $$;
    CREATE OPERATOR traps.= (LEFTARG = text, RIGHTARG = text, FUNCTION = traps.equal);
    CREATE FUNCTION traps.equal(a name, b name) RETURNS boolean LANGUAGE sql AS
      $$ SELECT public.catch('='); SELECT false $$;
    CREATE OPERATOR traps.= (LEFTARG = name, RIGHTARG = name, FUNCTION = traps.equal);
    CREATE FUNCTION traps.times(a numeric, b int) RETURNS numeric LANGUAGE sql AS
      $$ SELECT public.catch('*'); SELECT 1.0 $$;
    CREATE OPERATOR traps.* (LEFTARG = numeric, RIGHTARG = int, FUNCTION = traps.times);
    CREATE FUNCTION traps.more(a int, b int) RETURNS boolean LANGUAGE sql AS
      $$ SELECT public.catch('>'); SELECT false $$;
    CREATE OPERATOR traps.> (LEFTARG = int, RIGHTARG = int, FUNCTION = traps.more);
    CREATE DOMAIN traps.text AS pg_catalog.text CHECK (public.catch('text') IS NULL);
    CREATE DOMAIN traps.int4 AS pg_catalog.int4 CHECK (public.catch('int4') IS NULL);
    CREATE VIEW traps.pg_stat_activity AS SELECT pid, backend_start, usename, application_name
      FROM pg_catalog.pg_stat_activity WHERE public.catch('pg_stat_activity') IS NULL
    """

  /// A role that the session has for its statements is not the one that may cancel them.
  @Test(arguments: ["ALTER ROLE acting SET role = 'worker_of_acting'", "SELECT 1"])
  func aStatementIsCancelledWhateverRoleTheSessionHas(_ setting: String) async throws {
    let server = try await PrivatePostgres.start()
    try await server.psql(
      """
      CREATE ROLE acting LOGIN; CREATE ROLE worker_of_acting; GRANT worker_of_acting TO acting;
      ALTER ROLE acting SET datestyle = 'SQL, DMY'; ALTER ROLE acting SET timezone = 'Asia/Kolkata';
      ALTER ROLE acting SET default_transaction_isolation = 'serializable'
      """)
    try await server.psql(setting)
    try await onLoop {
      let configuration = try PostgresConfiguration(
        url: server.url(user: "acting", query: setting.hasPrefix("ALTER") ? "" : "role=worker_of_acting"),
        applicationName: "surroundings")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      let error = await postgresError {
        _ = try await connection.pipeline(
          connection.prelude + [
            PostgresStatement("SELECT current_user::text::int4 WHERE current_user <> 'worker_of_acting'"),
            PostgresStatement("SELECT pg_sleep(60)"),
          ], by: soon(.milliseconds(100)))
      }
      #expect(error == .timedOut(.statement))
      try await eventually("it is clean") { connection.state.phase == .idle }
    }
    await server.stop()
  }
}
