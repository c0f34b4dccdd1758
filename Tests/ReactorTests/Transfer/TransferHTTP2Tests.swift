// HTTP/2, as nginx speaks it: a whole exchange, and an answer that comes before the body was read.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/sbin/nginx")))
struct TransferHTTP2Tests {
  /// Runs `body` with the port of an nginx that passes /pass on to `endpoint` and answers /early at once.
  private func withServer(before endpoint: Endpoint, _ body: (UInt16) async throws -> Void) async throws {
    let authority = try await TestAuthority.shared()
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("http2-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    // A test's own directory that stays behind is no fault of it.
    defer { try? FileManager.default.removeItem(at: directory) }
    let port = try freePort()
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    let settings = """
      daemon off; master_process off; pid \(directory.path)/pid; error_log \(directory.path)/error;
      events {}
      http {
        access_log off;
        \(kinds.map { "\($0)_temp_path \(directory.path)/\($0);" }.joined(separator: " "))
        server {
          listen 127.0.0.1:\(port) ssl http2;
          ssl_certificate \(authority.path("good-certificate.pem"));
          ssl_certificate_key \(authority.path("good-key.pem"));
          location /early { return 204; }
          location /pass { proxy_pass http://127.0.0.1:\(endpoint.port); }
        }
      }
      """
    let file = directory.appendingPathComponent("settings")
    try settings.write(to: file, atomically: true, encoding: .utf8)
    let server = try await WorkerProcess.start(["-c", file.path], environment: [:], executable: "/usr/sbin/nginx")
    try await onLoop {
      try await eventually("nginx has read its settings") {
        FileManager.default.fileExists(atPath: directory.appendingPathComponent("pid").path) || server.ending != nil
      }
    }
    try await body(port)
    try await server.stop()
  }

  @Test func aRequestGoesOverHTTP2AndAnEarlyAnswerCounts() async throws {
    let endpoint = try await Endpoint.start(.http)
    try await withServer(before: endpoint) { port in
      let passed = try await TransferClientTests.send("https://localhost:\(port)/pass")
      #expect(passed.status == 200 && passed.isHTTP2)
      #expect(endpoint.received.map { $0["body"] } == ["{}"])
      for size in [2, 100_000] {
        let body = TransferRequest.Content.post(headers: [], body: [UInt8](repeating: 0x20, count: size))
        let early = try await TransferClientTests.send("https://localhost:\(port)/early", body)
        #expect(early.status == 204 && early.isHTTP2, "\(size) bytes")
      }
    }
  }
}
