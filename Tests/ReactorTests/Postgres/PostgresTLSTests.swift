// TLS to PostgreSQL beside the certificates: what libpq has not read of a record, the socket does not show.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresTLSTests {
  /// PostgreSQL itself writes records of 8 kB. A pooler, or whatever else ends TLS before it, writes them full.
  @Test func anAnswerInFullRecordsIsReadToItsEnd() async throws {
    let server = try await PrivatePostgres.shared
    let files = try await TestAuthority.shared().files(of: .good)
    let portFile = NSTemporaryDirectory() + "/full-records-\(UUID().uuidString)"
    defer { unlink(portFile) }
    let script = Repository.root.appendingPathComponent("Tests/Endpoints/full_records.py").path
    let proxy = try await WorkerProcess.start(
      [script, files.certificate, files.key, "\(server.port)", portFile], environment: [:],
      executable: "/usr/bin/python3")
    try await onLoop {
      var port = ""
      try await eventually("the proxy listens") {
        port = String(decoding: FileManager.default.contents(atPath: portFile) ?? Data(), as: UTF8.self)
        return !port.isEmpty
      }
      let configuration = try PostgresConfiguration(
        url: "postgres://postgres@127.0.0.1:\(port)/postgres?sslmode=require", applicationName: "tls test")
      let connection = try await PostgresConnection.connect(configuration, by: soon(), on: .system)
      defer { connection.close() }
      for count in 5..<80 {
        let answer = try await connection.query(
          PostgresStatement("SELECT repeat('x', 4000) FROM generate_series(1, $1::int)", ["\(count)"]),
          by: soon(.seconds(3)))
        #expect(answer.rowCount == count)
      }
    }
    try await proxy.stop()
  }
}
