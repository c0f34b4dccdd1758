// Whether PostgreSQL answers, as concluded from the pool's connections. Invariant: a change is reported once, and the
// server is in doubt until something has answered since the last sign of trouble. Pure; driven by PostgresPool.

/// What is known about the server.
///
///                 answered                        refused
///     unknown ──────────────▶ ready ───────────────────────────────▶ unavailable (in doubt)
///                             │  ▲ answered                               │
///                   troubled  ▼  │                                        │
///                        ready, in doubt ──── refused ──▶ unavailable     │
///                                ▲                                        │
///                                └────────────── answered ────────────────┘
///
/// A broken connection or a late answer is a sign of trouble but proves nothing: on a healthy server a session can be
/// terminated, or a statement can wait for a lock. While in doubt, the pool pings the server, and the result decides.
struct PostgresHealth: Equatable {
  enum Event: Equatable {
    /// The server answered a statement or accepted a connection.
    case answered
    /// The server could not be reached, or did not answer a ping.
    case refused(String)
    /// Something failed that can fail on a healthy server too.
    case troubled
  }

  private(set) var availability: ServerAvailability?
  /// Whether the server has to be pinged.
  private(set) var isInDoubt = false
  /// The pauses between pings while in doubt. They are short enough to ping the server within 5 s of its return.
  private var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)

  /// Whether the server answers but cannot be written to.
  var isReadOnly: Bool { availability == .unavailable(reason: PostgresError.readOnlyReason) }

  /// Records an event. Returns the change to report; nil if there is none.
  mutating func met(_ event: Event) -> ServerAvailability? {
    switch event {
    case .answered:
      isInDoubt = false
      backoff.reset()
      return become(.ready)
    case .refused(let reason):
      isInDoubt = true
      return become(.unavailable(reason: reason))
    case .troubled:
      isInDoubt = true
      return nil
    }
  }

  /// How long to wait before the next ping, after one that left the server in doubt.
  mutating func pause(jitter: Double) -> Duration {
    backoff.next(jitter: jitter)
  }

  private mutating func become(_ new: ServerAvailability) -> ServerAvailability? {
    guard new != availability else { return nil }
    availability = new
    return new
  }
}
