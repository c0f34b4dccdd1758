// The bounds of an HTTP server, each with its default. Read by HTTPServer and its connections.

/// What a server grants its clients. Nothing that a client sends makes it hold more than these allow.
public struct HTTPServerLimits: Sendable {
  /// From a request's first byte to its last; then 408.
  public var requestTimeout: Duration = .seconds(10)
  /// Between two requests, and before the first.
  public var idleTimeout: Duration = .seconds(60)
  /// For the peer to read the answers that it asked for; then the connection is closed.
  public var writeTimeout: Duration = .seconds(10)
  /// For the peer to end after a last answer that came before its request was read to the end.
  public var lingerTimeout: Duration = .seconds(2)
  /// Of the request line and the header fields together; beyond it 414 or 431.
  public var headerByteLimit = 8 * 1024
  /// Of a body, which is read and dropped; beyond it 413.
  public var bodyByteLimit = 4 * 1024
  /// Connections at a time. At the bound the oldest idle one gives way, else the oldest that waits for its peer in the
  /// middle of a request or an answer; where all wait for the handler, new ones wait in the kernel's backlog.
  public var maximumConnections = 256
  /// How long accepting rests after the process ran out of descriptors or memory and no connection could give way.
  public var acceptPause: Duration = .milliseconds(500)

  public init() {}
}

/// What a server did since it was made.
public struct HTTPServerStatistics: Sendable, Equatable {
  public internal(set) var openConnections = 0
  public internal(set) var acceptedConnections: UInt64 = 0
  /// Connections that were closed so that a new one could be taken.
  public internal(set) var evictedConnections: UInt64 = 0
  /// Connections closed because a time limit passed.
  public internal(set) var timedOutConnections: UInt64 = 0
  /// Times that accepting had to rest: all connections wait for the handler, or no descriptor is left.
  public internal(set) var acceptPauses: UInt64 = 0
  /// Answers by the first digit of their status, 1 to 5; the place 0 is unused.
  public internal(set) var responsesByClass: [UInt64] = [0, 0, 0, 0, 0, 0]
}
