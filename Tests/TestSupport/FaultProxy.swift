// A TCP proxy between a client and its server that injects faults on request, one direction at a time.
// Invariant: all sockets belong to its own thread; a setting is in effect when the call that made it returns.
// Used by tests in which a server is down, hangs, or answers too late.

import Foundation

/// A TCP proxy on its own loopback port. It forwards everything until a fault is set.
public final class FaultProxy: Sendable {
  /// What happens to the bytes of one direction, on every connection.
  public enum Fault: Sendable, Equatable {
    /// They are forwarded.
    case pass
    /// They are forwarded in order after this delay.
    case delay(Duration)
    /// They are held back, as if packets were lost: nothing arrives, not even the end of the connection. When the fault
    /// ends they arrive late, as after TCP retransmission.
    case blackHole
    /// A connection is reset once this many bytes have been forwarded since the fault was set; with 0, in place of its
    /// next byte.
    case cut(afterBytes: Int)
    /// What arrives at once and is longer than this is held back, and all that follows on its connection, as on a path
    /// that loses large packets. When the fault ends it arrives late.
    case holdBack(overBytes: Int)
  }

  /// What happens to a new connection.
  public enum Admission: Sendable, Equatable {
    /// It is forwarded to the upstream.
    case accept
    /// Nobody listens: the kernel refuses it.
    case refuse
    /// It is accepted and reset.
    case reset
  }

  /// A direction of the traffic.
  public enum Direction: Sendable { case toServer, toClient }

  /// The proxy's statistics.
  public struct Statistics: Sendable, Equatable {
    /// Connections accepted since the start, including those reset at once.
    public var accepted = 0
    /// Currently open connections.
    public var open = 0
    /// Bytes forwarded to the server since the start.
    public var bytesToServer = 0
    /// Bytes forwarded to the client since the start.
    public var bytesToClient = 0
  }

  /// The port of 127.0.0.1 that clients connect to, constant for the proxy's lifetime.
  public let port: UInt16
  private let control: ProxyControl

  /// Starts a proxy to `upstream`, a port of 127.0.0.1.
  public init(to upstream: UInt16) throws {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard listener >= 0 else { throw SystemCallFailed("socket") }
    // An explicitly bound port stays ours while the socket does not listen.
    port = try bindFreePort(listener)
    // Lets it listen again although connections that it closed first stay in TIME_WAIT for a minute. Set after
    // binding, so that no other process has the port.
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    guard listen(listener, 128) == 0 else { throw SystemCallFailed("listen") }
    control = try ProxyControl(ProxySettings(upstream: upstream))
    let thread = ProxyThread(listener: listener, control: control)
    Thread.detachNewThread { thread.run() }
  }

  deinit { stop() }

  /// The port of 127.0.0.1 that new connections are forwarded to.
  public var upstream: UInt16 {
    get { control.settings.upstream }
    set { control.change { $0.upstream = newValue } }
  }

  /// What happens to new connections.
  public var admission: Admission {
    get { control.settings.admission }
    set { control.change { $0.admission = newValue } }
  }

  /// The proxy's statistics so far.
  public var statistics: Statistics {
    control.change { _ in }
    return control.settings.statistics
  }

  /// Sets the fault of one direction, for open and new connections.
  public func set(_ fault: Fault, _ direction: Direction) {
    control.change {
      $0.generation += 1
      switch direction {
      case .toServer: $0.toServer = fault
      case .toClient: $0.toClient = fault
      }
    }
  }

  /// Sets the fault of both directions.
  public func set(_ fault: Fault) {
    set(fault, .toServer)
    set(fault, .toClient)
  }

  /// Ends all faults: new connections are accepted, and held-back bytes are forwarded.
  public func heal() {
    control.change {
      $0.generation += 1
      $0.toServer = .pass
      $0.toClient = .pass
      $0.admission = .accept
    }
  }

  /// Resets every open connection on both sides.
  public func resetConnections() {
    control.change { $0.resets += 1 }
  }

  /// Acts as a NAT that drops its idle connections: currently open ones forward nothing more, and neither side is
  /// notified. New ones work.
  public func forgetConnections() {
    control.change { $0.forgotten += 1 }
  }

  /// Acts as a server that went down: resets open connections and refuses new ones, until `heal()`.
  public func goAway() {
    control.change {
      $0.resets += 1
      $0.admission = .refuse
    }
  }

  /// Closes everything for good.
  public func stop() {
    control.change { $0.isStopped = true }
  }
}

/// The proxy's settings.
struct ProxySettings: Sendable {
  var upstream: UInt16
  var toServer = FaultProxy.Fault.pass
  var toClient = FaultProxy.Fault.pass
  /// Incremented each time a fault is set: a cut counts its bytes from then.
  var generation = 0
  var admission = FaultProxy.Admission.accept
  var resets = 0
  /// Incremented each time the open connections are forgotten.
  var forgotten = 0
  var isStopped = false
  var statistics = FaultProxy.Statistics()
}

/// Passes settings from the proxy's owner to its thread.
final class ProxyControl: @unchecked Sendable {
  private let condition = NSCondition()
  private var current: ProxySettings
  private var version = 0
  private var applied = 0
  private let wakeUpSender: Int32
  /// Becomes readable when the settings have changed.
  let wakeUpReceiver: Int32

  init(_ settings: ProxySettings) throws {
    current = settings
    var ends: [Int32] = [0, 0]
    let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw SystemCallFailed("socketpair") }
    wakeUpSender = ends[0]
    wakeUpReceiver = ends[1]
  }

  deinit {
    close(wakeUpSender)
    close(wakeUpReceiver)
  }

  var settings: ProxySettings {
    condition.lock()
    defer { condition.unlock() }
    return current
  }

  /// Changes the settings and waits until the proxy's thread acts on them.
  func change(_ body: (inout ProxySettings) -> Void) {
    condition.lock()
    defer { condition.unlock() }
    guard !current.isStopped else { return }
    body(&current)
    version += 1
    let awaited = version
    send(wakeUpSender, [1], 1, Int32(MSG_NOSIGNAL))
    while applied < awaited { condition.wait() }
  }

  /// The current settings, with the version to confirm once they are in effect. For the proxy's thread.
  func read() -> (ProxySettings, version: Int) {
    condition.lock()
    defer { condition.unlock() }
    return (current, version)
  }

  /// Confirms that this version is in effect, with the statistics so far. For the proxy's thread.
  func confirm(_ version: Int, _ statistics: FaultProxy.Statistics) {
    condition.lock()
    defer { condition.unlock() }
    current.statistics = statistics
    applied = version
    condition.broadcast()
  }
}
