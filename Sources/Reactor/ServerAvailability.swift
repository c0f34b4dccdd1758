// Whether a server can do what its client needs. Reported by PostgresPool and RedisClient, once per change.

/// What is known about a server.
public enum ServerAvailability: Sendable, Equatable {
  case ready
  /// The server is down, hangs, or answers but refuses what is needed, such as every write. The reason may be shown to
  /// anyone: "connection refused", "timed out connecting", "the database is read-only".
  case unavailable(reason: String)
}
