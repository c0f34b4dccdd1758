// The service manager's side channel: systemd's notification protocol, as sd_notify(3) and sd_watchdog_enabled(3)
// describe it. Invariant: a call never waits. Made at startup; used by the code that reports the service's state.

import CReactor

/// The service manager that started this process and wants to hear of its state.
public struct ServiceManager: Sendable {
  /// How long the manager waits for a sign of life (`WATCHDOG=1`) before it restarts the service; nil if it does not.
  public let watchdogTimeout: Duration?
  /// A sockaddr_un, as long as the name in it.
  private let address: [UInt8]

  /// The manager that the environment names; nil if it names none, or a socket that is not local.
  ///
  /// NOTIFY_SOCKET is a path, or `@` and a name in the abstract namespace. WATCHDOG_USEC is in microseconds, and counts
  /// only for the process that WATCHDOG_PID names, if it names one.
  public init?(environment: [String: String]) {
    guard let address = environment["NOTIFY_SOCKET"].flatMap(Self.address(of:)) else { return nil }
    self.address = address
    let isOurs = environment["WATCHDOG_PID"].map { Int32($0) == getpid() } ?? true
    let microseconds = environment["WATCHDOG_USEC"].flatMap { Int64($0) } ?? 0
    watchdogTimeout = isOurs && microseconds > 0 ? .microseconds(microseconds) : nil
  }

  /// Sends assignments, one a line, such as `READY=1`.
  ///
  /// Each message has its own socket, so that a manager that makes a new one is reached too.
  ///
  /// - Returns: whether the manager's socket took the message; false if its queue is full or nobody reads there.
  public func send(_ message: String) -> Bool {
    let descriptor = creactor_datagram_socket(AF_UNIX)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    guard creactor_connect(descriptor, address, socklen_t(address.count)) == 0 else { return false }
    let bytes = Array(message.utf8)
    return creactor_send(descriptor, bytes, bytes.count) == bytes.count
  }

  private static func address(of name: String) -> [UInt8]? {
    var path = Array(name.utf8)
    // An abstract name begins with a zero byte and ends with the address; a path ends with a zero byte.
    switch path.first {
    case UInt8(ascii: "@"): path[0] = 0
    case UInt8(ascii: "/"): path.append(0)
    default: return nil
    }
    guard path.count > 1, path.count <= MemoryLayout.size(ofValue: sockaddr_un().sun_path) else { return nil }
    return withUnsafeBytes(of: sa_family_t(AF_UNIX)) { Array($0) } + path
  }
}
