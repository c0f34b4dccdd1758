// When people hear that a server is away, as a pure struct. Invariant: each outage that lasts long enough is told once,
// its end once, and a shorter one not at all. The loop around it is OutageNotice.

import Reactor

/// One server, as this replica sees it:
///
///       up ── away ──▶ away ── patience passed: told ──▶ told
///        ▲              │                                 │
///        └── back ──────┴───────── back: told ────────────┘
struct OutageWatch: Sendable {
  /// What to do now.
  enum Step: Equatable {
    case tellAway(reason: String, lasting: Duration)
    case tellBack(after: Duration)
    case wait(until: MonotonicInstant)
    /// Nothing until something changes.
    case rest
  }

  let patience: Duration
  private var awaySince: MonotonicInstant?
  private var reason = ""
  private var isTold = false
  /// Outages that were told and have ended, which is still to be told.
  private var ended: Duration?

  init(patience: Duration) {
    self.patience = patience
  }

  /// The server is away, for a reason, or (nil) there.
  mutating func changed(to outage: String?, at now: MonotonicInstant) {
    if let outage {
      reason = outage
      if awaySince == nil { awaySince = now }
    } else if let since = awaySince {
      if isTold { ended = since.duration(to: now) }
      awaySince = nil
      isTold = false
    }
  }

  mutating func next(at now: MonotonicInstant) -> Step {
    if let length = ended {
      ended = nil
      return .tellBack(after: length)
    }
    guard let awaySince, !isTold else { return .rest }
    let due = awaySince.advanced(by: patience)
    guard now >= due else { return .wait(until: due) }
    isTold = true
    return .tellAway(reason: reason, lasting: awaySince.duration(to: now))
  }
}
