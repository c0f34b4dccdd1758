// How a batch is authorized to write, as a pure state machine: the next step follows from the lease, the sample of
// PostgreSQL's clock, and the verdicts so far. Driven by GuardedSession, and by the simulator in virtual time.
// Invariant: each batch carries a deadline that is before the lease's end on PostgreSQL's clock.

import Reactor

/// The steps of one batch:
///
///     checking ── no fresh sample of PostgreSQL's clock ──▶ sampling ──▶ checking
///        │
///        │ the lease is held, the worker is not draining
///        ▼
///     sending ── the verdict: ours ─────────────────▶ done
///        ▲   ├── too late ──────────────────────────▶ lease lost
///        │   └── another session has the lock ──▶ evicting the predecessor ── too often ──▶ superseded
///        └────────────── a moment later ────────────────┘
package struct BatchGuard: Sendable {
  package enum Action: Equatable, Sendable {
    /// Read PostgreSQL's clock.
    case sample
    /// Send the batch: no writes from `deadline` on, in µs of PostgreSQL's clock.
    case send(deadline: Int64)
    /// Terminate the earlier run's session that holds the advisory lock: then `evicted`.
    case evict
    /// Give it this long to end: then `paused`.
    case pause(Duration)
    case stop(RunInterruption)
  }

  /// The maximum age of a sample of PostgreSQL's clock. The lease is shortened by the clocks' drift in this time.
  package static let sampleLimit = Duration.seconds(60)

  /// How long each try waits for a terminated session to end.
  package static let evictionPauses: [Duration] = [.milliseconds(20), .milliseconds(80), .milliseconds(200)]

  private enum Phase: Equatable, Sendable { case checking, contended, evicted }

  private var phase = Phase.checking
  private var evictions = 0
  /// Whose session was not terminated.
  private var holder: Int32?

  package init() {}

  /// The next action. `lease` keeps the deadline that belongs to its current grant.
  package func next(at now: MonotonicInstant, lease: inout Lease, sample: ClockSample?, isDraining: Bool) -> Action {
    if isDraining { return .stop(.drained) }
    guard lease.isHeld(at: now) else { return .stop(.leaseLost) }
    switch phase {
    case .contended: return evictions < Self.evictionPauses.count ? .evict : .stop(.superseded(by: holder))
    case .evicted: return .pause(Self.evictionPauses[evictions - 1])
    case .checking:
      guard let sample, sample.arrivedAt.duration(to: now) < Self.sampleLimit else { return .sample }
      return .send(deadline: lease.deadline(on: sample))
    }
  }

  /// Another session holds the advisory lock, although the lock in Redis is ours.
  package mutating func contended() {
    phase = .contended
  }

  /// - Parameter holder: the process on PostgreSQL that has the advisory lock and was not terminated; nil if none.
  package mutating func evicted(leaving holder: Int32? = nil) {
    self.holder = holder
    evictions += 1
    phase = .evicted
  }

  package mutating func paused() {
    phase = .checking
  }
}
