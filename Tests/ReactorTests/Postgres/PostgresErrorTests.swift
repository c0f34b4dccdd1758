// The public wording of a real server's errors: the object by name, and nothing of a row.

import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresErrorNamesTests {
  @EventLoop
  private func reason(
    _ statements: [String], query: String = "", user: String = PrivatePostgres.user, database: String
  ) async throws -> String? {
    let url = try await PrivatePostgres.shared.url(user: user, database: database, query: query)
    let configuration = try PostgresConfiguration(url: url, applicationName: "error test")
    let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
    defer { connection.close() }
    let error = await postgresError {
      _ = try await connection.pipeline(connection.prelude + statements.map { PostgresStatement($0) }, by: soon())
    }
    return error?.publicReason
  }

  @Test func theServersNamesArePartOfTheReason() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    let database = String(url.split(separator: "/").last!)
    try await server.psql(
      """
      CREATE ROLE stranger LOGIN; CREATE SCHEMA vault; CREATE TABLE public.t (n int PRIMARY KEY CHECK (n < 10));
      CREATE TABLE u (n int REFERENCES t, m text NOT NULL);
      CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'permission denied for hunter2' USING ERRCODE = '42501'; END $$
      """, database: database)
    try await onLoop {
      let denied = try await reason(["DELETE FROM t"], user: "stranger", database: database)
      #expect(denied == "permission denied on table t (SQLSTATE 42501)")
      let schema = try await reason(["SELECT * FROM vault.x"], user: "stranger", database: database)
      #expect(schema == "permission denied on schema vault (SQLSTATE 42501)")
      let raised = try await reason(["SELECT tell()"], database: database)
      #expect(raised == "a function or trigger in the database raised an error (SQLSTATE 42501)")
      let absent = try await reason(["SELECT * FROM nowhere"], database: database)
      #expect(absent == "table does not exist: nowhere (SQLSTATE 42P01)")
      let column = try await reason(["SELECT missing FROM t"], database: database)
      #expect(column == "column does not exist: missing (SQLSTATE 42703)")
      let qualified = try await reason(["SELECT target.missing FROM t AS target"], database: database)
      #expect(qualified == "column does not exist: target.missing (SQLSTATE 42703)")
      let types = try await reason(["SELECT 1 OPERATOR(pg_catalog.=) '{}'::json"], database: database)
      #expect(
        types
          == "no function or operator of this name takes these types: integer pg_catalog.= json (SQLSTATE 42883)")
      let key = try await reason(["INSERT INTO u VALUES (7, 'hunter2')"], database: database)
      #expect(key == "foreign key violated on public.u, by u_n_fkey (SQLSTATE 23503)")
      let check = try await reason(["INSERT INTO t VALUES (77)"], database: database)
      #expect(check == "check constraint violated on public.t, by t_n_check (SQLSTATE 23514)")
      let null = try await reason(["INSERT INTO u (m) VALUES (NULL)"], database: database)
      #expect(null == "not-null constraint violated on public.u, column m (SQLSTATE 23502)")
    }
  }

  @Test func aSettingOfTheURLThatTheServerRefusesIsNamed() async throws {
    try await onLoop {
      let unknown = try await reason(["SELECT 1"], query: "options=-c%20nonsense%3Dhunter2", database: "postgres")
      #expect(unknown == "object or setting does not exist: setting nonsense (SQLSTATE 42704)")
      let wrong = try await reason(["SELECT 1"], query: "work_mem=hunter2", database: "postgres")
      #expect(wrong == "value not accepted: setting work_mem (SQLSTATE 22023)")
    }
  }

  @Test func inAnotherLanguageTheReasonIsTheSame() {
    let place = PostgresErrorPlace.object(
      inMessage: "keine Berechtigung für Tabelle t", sourceFunction: "aclcheck_error")
    let error = PostgresError.server(
      sqlState: "42501", message: "keine Berechtigung für Tabelle t", place: PostgresErrorPlace(object: place))
    #expect(error.publicReason == "permission denied (SQLSTATE 42501)")
  }

  @Test(arguments: [
    ("25006", "the database is read-only"), ("42501", "permission denied"), ("42P01", "table does not exist"),
    ("55P03", "lock not available"), ("57P01", "the session was ended by an administrator or a shutdown"),
    ("57P02", "the session was ended by a crash of the server"), ("57014", "statement cancelled"),
    ("53300", "too many connections"), ("53100", "disk full"), ("40001", "serialization failure"),
    ("40P01", "deadlock"), ("25P02", "the transaction had failed"), ("54001", "a limit of the server was reached"),
  ])
  func eachCodeHasItsWords(_ state: String, _ words: String) {
    #expect(PostgresError.server(sqlState: state, message: "hunter2").publicReason == "\(words) (SQLSTATE \(state))")
    #expect(
      PostgresError.unavailable(reason: "hunter2", sqlState: state).publicReason == "\(words) (SQLSTATE \(state))")
  }
}
