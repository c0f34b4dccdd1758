// A DNS server on loopback, over UDP and TCP, that answers each question as the test says: late, wrongly, or never.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@EventLoop final class ScriptedNameServer {
  struct Question: Equatable, Sendable {
    enum Kind: UInt8, Sendable {
      case ipv4 = 1
      case ipv6 = 28
    }

    var name: String
    var kind: Kind
    var isTCP: Bool
  }

  enum Reply {
    /// Addresses of the question's family.
    case addresses([String])
    /// Addresses of the last name of a chain of aliases.
    case alias([String], addresses: [String])
    /// A response code: 2 is SERVFAIL, 3 NXDOMAIN, 4 NOTIMP, 5 REFUSED.
    case code(UInt8)
    /// An answer that says that it is cut off: the client is to ask over TCP.
    case truncated
    case silence
    indirect case after(Duration, Reply)
  }

  let port: UInt16
  var address: String { "127.0.0.1:\(port)" }
  private(set) var questions: [Question] = []
  private let script: @EventLoop (Question) -> Reply
  private let datagrams: Int32
  private let listener: Int32
  private var watchers: [IOWatcher] = []
  private var timers: [TimerWatcher] = []
  private var streams: [Int32] = []

  init(_ script: @escaping @EventLoop (Question) -> Reply) throws {
    self.script = script
    datagrams = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    (listener, port) = try Self.listen(beside: datagrams)
    _ = fcntl(listener, F_SETFL, O_NONBLOCK)
    watch(datagrams) { [weak self] in self?.receiveDatagrams() }
    watch(listener) { [weak self] in self?.acceptStream() }
  }

  /// Listens for TCP on a port that the socket for UDP is bound to, too: one that is free for both.
  private static func listen(beside datagrams: Int32) throws -> (descriptor: Int32, port: UInt16) {
    for _ in 0..<100 {
      let listening = try listenOnLoopback()
      do {
        _ = try bindLoopback(datagrams, port: listening.port)
        return listening
      } catch let error as SystemCallFailed where error.number == EADDRINUSE {
        close(listening.descriptor)
      }
    }
    throw SocketError(description: "found no port that is free for both")
  }

  isolated deinit {
    for watcher in watchers { watcher.stop() }
    for timer in timers { timer.stop() }
    for descriptor in streams + [datagrams, listener] { close(descriptor) }
  }

  /// Resolves by this server alone.
  func resolve(
    _ host: String, within limit: Duration = .seconds(10), _ change: (inout NameResolver.Options) -> Void = { _ in }
  ) async throws -> [String] {
    var options = NameResolver.Options(servers: address, firstTimeout: .milliseconds(500))
    change(&options)
    return try await NameResolver.addresses(
      of: host, by: LoopClock.system.now.advanced(by: limit), on: .system, options: options)
  }

  private func watch(_ descriptor: Int32, _ callback: @escaping @EventLoop () -> Void) {
    let watcher = IOWatcher { _ in callback() }
    watcher.watch(descriptor, for: .read)
    watchers.append(watcher)
  }

  private func receiveDatagrams() {
    var buffer = [UInt8](repeating: 0, count: 512)
    var from = sockaddr_in()
    while true {
      var length = socklen_t(MemoryLayout<sockaddr_in>.size)
      let count = withUnsafeMutablePointer(to: &from) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { recvfrom(datagrams, &buffer, 512, 0, $0, &length) }
      }
      guard count > 12 else { return }
      let (query, peer) = (Array(buffer[..<count]), from)
      answer(query, isTCP: false) { [weak self] answer in
        var peer = peer
        guard let self else { return }
        _ = withUnsafePointer(to: &peer) {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            sendto(self.datagrams, answer, answer.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
          }
        }
      }
    }
  }

  private func acceptStream() {
    let stream = accept(listener, nil, nil)
    guard stream >= 0 else { return }
    _ = fcntl(stream, F_SETFL, O_NONBLOCK)
    streams.append(stream)
    var received: [UInt8] = []
    watch(stream) { [weak self] in
      var buffer = [UInt8](repeating: 0, count: 512)
      let count = recv(stream, &buffer, buffer.count, 0)
      guard let self, count > 0 else { return }
      received += buffer[..<count]
      guard received.count > 14, received.count >= 2 + Int(received[0]) * 256 + Int(received[1]) else { return }
      self.answer(Array(received.dropFirst(2)), isTCP: true) { answer in
        let framed = [UInt8(answer.count >> 8), UInt8(answer.count & 0xff)] + answer
        _ = send(stream, framed, framed.count, Int32(MSG_NOSIGNAL))
      }
    }
  }

  private func answer(_ query: [UInt8], isTCP: Bool, _ send: @escaping @EventLoop ([UInt8]) -> Void) {
    var labels: [String] = []
    var place = 12
    while query[place] != 0 {
      labels.append(String(decoding: query[(place + 1)..<(place + 1 + Int(query[place]))], as: UTF8.self))
      place += Int(query[place]) + 1
    }
    guard let kind = Question.Kind(rawValue: query[place + 2]) else { return }
    let question = Question(name: labels.joined(separator: "."), kind: kind, isTCP: isTCP)
    questions.append(question)
    perform(script(question), Array(query[..<(place + 5)]), kind, send)
  }

  private func perform(
    _ reply: Reply, _ query: [UInt8], _ kind: Question.Kind, _ send: @escaping @EventLoop ([UInt8]) -> Void
  ) {
    var message = query
    message[2] = 0x81  // an answer, recursion desired
    message[3] = 0x80  // recursion available, no error
    for place in 6..<12 { message[place] = 0 }
    switch reply {
    case .silence: return
    case .after(let delay, let reply):
      let timer = TimerWatcher(.system) { [weak self] in self?.perform(reply, query, kind, send) }
      timers.append(timer)
      return timer.start(at: LoopClock.system.now.advanced(by: delay))
    case .code(let code): message[3] |= code
    case .truncated: message[2] |= 2
    case .addresses(let texts):
      message[7] = UInt8(texts.count)
      for text in texts { message += [0xc0, 12] + Self.record(kind.rawValue, Self.bytes(of: text, kind)) }
    case .alias(let names, let texts):
      message[7] = UInt8(names.count + texts.count)
      var owner: [UInt8] = [0xc0, 12]
      for name in names {
        let target = Self.encoded(name)
        message += owner + Self.record(5, target)
        owner = target
      }
      for text in texts { message += owner + Self.record(kind.rawValue, Self.bytes(of: text, kind)) }
    }
    send(message)
  }

  /// All of a record but its owner's name.
  private static func record(_ type: UInt8, _ data: [UInt8]) -> [UInt8] {
    [0, type, 0, 1, 0, 0, 0, 60, 0, UInt8(data.count)] + data
  }

  private static func encoded(_ name: String) -> [UInt8] {
    name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
  }

  private static func bytes(of text: String, _ kind: Question.Kind) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: kind == .ipv4 ? 4 : 16)
    inet_pton(kind == .ipv4 ? AF_INET : AF_INET6, text, &bytes)
    return bytes
  }
}
