// The lease of one run, as a pure state machine: when to renew it, and when it must be taken for lost.
// Invariant: `stopAt` never lies later than the margin before the moment at which Redis may let the lock expire.

import Reactor

/// The life of a lease, from its take on:
///
///         taken                                     renewed: the deadline moves
///       ────────▶ held ──── lease/3 passed ────▶ renewing ────┐
///                  ▲  ▲                           │  │  │      │
///                  │  └──── no answer: again ─────┘  │  └──────┘
///                  │        after retryDelay         │ refused: the lock is another replica's
///                  │                                 ▼
///                  └──── now ≥ deadline - margin ─▶ lost
///
/// The deadline is local and monotonic: the moment before the last successful take or renewal was **sent**, plus the
/// lease. An error of Redis is not a loss; passing the deadline less the margin is one, answer or not.
package struct Lease: Sendable {
  /// What the holder has to do now.
  package enum Action: Equatable {
    /// Nothing until this instant.
    case wait(until: MonotonicInstant)
    /// Send a renewal, and tell its outcome by `renewed(sentAt:)`, `unanswered(at:)` or `refused()`.
    case renew
    /// The lease is lost: stop the run, write nothing more.
    case stop
  }

  /// How soon a renewal is repeated that brought no answer.
  package static let retryDelay = Duration.milliseconds(250)

  package let duration: Duration
  package let margin: Duration
  package private(set) var deadline: MonotonicInstant
  private var nextRenewal: MonotonicInstant
  private var isRefused = false
  /// Where nothing is written any more on PostgreSQL's clock, in µs, as first computed for the present grant.
  private var serverDeadline = Int64.max

  /// A lease just taken by a command that was sent at `sentAt`.
  package init(duration: Duration, takenAt sentAt: MonotonicInstant) {
    self.duration = duration
    margin = Self.margin(of: duration)
    deadline = sentAt.advanced(by: duration)
    nextRenewal = sentAt.advanced(by: duration / 3)
  }

  /// The larger of half a second and a tenth of the lease.
  package static func margin(of duration: Duration) -> Duration {
    max(.milliseconds(500), duration / 10)
  }

  /// From here on nothing may be written.
  package var stopAt: MonotonicInstant {
    deadline.advanced(by: .zero - margin)
  }

  package func isHeld(at now: MonotonicInstant) -> Bool {
    !isRefused && now < stopAt
  }

  package func action(at now: MonotonicInstant) -> Action {
    guard isHeld(at: now) else { return .stop }
    return nextRenewal <= now ? .renew : .wait(until: min(nextRenewal, stopAt))
  }

  /// `stopAt` on the clock that was sampled.
  ///
  /// For one grant it never moves to a later time: a machine that was suspended meanwhile, its monotonic clock with it,
  /// takes a later sample for a gain of time.
  package mutating func deadline(on sample: ClockSample) -> Int64 {
    serverDeadline = min(serverDeadline, sample.earliest(at: stopAt))
    return serverDeadline
  }

  /// A renewal that was sent at `sentAt` was granted.
  package mutating func renewed(sentAt: MonotonicInstant) {
    // Answers in disorder: an older one must not shorten what a newer one granted.
    if sentAt.advanced(by: duration) > deadline {
      deadline = sentAt.advanced(by: duration)
      serverDeadline = .max
    }
    nextRenewal = max(nextRenewal, sentAt.advanced(by: duration / 3))
  }

  /// A renewal brought no answer, or an error: nothing is known, so nothing changes but the time of the next one.
  package mutating func unanswered(at now: MonotonicInstant) {
    nextRenewal = now.advanced(by: Self.retryDelay)
  }

  /// Redis says that the lock is another one's.
  package mutating func refused() {
    isRefused = true
  }
}
