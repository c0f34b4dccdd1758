// Whether PostgreSQL answers, concluded from what the pool's connections meet. Invariant: a change is told once, and
// there is doubt for as long as nothing has answered since the last sign of trouble. Pure; driven by PostgresPool.

/// What is known of the server.
///
///                 answered                        refused
///     unknown ──────────────▶ ready ───────────────────────────────▶ unavailable (in doubt)
///                             │  ▲ answered                               │
///                   troubled  ▼  │                                        │
///                        ready, in doubt ──── refused ──▶ unavailable     │
///                                ▲                                        │
///                                └────────────── answered ────────────────┘
///
/// A connection that broke, or a statement that was not answered in time, is trouble and no verdict: one session can be
/// ended, one statement can wait for a lock, on a server that is well. Who is in doubt asks, and that is the verdict.
struct PostgresHealth: Equatable {
  enum Event: Equatable {
    /// The server answered a statement, or took a connection.
    case answered
    /// It could not be reached, or did not answer who asked whether it is there.
    case refused(String)
    /// Something went wrong that a server which is well can show too.
    case troubled
  }

  private(set) var availability: ServerAvailability?
  /// Whether the server has to be asked.
  private(set) var isInDoubt = false
  /// The pauses between questions while there is doubt: within 5 s of its return the server has been asked again.
  private var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)

  /// Whether the server answers and cannot be written to.
  var isReadOnly: Bool { availability == .unavailable(reason: PostgresError.readOnlyReason) }

  /// Takes in what was met. Returns the change that is to be told, if it is one.
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

  /// How long to wait before the next question, after one that ended in doubt.
  mutating func pause(chance: Double) -> Duration {
    backoff.next(chance: chance)
  }

  private mutating func become(_ new: ServerAvailability) -> ServerAvailability? {
    guard new != availability else { return nil }
    availability = new
    return new
  }
}
