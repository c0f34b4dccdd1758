// TLS to PostgreSQL and Redis: a valid certificate is accepted, and a refusal says what is wrong with another one.

import Foundation
import TestSupport
import Testing

@testable import Reactor

/// A certificate, whether its authority is trusted, and what is said of it.
private let refusals: [(certificate: Endpoint.Certificate, isTrusted: Bool, reason: String)] = [
  (.expired, true, "certificate has expired"), (.otherHost, true, "host"),
  (.good, false, "certificate"),
]

@Suite(.serialized) struct PostgresCertificateTests {
  @Test func aRefusedCertificateSaysWhyAndAGoodOneIsTaken() async throws {
    for (certificate, isTrusted, reason) in refusals {
      try await withServer(certificate) { server, authority in
        let roots = isTrusted ? authority.certificateFile : authority.strangersFile
        let said = try await connect(server, "sslmode=verify-full&sslrootcert=\(roots)") ?? "taken"
        #expect(said.hasPrefix("certificate refused: ") && said.contains(reason), "\(certificate): \(said)")
        #expect(!said.contains("127.0.0.1") && !said.contains("localhost"), "\(said)")
        if certificate == .good {
          #expect(try await connect(server, "sslmode=verify-full&sslrootcert=\(authority.certificateFile)") == nil)
          // Also where the name has an address at which nobody listens, as localhost has: that says less.
          let wrong = try await connect(server, "sslmode=verify-full&sslrootcert=/etc/hostname")
          #expect(wrong?.hasPrefix(#"could not read root certificate file "…""#) == true, "\(wrong ?? "taken")")
        }
      }
    }
  }

  /// Connects by name, and returns why not; nil where it was taken.
  private func connect(_ server: PrivatePostgres, _ query: String) async throws -> String? {
    let url = server.url(query: query).replacingOccurrences(of: "127.0.0.1", with: "localhost")
    return try await onLoop {
      let configuration = try PostgresConfiguration(url: url, applicationName: "certificate test")
      do {
        try await PostgresConnection.connect(configuration, by: soon(.seconds(10)), on: .system).close()
        return nil
      } catch let error as PostgresError {
        return error.publicReason
      }
    }
  }

  private func withServer(
    _ certificate: Endpoint.Certificate, _ body: (PrivatePostgres, TestAuthority) async throws -> Void
  ) async throws {
    let authority = try await TestAuthority.shared()
    let files = authority.files(of: certificate)
    // The server takes a key of its own account only.
    if geteuid() == 0, let account = getpwnam("postgres") {
      chown(files.key, account.pointee.pw_uid, account.pointee.pw_gid)
    }
    let server = try await PrivatePostgres.start(settings: [
      "ssl=on", "ssl_cert_file=\(files.certificate)", "ssl_key_file=\(files.key)",
    ])
    try await body(server, authority)
    await server.stop()
  }
}

@Suite(.serialized, .enabled(if: RedisTLS.isAvailable, "this hiredis has no TLS (1.0 and later have)"))
struct RedisCertificateTests {
  @Test func aRefusedCertificateSaysWhyAndAGoodOneIsTaken() async throws {
    let authority = try await TestAuthority.shared()
    // The system's authorities are those of this variable.
    let before = ProcessInfo.processInfo.environment["SSL_CERT_FILE"]
    defer { if let before { setenv("SSL_CERT_FILE", before, 1) } else { unsetenv("SSL_CERT_FILE") } }
    for (certificate, isTrusted, reason) in refusals + [(.good, true, "")] {
      let server = try PrivateRedis(tls: (authority.files(of: certificate), authority.certificateFile))
      let port = try #require(server.tlsPort)
      setenv("SSL_CERT_FILE", isTrusted ? authority.certificateFile : authority.strangersFile, 1)
      try await onLoop {
        try await withRedis("rediss://localhost:\(port)") { redis in
          if reason.isEmpty {
            #expect(try await redis.command(["PING"], by: shortly()) == .status("PONG"))
            let peer = redis.tlsPeer(at: LoopClock.system.wallTime)
            #expect(
              peer?.bearsName == true && peer?.isVerified == true && peer?.protocolVersion.hasPrefix("TLSv1") == true)
            let value = String(repeating: "0123456789", count: 100_000)
            try await redis.command(["SET", "large", value], by: shortly())
            #expect(try await redis.command(["GET", "large"], by: shortly()).text == value)
          } else {
            try await eventually("it was refused") { redis.statistics.attempts >= 3 }
            let said = redis.outage ?? "taken"
            #expect(said.hasPrefix("certificate refused: ") && said.contains(reason), "\(certificate): \(said)")
          }
        }
      }
      server.stop()
    }
  }

  @Test func aServerWithoutTLSIsNoneAndAnotherProtocolBehindTLSIsNotRedis() async throws {
    try await onLoop {
      try await withRedis("rediss://127.0.0.1:\(PrivateRedis.shared.port)", dialTimeout: .seconds(1)) { redis in
        try await eventually("it was refused") { redis.statistics.attempts >= 3 }
        #expect(redis.statistics.connectsTotal == 0 && redis.outage != nil)
      }
    }
  }
}
