// How a batch gets its right to write, as a pure state machine: which step comes next, from the lease, the sample of
// PostgreSQL's clock, and the verdicts so far. Driven by GuardedSession, and by the simulator in virtual time.
// Invariant: what is sent carries a deadline that lies before the lease's end on PostgreSQL's clock.

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
    /// Send the batch: nothing is written from `deadline` on, in µs of PostgreSQL's clock.
    case send(deadline: Int64)
    /// End the session of an earlier run that holds the advisory lock: then `evicted`.
    case evict
    /// Give it this long to go: then `paused`.
    case pause(Duration)
    case stop(RunInterruption)
  }

  /// How old a sample of PostgreSQL's clock may be: what clocks drift apart in this time is taken off the lease.
  package static let sampleLimit = Duration.seconds(60)

  /// How long a session that was told to end is given, from one try to the next.
  package static let evictionPauses: [Duration] = [.milliseconds(20), .milliseconds(80), .milliseconds(200)]

  private enum Phase: Equatable, Sendable { case checking, contended, evicted }

  private var phase = Phase.checking
  private var evictions = 0

  package init() {}

  /// What to do now. `lease` keeps the deadline that goes with its present grant.
  package func next(at now: MonotonicInstant, lease: inout Lease, sample: ClockSample?, isDraining: Bool) -> Action {
    if isDraining { return .stop(.drained) }
    guard lease.isHeld(at: now) else { return .stop(.leaseLost) }
    switch phase {
    case .contended: return evictions < Self.evictionPauses.count ? .evict : .stop(.superseded)
    case .evicted: return .pause(Self.evictionPauses[evictions - 1])
    case .checking:
      guard let sample, sample.arrivedAt.duration(to: now) < Self.sampleLimit else { return .sample }
      return .send(deadline: lease.deadline(on: sample))
    }
  }

  /// Another session holds the advisory lock, while the lock in Redis is ours.
  package mutating func contended() {
    phase = .contended
  }

  package mutating func evicted() {
    evictions += 1
    phase = .evicted
  }

  package mutating func paused() {
    phase = .checking
  }
}
