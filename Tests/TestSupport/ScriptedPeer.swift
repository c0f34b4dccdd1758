// A server that a test scripts: a closure handles each connection on its own thread.
// Invariant: its port answers for as long as it lives, and its connections end with it. For misbehaving peers.

import Foundation
import Synchronization

/// A TCP server on a loopback port whose connections do what a test says.
public final class ScriptedPeer: Sendable {
  /// The peer's end of one connection. Its calls block.
  public struct Connection: Sendable {
    private let descriptor: Int32

    init(_ descriptor: Int32) {
      self.descriptor = descriptor
    }

    /// Reads until the bytes contain `text`; false if the other side closes first.
    @discardableResult
    public func expect(_ text: String) -> Bool {
      var seen = ""
      while !seen.contains(text) {
        guard let bytes = receive() else { return false }
        seen += String(decoding: bytes, as: UTF8.self)
      }
      return true
    }

    /// The next bytes; nil at the end of the connection.
    public func receive() -> [UInt8]? {
      var buffer = [UInt8](repeating: 0, count: 65_536)
      let count = recv(descriptor, &buffer, buffer.count, 0)
      return count > 0 ? Array(buffer[..<count]) : nil
    }

    /// Sends everything; false if the other side has closed.
    @discardableResult
    public func send(_ bytes: [UInt8]) -> Bool {
      var rest = bytes[...]
      while !rest.isEmpty {
        let sent = rest.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        guard sent > 0 else { return false }
        rest = rest.dropFirst(sent)
      }
      return true
    }

    @discardableResult
    public func send(_ text: String) -> Bool { send(Array(text.utf8)) }

    /// Keeps the connection open, silent, until the other side closes it.
    public func hang() {
      while receive() != nil {}
    }
  }

  public let port: UInt16
  private let listener: Int32
  private let descriptors = Mutex<Set<Int32>>([])
  private let counts = Mutex(0)

  /// Connections so far.
  public var accepted: Int { counts.withLock { $0 } }

  /// - Parameter play: handles one connection, which is closed when it returns.
  public init(_ play: @escaping @Sendable (Connection) -> Void) throws {
    let (listener, port) = try listenOnLoopback()
    self.listener = listener
    self.port = port
    Thread.detachNewThread { [weak self] in
      while true {
        let descriptor = accept(listener, nil, nil)
        guard descriptor >= 0, let peer = self else { return }
        peer.counts.withLock { $0 += 1 }
        _ = peer.descriptors.withLock { $0.insert(descriptor) }
        Thread.detachNewThread { [weak peer] in
          play(Connection(descriptor))
          peer?.end(descriptor)
        }
      }
    }
  }

  private func end(_ descriptor: Int32) {
    if descriptors.withLock({ $0.remove(descriptor) }) != nil { close(descriptor) }
  }

  deinit {
    shutdown(listener, Int32(SHUT_RDWR))
    close(listener)
    let open = descriptors.withLock { $0 }
    for descriptor in open { shutdown(descriptor, Int32(SHUT_RDWR)) }
  }
}
