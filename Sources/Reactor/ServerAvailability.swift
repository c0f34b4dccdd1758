// Whether a server can do what its client needs. Told by PostgresPool and RedisClient, each change once.

/// What is known of a server: that it does what is needed of it, or why not.
public enum ServerAvailability: Sendable, Equatable {
  case ready
  /// The server is away, hangs, or answers and refuses what is needed, such as every write. The reason may be shown to
  /// anyone: "connection refused", "timed out connecting", "the database is read-only".
  case unavailable(reason: String)
}
