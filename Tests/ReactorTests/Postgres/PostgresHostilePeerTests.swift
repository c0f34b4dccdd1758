// Connections to peers that do not keep to PostgreSQL's protocol: nothing that they answer ends the process or keeps
// the loop busy.

import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresHostilePeerTests {
  /// A message of the protocol: its type, its length, its content.
  private static func message(_ type: Unicode.Scalar, _ content: [UInt8] = []) -> [UInt8] {
    let length = UInt32(content.count + 4)
    return [UInt8(ascii: type)] + withUnsafeBytes(of: length.bigEndian) { Array($0) } + content
  }

  private static let ready = message("Z", [UInt8(ascii: "I")])
  /// One statement's beginning, up to its rows: parsed, bound, no columns.
  private static let begun = message("1") + message("2") + message("n")

  private static func completed(_ tag: String) -> [UInt8] { message("C", Array(tag.utf8) + [0]) }

  /// A server that lets anybody in, and gives one of `answers` to each statement after the other.
  private func withServer(
    _ answers: [[UInt8]], _ body: @escaping @EventLoop (PostgresConfiguration) async throws -> Void
  ) async throws {
    let peer = try ScriptedPeer { connection in
      _ = connection.receive()
      connection.send(Self.message("R", [0, 0, 0, 0]) + Self.message("K", [0, 0, 0, 1, 0, 0, 0, 2]) + Self.ready)
      for answer in answers {
        guard connection.receive() != nil else { return }
        connection.send(answer)
      }
      connection.hang()
    }
    try await onLoop {
      try await body(
        PostgresConfiguration(url: "postgres://u@127.0.0.1:\(peer.port)/d?sslmode=disable", applicationName: "hostile"))
    }
  }

  /// No answer at all, one without an end of the statement, copies in all directions, what is no message.
  @Test(arguments: [
    ready, message("1") + message("2") + ready, begun + message("G", [0, 0, 0]), begun + message("H", [0, 0, 0]),
    begun + message("W", [0, 0, 0]), message("?"), [0, 0, 0, 0, 0, 0, 0, 0], Array("HTTP/1.1 400 Bad Request".utf8),
  ])
  func anAnswerThatIsNoneEndsTheConnection(_ answer: [UInt8]) async throws {
    try await withServer([answer]) { configuration in
      let start = LoopClock.system.now
      await #expect(throws: PostgresError.self) {
        try await PostgresConnection.connect(configuration, by: soon(.seconds(2)), on: .system)
      }
      #expect(start.duration(to: LoopClock.system.now) < .seconds(4))
    }
  }

  /// Both arrive at once, and nothing follows that would wake the loop again.
  @Test func anErrorAtCommitIsThrown() async throws {
    let nothing = Self.begun + Self.completed("SELECT 0")
    let fields = Array("SERROR\0C23503\0Mreferenced\0\0".utf8)
    let refused = Self.begun + Self.completed("DELETE 1") + Self.message("E", fields) + Self.ready
    try await withServer([nothing + nothing + nothing + Self.ready, refused, nothing + Self.ready]) { configuration in
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      let error = await postgresError {
        _ = try await connection.query(PostgresStatement("DELETE FROM t"), by: soon())
      }
      #expect(error == .server(sqlState: "23503", message: "referenced", statement: 1))
      _ = try await connection.query(PostgresStatement("SELECT FROM t"), by: soon())
    }
  }

  @Test func whatIsMissingInAnAnswerIsNoValue() async throws {
    let endless = Self.completed("DELETE 99999999999999999999999999")
    let nothing = Self.begun + Self.completed("SELECT 0")
    try await withServer([nothing + nothing + nothing + Self.ready, Self.begun + endless + Self.ready]) {
      configuration in
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      let result = try await connection.query(PostgresStatement("DELETE FROM t"), by: soon())
      #expect(result.affectedRows == 0)
      #expect(result[row: 0, column: 0] == nil && result[row: -1, column: 7] == nil)
    }
  }
}
