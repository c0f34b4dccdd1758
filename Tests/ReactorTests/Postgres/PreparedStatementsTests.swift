// Statements that stay prepared on the server: in isolation, and on a real server.

import TestSupport
import Testing

@testable import Reactor

@Suite struct PreparedStatementsTests {
  static let sum = "SELECT $1::int + $2::int"
  static let known = PostgresStatement("SELECT count(*) FROM pg_prepared_statements")

  @Test func whatWasNotConfirmedIsSentForAgainUnderAnotherName() {
    var kept = PreparedStatements()
    let first = kept.add("a")
    let lost = kept.add("b")
    #expect(kept.name(of: "b") == lost)
    kept.confirmed()
    kept.pipelineEnded()
    #expect(kept.name(of: "a") == first)
    #expect(kept.name(of: "b") == nil)
    let again = kept.add("b")
    #expect(again != nil && again != lost && again != first)
  }

  @Test func noMoreThanTheLimitAreKept() {
    var kept = PreparedStatements()
    for number in 0..<PreparedStatements.limit { #expect(kept.add("\(number)") != nil) }
    #expect(kept.add("one more") == nil)
  }

  private func sum(_ a: Int, _ b: Int) -> PostgresStatement {
    PostgresStatement(Self.sum, ["\(a)", "\(b)"], isPrepared: true)
  }

  @Test func aKeptStatementIsParsedOnceAConnection() async throws {
    try await connected { connection in
      for number in 1...3 {
        let results = try await connection.pipeline([sum(number, 1), sum(number, 2)], by: soon())
        #expect(results.map { $0[row: 0, column: 0] } == ["\(number + 1)", "\(number + 2)"])
      }
      try await expect(Self.known, "1", on: connection)
    }
  }

  @Test func behindAPoolerNothingIsKept() async throws {
    try await connected { connection in
      // As the greeting leaves it where the protocol named another process than the one that answers.
      connection.identity = nil
      try await expect(sum(1, 2), "3", on: connection)
      try await expect(Self.known, "0", on: connection)
    }
  }

  @Test func anErrorNamesItsStatementWhateverWasPreparedBefore() async throws {
    try await connected { connection in
      let quotient = PostgresStatement("SELECT 1 / $1::int", ["0"], isPrepared: true)
      let broken = PostgresStatement("SELEKT", isPrepared: true)
      for _ in 1...2 {
        for (statement, state) in [(quotient, "22012"), (broken, "42601")] {
          let error = await postgresError {
            _ = try await connection.pipeline([sum(1, 2), statement, sum(3, 4)], by: soon())
          }
          guard case .server(state, _, 1, _) = error else {
            Issue.record("expected \(state) of statement 1: \(String(describing: error))")
            continue
          }
        }
      }
      try await expect(sum(3, 4), "7", on: connection)
    }
  }

  /// The server takes nothing of a pipeline after a failure, a preparation neither.
  @Test func aStatementAfterAFailureIsPreparedTheNextTime() async throws {
    try await connected { connection in
      _ = await postgresError {
        _ = try await connection.pipeline([PostgresStatement("SELECT 1 / 0"), sum(1, 2)], by: soon())
      }
      try await expect(sum(1, 2), "3", on: connection)
    }
  }

  @Test func statementsThatSomeoneTookAwayArePreparedAgain() async throws {
    try await connected { connection in
      _ = try await connection.query(sum(1, 2), by: soon())
      _ = try await connection.query(PostgresStatement("DEALLOCATE ALL"), by: soon())
      let error = await postgresError { _ = try await connection.query(sum(1, 2), by: soon()) }
      #expect(error?.sqlState == "26000")
      try await expect(sum(1, 2), "3", on: connection)
    }
  }

  @EventLoop
  private func expect(_ statement: PostgresStatement, _ value: String, on connection: PostgresConnection) async throws {
    let answer = try await connection.query(statement, by: soon())
    #expect(answer[row: 0, column: 0] == value)
  }

  private func connected(_ body: @escaping @EventLoop @Sendable (PostgresConnection) async throws -> Void) async throws
  {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "kept statements")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      try await body(connection)
    }
  }
}
