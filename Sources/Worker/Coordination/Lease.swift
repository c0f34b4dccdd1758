// The lease of one run, as a pure state machine: when to renew it, and when to consider it lost.
// Invariant: `stopAt` is at least the margin before the moment at which Redis may let the lock expire.

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
/// lease. A Redis error does not lose the lease; passing the deadline minus the margin does, answer or not.
package struct Lease: Sendable {
  /// What the holder has to do now.
  package enum Action: Equatable {
    /// Nothing until this instant.
    case wait(until: MonotonicInstant)
    /// Send a renewal, and report its outcome by `renewed(sentAt:)`, `unanswered(at:)` or `refused()`.
    case renew
    /// The lease is lost: stop the run, write nothing more.
    case stop
  }

  /// The delay before an unanswered renewal is retried.
  package static let retryDelay = Duration.milliseconds(250)

  package let duration: Duration
  package let margin: Duration
  package private(set) var deadline: MonotonicInstant
  private var nextRenewal: MonotonicInstant
  private var isRefused = false
  /// When writes must stop on PostgreSQL's clock, in µs, as first computed for the current grant.
  private var serverDeadline = Int64.max

  /// A lease just taken by a command that was sent at `sentAt`.
  package init(duration: Duration, takenAt sentAt: MonotonicInstant) {
    self.duration = duration
    margin = Self.margin(of: duration)
    deadline = sentAt.advanced(by: duration)
    nextRenewal = sentAt.advanced(by: duration / 3)
  }

  /// The longer of half a second and a tenth of the lease.
  package static func margin(of duration: Duration) -> Duration {
    max(.milliseconds(500), duration / 10)
  }

  /// No writes from this instant on.
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

  /// `stopAt` on the sampled clock.
  ///
  /// It never moves later within one grant: if the machine's monotonic clock stops during a suspend, a later sample
  /// would appear to gain time.
  package mutating func deadline(on sample: ClockSample) -> Int64 {
    serverDeadline = min(serverDeadline, sample.earliest(at: stopAt))
    return serverDeadline
  }

  /// Redis granted the renewal sent at `sentAt`.
  package mutating func renewed(sentAt: MonotonicInstant) {
    // Answers can arrive out of order: an older one must not shorten a newer grant.
    if sentAt.advanced(by: duration) > deadline {
      deadline = sentAt.advanced(by: duration)
      serverDeadline = .max
    }
    nextRenewal = max(nextRenewal, sentAt.advanced(by: duration / 3))
  }

  /// A renewal had no answer, or an error: its outcome is unknown, so only the time of the next one changes.
  package mutating func unanswered(at now: MonotonicInstant) {
    nextRenewal = now.advanced(by: Self.retryDelay)
  }

  /// Redis says that another token holds the lock.
  package mutating func refused() {
    isRefused = true
  }
}
