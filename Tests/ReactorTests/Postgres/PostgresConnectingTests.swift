// Connecting: refusals and their reasons, which address is tried next, servers that are down or hang.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct PostgresConnectingTests {
  private func failure(_ url: String, within limit: Duration = .seconds(10)) async throws -> PostgresError? {
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "connecting test")
      return await postgresError {
        try await PostgresConnection.connect(configuration, by: soon(limit), on: .system).close()
      }
    }
  }

  private func answer(_ url: String, _ sql: String) async throws -> String? {
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "connecting test")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      return try await connection.query(PostgresStatement(sql), by: soon())[row: 0, column: 0]
    }
  }

  @Test func aPasswordWithOddCharactersIsAccepted() async throws {
    let server = try await PrivatePostgres.shared
    let url = server.url(user: PrivatePostgres.lockedUser, password: PrivatePostgres.lockedPassword)
    #expect(try await answer(url, "SELECT current_user") == "locked")
  }

  @Test func aWrongPasswordIsAnAuthenticationFailureWithoutNames() async throws {
    let server = try await PrivatePostgres.shared
    let error = try await failure(server.url(user: PrivatePostgres.lockedUser, password: "wrong"))
    #expect(error?.sqlState == "28P01")
    #expect(error?.publicReason == "authentication failed (SQLSTATE 28P01)")
    #expect(error.map { "\($0)" } == "PostgreSQL unavailable: authentication failed (SQLSTATE 28P01)")
    guard case .unavailable(let reason, _) = error else { return }
    #expect(reason.contains("password authentication failed"))
    #expect(!reason.contains("LOCATION"))
  }

  @Test func aMissingPasswordOrDatabaseSaysSo() async throws {
    let server = try await PrivatePostgres.shared
    let noPassword = try await failure(server.url(user: PrivatePostgres.lockedUser))
    #expect(noPassword == .unavailable(reason: "no password supplied"))
    let noDatabase = try await failure(server.url(database: "nowhere"))
    #expect(noDatabase?.publicReason == "database does not exist (SQLSTATE 3D000)")
  }

  @Test func aSocketsDirectoryIsAHost() async throws {
    let server = try await PrivatePostgres.shared
    let directory = server.socketDirectory.addingPercentEncoding(withAllowedCharacters: .alphanumerics)!
    let url = "postgres://postgres@\(directory):\(server.port)/postgres"
    #expect(try await answer(url, "SELECT inet_client_addr() IS NULL") == "t")
    #expect(
      try await answer("postgres:///postgres?user=postgres&port=\(server.port)&host=\(directory)", "SELECT 1") == "1")
    let pairs = "host=\(server.socketDirectory) port=\(server.port) user=postgres dbname = 'postgres'"
    #expect(try await answer(pairs, "SELECT 1") == "1")
  }

  @Test func theNextHostOrAddressIsTried() async throws {
    let server = try await PrivatePostgres.shared
    let closed = try Listener()
    closed.close()
    let several = "postgres://postgres@127.0.0.1:\(closed.port),127.0.0.1:\(server.port)/postgres"
    #expect(try await answer(several, "SELECT 1") == "1")
    // IPv6 first, or after it: the server listens on one of the two.
    #expect(try await answer("postgres://postgres@localhost:\(server.port)/postgres", "SELECT 1") == "1")
  }

  @Test func aHostThatHangsLeavesTimeForTheNext() async throws {
    let server = try await PrivatePostgres.shared
    let silent = try Listener()
    let several = "postgres://postgres@127.0.0.1:\(silent.port),127.0.0.1:\(server.port)/postgres?connect_timeout=1"
    #expect(try await answer(several, "SELECT 1") == "1")
    silent.close()
  }

  @Test func sessionAttributesChooseTheHost() async throws {
    let server = try await PrivatePostgres.shared
    #expect(try await answer(server.url(query: "target_session_attrs=prefer-standby"), "SELECT 1") == "1")
    let error = try await failure(server.url(query: "target_session_attrs=standby"))
    #expect(error == .unavailable(reason: "server is not in hot standby mode"))
  }

  @Test func anAbsentServerIsDistinguishedFromAHungOne() async throws {
    let silent = try Listener()
    let hanging = try await failure("postgres://u:secret@127.0.0.1:\(silent.port)/d", within: .milliseconds(200))
    #expect(hanging == .timedOut(.connecting))
    silent.close()
    let away = try await failure("postgres://u:secret@127.0.0.1:\(silent.port)/d")
    #expect(away == .unavailable(reason: "connection refused"))
    #expect(away.map { "\($0)" } == "PostgreSQL unavailable: connection refused")
  }

  @Test func aCancelledAttemptEndsAtOnce() async throws {
    let silent = try Listener()
    let url = "postgres://u@127.0.0.1:\(silent.port)/d"
    try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "connecting test")
      let start = LoopClock.system.now
      await withTaskGroup { group in
        group.addTask {
          await #expect(throws: CancellationError.self) {
            try await PostgresConnection.connect(configuration, by: soon(.seconds(60)), on: .system).close()
          }
        }
        try? await LoopClock.system.sleep(for: .milliseconds(50))
        group.cancelAll()
      }
      #expect(start.duration(to: LoopClock.system.now) < .seconds(2))
    }
    silent.close()
  }

  @Test func tlsThatTheServerDoesNotHaveIsSaid() async throws {
    let server = try await PrivatePostgres.shared
    let error = try await failure(server.url(query: "sslmode=require"))
    #expect(error == .unavailable(reason: "server does not support SSL"))
  }
}

/// A port of loopback that takes connections and never answers.
private final class Listener {
  let port: Int
  private let descriptor: Int32

  init() throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let descriptor = descriptor
    withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = bind(descriptor, $0, length)
        _ = listen(descriptor, 16)
        _ = getsockname(descriptor, $0, &length)
      }
    }
    port = Int(UInt16(bigEndian: address.sin_port))
  }

  func close() {
    Foundation.close(descriptor)
  }
}
