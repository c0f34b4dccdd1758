// Whether PostgreSQL answers, as concluded from the pool's connections. Invariant: a change is reported once, and
// reasons that alternate are not reported in turns; the server is in doubt until something has answered since the last
// sign of trouble. Pure; driven by PostgresPool.

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
/// terminated, or a statement can wait for a lock. While in doubt, the pool pings the server, and the result decides,
/// unless the same statements are lost repeatedly: see PostgresTrial.
struct PostgresHealth: Equatable {
  enum Event {
    /// The server answered a ping or accepted a connection.
    case accepted
    /// It answered these statements.
    case answered([PostgresStatement])
    /// It could not be reached, or did not answer.
    case refused(String)
    /// The same for a ping.
    case pingFailed(String)
    /// These statements were sent, and no answer can come any more. The next ping shows what that implies.
    case lost([PostgresStatement], PostgresTrial.Loss)
    /// These statements were cancelled, and the server has confirmed it.
    case cancelled([PostgresStatement])
    /// Something failed that can fail on a healthy server too.
    case troubled
  }

  /// How long a reason that has been reported in an outage must be the only one before it is reported again. As a
  /// primary stops, or behind several addresses, attempts fail for different reasons in turns. Longer than two pauses
  /// between pings.
  static let settlingTime = Duration.seconds(5)
  /// The maximum number of reasons of an outage that are remembered.
  static let reasonLimit = 8

  private(set) var availability: ServerAvailability?
  /// When `availability` began.
  private var changedAt = MonotonicInstant(nanoseconds: 0)
  /// What was reported since the server was last ready; the last one is the last report.
  private var reported: [ServerAvailability] = []
  private var trial = PostgresTrial()
  /// Whether the server answers, and is unavailable only until it answers what it lost.
  private(set) var isOnTrial = false
  /// Whether the server has to be pinged.
  private(set) var isInDoubt = false
  /// The pauses between pings while in doubt. They are short enough to ping the server within 5 s of its return.
  private var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)

  /// Whether the server answers but cannot be written to.
  var isReadOnly: Bool { availability == .unavailable(reason: PostgresError.readOnlyReason) }

  /// Records an event. Returns the change to report; nil if there is none.
  mutating func met(_ event: Event, at now: MonotonicInstant) -> ServerAvailability? {
    switch event {
    case .accepted: return accepted(at: now)
    case .answered(let request):
      trial.answered(request)
      return accepted(at: now)
    case .refused(let reason):
      if reason == PostgresError.readOnlyReason { trial.clear() }
      return refused(reason, at: now)
    case .pingFailed(let reason):
      trial.clear()
      return refused(reason, at: now)
    case .lost(let request, let loss):
      trial.lost(request, loss, at: now)
      isInDoubt = true
      return nil
    case .cancelled(let request):
      trial.answered(request)
      return nil
    case .troubled:
      isInDoubt = true
      return nil
    }
  }

  private mutating func accepted(at now: MonotonicInstant) -> ServerAvailability? {
    trial.pingAnswered()
    if let reason = trial.reason(at: now) { return refused(reason, isOnTrial: true, at: now) }
    isOnTrial = false
    isInDoubt = false
    backoff.reset()
    return become(.ready, at: now)
  }

  private mutating func refused(
    _ reason: String, isOnTrial: Bool = false, at now: MonotonicInstant
  ) -> ServerAvailability? {
    self.isOnTrial = isOnTrial
    isInDoubt = true
    return become(.unavailable(reason: reason), at: now)
  }

  /// How long to wait before the next ping, after one that left the server in doubt.
  mutating func pause(jitter: Double) -> Duration {
    backoff.next(jitter: jitter)
  }

  private mutating func become(_ new: ServerAvailability, at now: MonotonicInstant) -> ServerAvailability? {
    if new != availability { (availability, changedAt) = (new, now) }
    if new == reported.last { return nil }
    if new == .ready { reported = [] }
    if reported.contains(new), changedAt.duration(to: now) < Self.settlingTime { return nil }
    reported.removeAll { $0 == new }
    if reported.count == Self.reasonLimit { reported.removeFirst() }
    reported.append(new)
    return new
  }
}
