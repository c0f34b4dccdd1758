// What a client of Redis counts. Invariant: no counter falls.

/// The client's counters since the start.
public struct RedisStatistics: Sendable, Equatable {
  /// Connections that became ready.
  public internal(set) var connectsTotal = 0
  /// The same, without the first.
  public var reconnects: Int { max(0, connectsTotal - 1) }
  /// Attempts to connect, successful or not.
  public internal(set) var attempts = 0
  /// Commands submitted.
  public internal(set) var commands = 0
  /// Commands whose deadline passed.
  public internal(set) var timeouts = 0
}

extension RedisStatistics {
  /// Reconnects are added up; first connections to further nodes are none.
  mutating func add(_ other: RedisStatistics) {
    let reconnects = reconnects + other.reconnects
    connectsTotal = max(connectsTotal, other.connectsTotal) > 0 ? reconnects + 1 : 0
    attempts += other.attempts
    commands += other.commands
    timeouts += other.timeouts
  }
}
