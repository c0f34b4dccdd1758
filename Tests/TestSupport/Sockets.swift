// Blocking sockets for tests: free ports, and an HTTP client as simple as a probe's.

import Foundation

/// What went wrong with a socket.
public struct SocketError: Error, CustomStringConvertible {
  public let description: String

  public init(description: String) { self.description = description }
}

/// The answer to an HTTP request.
public struct HTTPAnswer: Sendable {
  public let status: Int
  /// By name in lower case.
  public let headers: [String: String]
  public let body: String
}

/// A currently unused port of 127.0.0.1.
///
/// It is below the kernel's ephemeral range, so no outgoing connection takes it in between.
public func freePort() throws -> UInt16 {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { throw SystemCallFailed("socket") }
  defer { close(descriptor) }
  return try bindFreePort(descriptor)
}

/// Binds a socket to such a port, and returns it.
func bindFreePort(_ descriptor: Int32) throws -> UInt16 {
  for _ in 0..<100 {
    let port = UInt16.random(in: 10_000..<32_000)
    do {
      return try bindLoopback(descriptor, port: port)
    } catch let error as SystemCallFailed where error.number == EADDRINUSE {}
  }
  throw SocketError(description: "found no free port")
}

/// Binds a socket to 127.0.0.1 and returns its port, which the kernel chooses if `port` is 0.
public func bindLoopback(_ descriptor: Int32, port: UInt16) throws -> UInt16 {
  let bound = withLoopbackAddress(port) { bind(descriptor, $0, $1) }
  guard bound == 0 else { throw SystemCallFailed("bind") }
  var address = sockaddr_in()
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  let named = withUnsafeMutablePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
  }
  guard named == 0 else { throw SystemCallFailed("getsockname") }
  return UInt16(bigEndian: address.sin_port)
}

/// Calls `body` with the address 127.0.0.1:port.
func withLoopbackAddress<T>(_ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> T) -> T {
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = port.bigEndian
  address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
  return withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
  }
}

/// Sends a GET with `Connection: close` to 127.0.0.1, and returns the answer.
///
/// - Throws: `SocketError` if nothing listens, the answer is invalid, or it did not arrive within `limit`.
public func httpGet(port: UInt16, path: String, within limit: Duration = .seconds(5)) async throws -> HTTPAnswer {
  let request = "GET \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
  let answer = try await exchange(port: port, sending: Array(request.utf8), within: limit)
  return try HTTPAnswer(parsing: answer)
}

/// A name server that never answers: a socket and its own loopback address. Needs the right to bind port 53, the only
/// one that resolv.conf supports.
public func bindSilentNameServer() throws -> (descriptor: Int32, address: String) {
  let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { throw SystemCallFailed("socket") }
  let last = UInt32.random(in: 1..<0xff_ffff)
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = in_port_t(53).bigEndian
  address.sin_addr.s_addr = (0x7f00_0000 | last).bigEndian
  let bound = withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
  guard bound == 0 else { throw SystemCallFailed("bind") }
  return (descriptor, "127.\(last >> 16).\(last >> 8 & 0xff).\(last & 0xff)")
}

/// Whether this host has the IPv6 loopback address.
public func hasLoopbackIPv6() -> Bool {
  let descriptor = socket(AF_INET6, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { return false }
  defer { close(descriptor) }
  var address = sockaddr_in6()
  address.sin6_family = sa_family_t(AF_INET6)
  address.sin6_addr = in6addr_loopback
  return withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in6>.size)) == 0
    }
  }
}

/// A socket listening on a free port of 127.0.0.1, and the port.
public func listenOnLoopback() throws -> (descriptor: Int32, port: UInt16) {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { throw SystemCallFailed("socket") }
  let port = try bindLoopback(descriptor, port: 0)
  guard listen(descriptor, 128) == 0 else { throw SystemCallFailed("listen") }
  return (descriptor, port)
}

/// Sends bytes to 127.0.0.1 and returns everything received until the other side closed.
///
/// With `half`, shuts down the sending side after them: the other side sees their end.
///
/// - Throws: `SocketError` if nothing listens or the end did not arrive within `limit`; `SystemCallFailed` if the
///   connection broke.
public func exchange(
  port: UInt16, sending request: [UInt8], within limit: Duration, half: Bool = false
) async throws -> [UInt8] {
  try await offLoop {
    let descriptor = try connectToLoopback(port)
    defer { close(descriptor) }
    let deadline = ContinuousClock.now.advanced(by: limit)
    var rest = request[...]
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      // Reads while sending, so that a server that answers early does not block.
      let events = try readiness(of: descriptor, forWriting: !rest.isEmpty, until: deadline)
      if events & Int16(POLLOUT) != 0, !rest.isEmpty {
        let sent = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        guard sent >= 0 || errno == EAGAIN else { throw SystemCallFailed("send") }
        rest = rest.dropFirst(max(0, sent))
        if rest.isEmpty, half { shutdown(descriptor, Int32(SHUT_WR)) }
      }
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count == 0 { return answer }
      if count > 0 { answer += buffer[..<count] }
      guard count > 0 || errno == EAGAIN else { throw SystemCallFailed("recv") }
    }
  }
}

private func connectToLoopback(_ port: UInt16) throws -> Int32 {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { throw SystemCallFailed("socket") }
  guard withLoopbackAddress(port, { connect(descriptor, $0, $1) }) == 0 else {
    close(descriptor)
    throw SocketError(description: "nobody listens on port \(port)")
  }
  _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
  return descriptor
}

private func readiness(
  of descriptor: Int32, forWriting: Bool, until deadline: ContinuousClock.Instant
) throws -> Int16 {
  var wait = pollfd(fd: descriptor, events: Int16(POLLIN | (forWriting ? POLLOUT : 0)), revents: 0)
  let left = max(.zero, ContinuousClock.now.duration(to: deadline))
  guard poll(&wait, 1, Int32(clamping: Int(left / .milliseconds(1)) + 1)) > 0, left > .zero else {
    throw SocketError(description: "no whole answer in time")
  }
  return wait.revents
}

extension HTTPAnswer {
  init(parsing bytes: [UInt8]) throws {
    let text = String(decoding: bytes, as: UTF8.self)
    guard let end = text.range(of: "\r\n\r\n") else { throw SocketError(description: "no HTTP answer: \(text)") }
    let lines = text[..<end.lowerBound].components(separatedBy: "\r\n")
    let words = lines[0].split(separator: " ", maxSplits: 2)
    guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else {
      throw SocketError(description: "no status line: \(lines[0])")
    }
    var headers: [String: String] = [:]
    for line in lines.dropFirst() {
      guard let colon = line.firstIndex(of: ":") else { throw SocketError(description: "no header: \(line)") }
      headers[line[..<colon].lowercased()] = line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces)
    }
    self.init(status: status, headers: headers, body: String(text[end.upperBound...]))
  }
}
