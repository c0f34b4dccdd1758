// A TCP proxy between a client and its server that breaks things on request, one direction at a time.
// Invariant: all sockets belong to one thread of its own; a setting is in effect when the call that made it returns.
// Used by tests of what happens when a server is away, hangs, or answers too late.

import Foundation

/// A TCP proxy on a loopback port of its own. It passes everything on until it is told otherwise.
public final class FaultProxy: Sendable {
  /// What happens to the bytes of one direction, on every connection.
  public enum Fault: Sendable, Equatable {
    /// They are passed on.
    case pass
    /// They are passed on after this time, in their order.
    case delay(Duration)
    /// They are held back, as if packets were lost: nothing arrives, nor does the end of the connection. Once the fault
    /// is over, they arrive late, as TCP's repetitions would.
    case blackHole
    /// A connection is reset as soon as this many of its bytes, counted from the setting of the fault, were passed on;
    /// with 0, in place of its next byte.
    case cut(afterBytes: Int)
  }

  /// What happens to a new connection.
  public enum Admission: Sendable, Equatable {
    /// It is led to the upstream.
    case accept
    /// Nobody listens: the kernel refuses it.
    case refuse
    /// It is accepted and reset.
    case reset
  }

  /// A direction of the traffic.
  public enum Direction: Sendable { case toServer, toClient }

  /// What the proxy has seen.
  public struct Statistics: Sendable, Equatable {
    /// Connections accepted since the start, also those that were reset at once.
    public var accepted = 0
    /// Connections that are open now.
    public var open = 0
    /// Bytes passed on to the server since the start.
    public var bytesToServer = 0
    /// Bytes passed on to the client since the start.
    public var bytesToClient = 0
  }

  /// The port of 127.0.0.1 that clients connect to; the same for the proxy's life.
  public let port: UInt16
  private let board: ProxyBoard

  /// Starts a proxy that leads to `upstream`, a port of 127.0.0.1.
  public init(to upstream: UInt16) throws {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard listener >= 0 else { throw SystemCallFailed("socket") }
    // A port that was asked for by its number stays ours while the socket does not listen.
    port = try bindFreePort(listener)
    // Connections that it closed first linger on its port for a minute: it can listen again all the same. Set after the
    // port was ours, so that nobody else has it.
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    guard listen(listener, 128) == 0 else { throw SystemCallFailed("listen") }
    board = try ProxyBoard(ProxySettings(upstream: upstream))
    let thread = ProxyThread(listener: listener, board: board)
    Thread.detachNewThread { thread.run() }
  }

  deinit { stop() }

  /// The port of 127.0.0.1 that new connections are led to.
  public var upstream: UInt16 {
    get { board.settings.upstream }
    set { board.change { $0.upstream = newValue } }
  }

  /// What happens to new connections.
  public var admission: Admission {
    get { board.settings.admission }
    set { board.change { $0.admission = newValue } }
  }

  /// What the proxy has seen, up to this moment.
  public var statistics: Statistics {
    board.change { _ in }
    return board.settings.statistics
  }

  /// Sets the fault of one direction, for open connections and new ones.
  public func set(_ fault: Fault, _ direction: Direction) {
    board.change {
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

  /// Ends all faults: new connections are accepted, and what was held back is passed on.
  public func heal() {
    board.change {
      $0.generation += 1
      $0.toServer = .pass
      $0.toClient = .pass
      $0.admission = .accept
    }
  }

  /// Resets every open connection, towards both sides.
  public func resetConnections() {
    board.change { $0.resets += 1 }
  }

  /// As a NAT that forgets its idle connections: no byte of those that are open now is passed on any more, and neither
  /// side is told. New ones pass.
  public func forgetConnections() {
    board.change { $0.forgotten += 1 }
  }

  /// As a server that went away: open connections are reset and new ones refused, until `heal()`.
  public func goAway() {
    board.change {
      $0.resets += 1
      $0.admission = .refuse
    }
  }

  /// Closes everything for good.
  public func stop() {
    board.change { $0.isStopped = true }
  }
}

/// What the proxy is told to do, and what it has seen.
struct ProxySettings: Sendable {
  var upstream: UInt16
  var toServer = FaultProxy.Fault.pass
  var toClient = FaultProxy.Fault.pass
  /// Grows with each setting of a fault: a cut counts its bytes from there.
  var generation = 0
  var admission = FaultProxy.Admission.accept
  var resets = 0
  /// Grows with each time that the open connections are forgotten.
  var forgotten = 0
  var isStopped = false
  var statistics = FaultProxy.Statistics()
}

/// Where the proxy's owner leaves its settings and its thread picks them up.
final class ProxyBoard: @unchecked Sendable {
  private let condition = NSCondition()
  private var current: ProxySettings
  private var version = 0
  private var applied = 0
  private let bell: Int32
  /// Can be read from once the settings have changed.
  let ringing: Int32

  init(_ settings: ProxySettings) throws {
    current = settings
    var ends: [Int32] = [0, 0]
    let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw SystemCallFailed("socketpair") }
    bell = ends[0]
    ringing = ends[1]
  }

  deinit {
    close(bell)
    close(ringing)
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
    send(bell, [1], 1, Int32(MSG_NOSIGNAL))
    while applied < awaited { condition.wait() }
  }

  /// The settings as they are now, with the version to confirm once they are in effect. For the proxy's thread.
  func read() -> (ProxySettings, version: Int) {
    condition.lock()
    defer { condition.unlock() }
    return (current, version)
  }

  /// Says that this version is in effect, and what was seen so far. For the proxy's thread.
  func confirm(_ version: Int, _ statistics: FaultProxy.Statistics) {
    condition.lock()
    defer { condition.unlock() }
    current.statistics = statistics
    applied = version
    condition.broadcast()
  }
}
