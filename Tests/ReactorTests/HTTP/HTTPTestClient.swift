// A client on a blocking socket, for tests of the HTTP server, and a server on the loop beside it.
// Invariant: no wait is endless; a read that brings nothing within the limit throws.

import Foundation
import TestSupport

@testable import Reactor

struct TestResponse: Equatable {
  var status: Int
  var fields: [String: String]
  var body: String
}

final class HTTPTestClient {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  let descriptor: Int32
  private var unread: [UInt8] = []

  /// - Parameter receiveBuffer: bytes that the kernel may hold for this end; small ones make a slow reader.
  init(port: UInt16, receiveBuffer: Int32? = nil) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    if var size = receiveBuffer { setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, 4) }
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard connected == 0 else { throw Failure(description: "connect: \(String(cString: strerror(errno)))") }
  }

  deinit {
    close(descriptor)
  }

  func send(_ text: String) throws {
    let bytes = Array(text.utf8)
    var start = 0
    while start < bytes.count {
      let sent = bytes[start...].withUnsafeBytes {
        Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      guard sent > 0 else { throw Failure(description: "send: \(String(cString: strerror(errno)))") }
      start += sent
    }
  }

  func get(_ path: String, _ fields: String = "") throws -> TestResponse {
    try send("GET \(path) HTTP/1.1\r\nHost: test\r\n\(fields)\r\n")
    return try response()
  }

  /// The next response; its body is as long as its Content-Length says.
  func response(toHead isHead: Bool = false) throws -> TestResponse {
    let end: Int
    while true {
      if let found = unread.indices.first(where: { unread[$0...].starts(with: Array("\r\n\r\n".utf8)) }) {
        end = found
        break
      }
      guard try receive() else { throw Failure(description: "the connection ended") }
    }
    let lines = String(decoding: unread[..<end], as: UTF8.self).components(separatedBy: "\r\n")
    unread.removeFirst(end + 4)
    var fields: [String: String] = [:]
    for line in lines.dropFirst() {
      let parts = line.components(separatedBy: ": ")
      fields[parts[0]] = parts[1...].joined(separator: ": ")
    }
    let length = isHead ? 0 : Int(fields["Content-Length"] ?? "0")!
    while unread.count < length {
      guard try receive() else { throw Failure(description: "the connection ended in a body") }
    }
    let body = String(decoding: unread[..<length], as: UTF8.self)
    unread.removeFirst(length)
    return TestResponse(status: Int(lines[0].components(separatedBy: " ")[1])!, fields: fields, body: body)
  }

  /// Whether the server ended the connection in order, with nothing more to read.
  func hasEnded() throws -> Bool {
    try unread.isEmpty && !receive()
  }

  func endSending() {
    shutdown(descriptor, Int32(SHUT_WR))
  }

  /// Makes the coming close a reset.
  func willReset() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
  }

  private func receive() throws -> Bool {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let count = recv(descriptor, &bytes, bytes.count, 0)
    guard count >= 0 else { throw Failure(description: "recv: \(String(cString: strerror(errno)))") }
    unread += bytes[..<count]
    return count > 0
  }
}

/// Runs `body`, off the loop, beside a server on the loop, which is stopped afterwards.
func withHTTPServer(
  limits: HTTPServerLimits = HTTPServerLimits(), clock: LoopClock? = nil,
  handler: @escaping HTTPServer.Handler = testRoutes, _ body: (HTTPServer, UInt16) async throws -> Void
) async throws {
  let server = try await onLoop {
    let server = HTTPServer(limits: limits, clock: clock ?? .system, handler: handler)
    try server.listen(on: "127.0.0.1:0")
    return server
  }
  let port = await server.boundPort
  async let running: Void = onLoop { await server.run() }
  // Clients block the few threads that tests run on: not before the server needs none of them.
  try await onLoop { try await eventually("the server runs") { server.isRunning } }
  do {
    try await body(server, port)
  } catch {
    await server.drain(within: .zero)
    throw error
  }
  await server.drain(within: .zero)
  try await running
}

private let hereResponse = HTTPResponse(text: "here\n")

@EventLoop func testRoutes(_ request: borrowing HTTPRequest) -> HTTPReply {
  if request.hasPath("/now") { return .now(hereResponse) }
  if request.hasPath("/later") {
    return .later {
      await Task.yield()
      return HTTPResponse(status: .serviceUnavailable, text: "later\n")
    }
  }
  if request.hasPath("/large") { return .now(HTTPResponse(body: [UInt8](repeating: 0x78, count: 1_000_000))) }
  if request.hasPath("/echo") { return .now(HTTPResponse(text: request.query)) }
  return .now(.notFound)
}
