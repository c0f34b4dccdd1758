// A stand-in for systemd's notification socket. Invariant: received messages are kept in order.

import Foundation
import Glibc

/// A datagram socket that a service sends its state to.
public final class NotifySocket: Sendable {
  /// The value for NOTIFY_SOCKET.
  public let name: String
  private let descriptor: Int32

  /// Binds `name`, a path or `@` and an abstract name.
  ///
  /// - Throws: `SystemCallFailed` if the name is taken or too long.
  public init(_ name: String) throws {
    self.name = name
    descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard descriptor >= 0 else { throw SystemCallFailed("socket") }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var path = Array(name.utf8)
    if path.first == UInt8(ascii: "@") { path[0] = 0 }
    precondition(path.count < MemoryLayout.size(ofValue: address.sun_path))
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
    let length = socklen_t(MemoryLayout<sa_family_t>.size + path.count)
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
    }
    guard bound == 0 else { throw SystemCallFailed("bind") }
  }

  /// The next message, nil if none has arrived.
  public func receive() -> String? {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    let count = recv(descriptor, &bytes, bytes.count, 0)
    return count < 0 ? nil : String(decoding: bytes[..<count], as: UTF8.self)
  }

  /// The assignments that have arrived since the last call.
  public func lines() -> [String] {
    var lines: [String] = []
    while let message = receive() { lines += message.split(separator: "\n").map(String.init) }
    return lines
  }

  deinit {
    close(descriptor)
    if name.hasPrefix("/") { unlink(name) }
  }
}
