// Records every command that Redis executes, with Redis's time, by MONITOR over its own connection. After a failover it
// follows the new master.
// Invariant: the record is complete from each `isRecording` to the next gap; gaps are counted.

import Foundation
import Synchronization

/// A command as MONITOR reports it.
struct RedisCommand: Sendable, Equatable {
  let at: Moment
  /// A script issued it.
  let isOfScript: Bool
  let words: [String]

  /// Parses `1700000000.123456 [0 127.0.0.1:5000] "SET" "key" "value"`; nil if the line is not a command.
  init?(line: Substring) {
    guard let opening = line.range(of: " ["), let closing = line.range(of: "] "),
      let at = Moment(seconds: line[..<opening.lowerBound])
    else { return nil }
    self.at = at
    isOfScript = line[opening.upperBound..<closing.lowerBound].hasSuffix(" lua")
    words = Self.words(line[closing.upperBound...])
  }

  init(at: Moment, isOfScript: Bool, words: [String]) {
    self.at = at
    self.isOfScript = isOfScript
    self.words = words
  }

  var name: String { words.first?.uppercased() ?? "" }

  /// The quoted words of a line, with Redis's escapes: \" \\ \n \r \t \a \b \xHH.
  private static func words(_ text: Substring) -> [String] {
    var words: [String] = []
    var word: [UInt8]?
    var bytes = Array(text.utf8)[...]
    while let byte = bytes.popFirst() {
      switch (byte, word != nil) {
      case (UInt8(ascii: "\""), false): word = []
      case (UInt8(ascii: "\""), true):
        words.append(String(decoding: word ?? [], as: UTF8.self))
        word = nil
      case (UInt8(ascii: "\\"), true):
        let escaped = bytes.popFirst() ?? byte
        if escaped == UInt8(ascii: "x") {
          word?.append(UInt8(String(decoding: bytes.prefix(2), as: UTF8.self), radix: 16) ?? 0)
          bytes = bytes.dropFirst(2)
        } else {
          let plain: [UInt8: UInt8] = [110: 10, 114: 13, 116: 9, 97: 7, 98: 8]
          word?.append(plain[escaped] ?? escaped)
        }
      case (_, true): word?.append(byte)
      case (_, false): break
      }
    }
    return words
  }
}

/// The recorder: a thread that reads until `stop()`, and reconnects if the connection ends.
final class RedisMonitor: Sendable {
  private struct State {
    var lines: [String] = []
    var isRecording = false
    var gaps = 0
    var isStopped = false
    var port: UInt16
  }

  private let password: String?
  private let state: Mutex<State>

  init(port: UInt16, password: String?) {
    state = Mutex(State(port: port))
    self.password = password
    Thread.detachNewThread { self.run() }
  }

  var isRecording: Bool { state.withLock { $0.isRecording } }
  /// How often the connection ended.
  var gaps: Int { state.withLock { $0.gaps } }
  /// The record so far.
  var lines: [String] { state.withLock { $0.lines } }

  func stop() { state.withLock { $0.isStopped = true } }

  /// Waits until recording has begun, after the start and after each server restart.
  func waitUntilRecording() async throws {
    for _ in 0..<5_000 where !isRecording { try await Task.sleep(for: .milliseconds(2)) }
    guard isRecording else { throw HarnessFault("MONITOR did not begin") }
  }

  /// Goes on with the server on another port, once the previous one has ended.
  func follow(to port: UInt16) async throws {
    for _ in 0..<5_000 where isRecording { try await Task.sleep(for: .milliseconds(2)) }
    state.withLock { $0.port = port }
    try await waitUntilRecording()
  }

  private func run() {
    while !(state.withLock { $0.isStopped }) {
      if let descriptor = connect() {
        read(descriptor)
        close(descriptor)
      }
      usleep(2_000)
    }
  }

  private func connect() -> Int32? {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = state.withLock { $0.port }.bigEndian
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Foundation.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    // Check `isStopped` periodically.
    var patience = timeval(tv_sec: 0, tv_usec: 200_000)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    let request = (password.map { "AUTH \($0)\r\n" } ?? "") + "MONITOR\r\n"
    if result == 0, send(descriptor, request, request.utf8.count, Int32(MSG_NOSIGNAL)) == request.utf8.count {
      return descriptor
    }
    close(descriptor)
    return nil
  }

  private func read(_ descriptor: Int32) {
    var rest: [UInt8] = []
    // Without a password there is no AUTH to be answered.
    var answers = password == nil ? 1 : 0
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while !(state.withLock { $0.isStopped }) {
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count < 0, errno == EAGAIN || errno == EINTR { continue }
      guard count > 0 else { break }
      rest += buffer[..<count]
      while let end = rest.firstIndex(of: 10) {
        let line = String(decoding: rest[..<end].drop { $0 == 43 }.filter { $0 != 13 }, as: UTF8.self)
        rest.removeSubrange(...end)
        answers += 1
        // The first two lines answer AUTH and MONITOR.
        state.withLock { state in
          if answers == 2 { state.isRecording = true }
          if answers > 2 { state.lines.append(line) }
        }
      }
    }
    state.withLock { state in
      if state.isRecording { state.gaps += 1 }
      state.isRecording = false
    }
  }
}

/// The harness itself failed: no verdict on the worker.
struct HarnessFault: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}
