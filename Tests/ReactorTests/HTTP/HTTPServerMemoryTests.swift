// How much memory of the server and the kernel a client can hold, whatever it does: read from the kernel's figures.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct HTTPServerMemoryTests {
  /// Of the kernel's and the server's memory, a connection.
  private static let byteLimit = 256 * 1024

  private static let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

  /// As long as the metrics of a worker.
  private static let handler: HTTPServer.Handler = { _ in .now(answer) }
  private static let answer = HTTPResponse(body: [UInt8](repeating: 0x78, count: 30_000))

  @Test(arguments: [Int32(2_048), 262_144])
  func aClientThatPipelinesAndNeverReadsIsHeldWithinTheBound(receiveBuffer: Int32) async throws {
    try await withHTTPServer(handler: Self.handler) { server, port in
      let clients = try (0..<8).map { _ in try HTTPTestClient(port: port, receiveBuffer: receiveBuffer) }
      try await Self.fill(clients, with: Self.get, of: server)
      let held = await server.held
      #expect(held.count == 8)
      for memory in held { #expect(memory.total <= Self.byteLimit, "\(memory)") }
      #expect(held.contains { $0.kernel > 30_000 }, "nothing waits: this client reads")
    }
  }

  @Test func aClientWhoseAnswerIsOwedIsHeldWithinTheBound() async throws {
    let never = await Latch()
    let handler: HTTPServer.Handler = { _ in
      .later {
        // The wait ends with the server, by a cancellation that says nothing more.
        try? await LoopClock.system.sleep(until: .never, orUntil: never)
        return Self.answer
      }
    }
    try await withHTTPServer(handler: handler) { server, port in
      let clients = try (0..<4).map { _ in try HTTPTestClient(port: port) }
      try await Self.fill(clients, with: Self.get, of: server)
      for memory in await server.held { #expect(memory.total <= Self.byteLimit, "\(memory)") }
      await never.open()
    }
  }

  @Test(arguments: ["GET / HTTP/1.1\r\nX: ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n"])
  func aRequestThatNeverEndsIsHeldWithinTheBound(start: String) async throws {
    try await withHTTPServer(handler: Self.handler) { server, port in
      let clients = try (0..<4).map { _ in try HTTPTestClient(port: port) }
      for client in clients { try client.send(start + String(repeating: "x", count: 3_000)) }
      try await onLoop { try await eventually("read") { server.connections.first(.receiving) != nil } }
      for memory in await server.held { #expect(memory.total <= Self.byteLimit, "\(memory)") }
    }
  }

  /// A closed connection is beyond the bound on connections: the kernel would keep what its peer did not read.
  @Test func whatAPeerDidNotReadIsDroppedWhenItsConnectionIsClosed() async throws {
    var limits = HTTPServerLimits()
    limits.maximumConnections = 4
    try await withHTTPServer(limits: limits, handler: Self.handler) { server, port in
      let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
      var clients: [HTTPTestClient] = []
      for number in 0..<40 {
        let client = try HTTPTestClient(port: port, receiveBuffer: 2_048)
        try client.send(number % 2 == 0 ? last : Self.get + Self.get + Self.get + last)
        clients.append(client)
      }
      try await onLoop { try await eventually("all taken") { server.statistics.acceptedConnections == 40 } }
      #expect(await server.connections.count <= 4)
      try await onLoop {
        try await eventually("the kernel holds little for connections that are closed") {
          try orphanBytes(port: port).allSatisfy { $0 <= HTTPConnection.orphanByteLimit }
        }
      }
    }
  }

  @Test func aLastAnswerReachesASlowReaderWhole() async throws {
    try await withHTTPServer(handler: Self.handler) { server, port in
      let client = try HTTPTestClient(port: port, receiveBuffer: 2_048)
      try client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
      try await onLoop { try await eventually("sent") { server.statistics.responsesByClass[2] == 1 } }
      #expect(try client.response().body.utf8.count == 30_000)
      #expect(try client.hasEnded())
      try await onLoop { try await eventually("closed") { server.connections.count == 0 } }
    }
  }

  /// Sends to all clients until the kernel takes no more of any.
  private static func fill(_ clients: [HTTPTestClient], with request: String, of server: HTTPServer) async throws {
    let burst = Array(String(repeating: request, count: 500).utf8)
    let descriptors = clients.map(\.descriptor)
    for descriptor in descriptors { _ = fcntl(descriptor, F_SETFL, O_NONBLOCK) }
    try await onLoop {
      var quietRounds = 0
      try await eventually("the kernel takes no more", within: .seconds(30)) {
        var sent = 0
        for descriptor in descriptors { sent += max(0, send(descriptor, burst, burst.count, Int32(MSG_NOSIGNAL))) }
        quietRounds = sent == 0 ? quietRounds + 1 : 0
        return quietRounds == 50
      }
    }
  }
}

/// What one connection holds, in bytes.
private struct HeldMemory: CustomStringConvertible, Sendable {
  var kernel: Int
  var buffers: Int
  var total: Int { kernel + buffers }
  var description: String { "kernel \(kernel), buffers \(buffers)" }
}

extension HTTPServer {
  /// Of each open connection.
  fileprivate var held: [HeldMemory] {
    HTTPConnectionState.allCases.flatMap { state in
      var held: [HeldMemory] = []
      var next = connections.first(state)
      while let connection = next {
        held.append(HeldMemory(kernel: kernelBytes(connection.descriptor), buffers: connection.bufferByteCount))
        next = connection.next
      }
      return held
    }
  }
}

/// SO_MEMINFO, as linux/sock_diag.h numbers its figures: memory received, set aside, queued to send, in the backlog.
private func kernelBytes(_ descriptor: Int32) -> Int {
  var figures = [UInt32](repeating: 0, count: 9)
  var size = socklen_t(figures.count * 4)
  guard getsockopt(descriptor, SOL_SOCKET, 55, &figures, &size) == 0 else { return .max }
  return Int(figures[0]) + Int(figures[4]) + Int(figures[5]) + Int(figures[7])
}

/// What the kernel has to send, for each socket on this local port that no process has (its inode is 0).
private func orphanBytes(port: UInt16) throws -> [Int] {
  let lines = try String(contentsOfFile: "/proc/self/net/tcp", encoding: .utf8).components(separatedBy: "\n")
  return lines.compactMap { line in
    let words = line.split(separator: " ")
    guard words.count > 9, words[1].hasSuffix(String(format: ":%04X", port)), words[9] == "0" else { return nil }
    return Int(words[4].prefix { $0 != ":" }, radix: 16)
  }
}
