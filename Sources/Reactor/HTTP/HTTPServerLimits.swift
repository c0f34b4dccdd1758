// The limits of an HTTP server, with defaults. Read by HTTPServer and its connections.

/// The limits for a server's clients. No client can make it hold more.
public struct HTTPServerLimits: Sendable {
  /// Time from a request's first byte to its last; then 408.
  public var requestTimeout: Duration = .seconds(10)
  /// Time between two requests, and before the first.
  public var idleTimeout: Duration = .seconds(60)
  /// Time for the peer to read its answers; then the connection is closed.
  public var writeTimeout: Duration = .seconds(10)
  /// Time for the peer to close after a last answer that was sent before its request had been read completely.
  public var lingerTimeout: Duration = .seconds(2)
  /// Bytes of the request line and the header fields together; beyond it 414 or 431.
  public var headerByteLimit = 8 * 1024
  /// Bytes of a body, which is read and discarded; beyond it 413.
  public var bodyByteLimit = 4 * 1024
  /// Simultaneous connections. At the limit the oldest idle one is closed, otherwise the oldest that waits for its peer
  /// in the middle of a request or answer. If all wait for the handler, new ones wait in the kernel's backlog.
  public var maximumConnections = 256
  /// How long accepting pauses if the process has run out of descriptors or memory and no connection could be closed.
  public var acceptPause: Duration = .milliseconds(500)

  public init() {}
}

/// Statistics of a server.
public struct HTTPServerStatistics: Sendable, Equatable {
  public internal(set) var openConnections = 0
  public internal(set) var acceptedConnections: UInt64 = 0
  /// Connections closed to make room for a new one.
  public internal(set) var evictedConnections: UInt64 = 0
  /// Connections closed because a time limit passed.
  public internal(set) var timedOutConnections: UInt64 = 0
  /// How often accepting was paused because all connections wait for the handler, or no descriptor is left.
  public internal(set) var acceptPauses: UInt64 = 0
  /// Answers by the first digit of their status, 1 to 5; index 0 is unused.
  public internal(set) var responsesByClass: [UInt64] = [0, 0, 0, 0, 0, 0]
}
