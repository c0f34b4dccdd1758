// Whether the schema has what one sweeper requires, as a pure state machine. Invariants: a complete schema is not
// checked again until a run finds something missing; an incomplete one is checked at most once in five minutes. Driven
// by SweeperLoop.

import Reactor

/// What is known of the schema:
///
///                 has it                      a run found something missing
///     unknown ───────────────▶ complete ─────────────────────────────────────┐
///        │                        ▲                                          │
///        │ lacks it               │ has it                                   │
///        └──────────────────▶ lacking ◀──────────────────────────────────────┘
///                              │   ▲
///                              └───┘ five minutes later: lacks it, or no answer
struct SchemaWatch {
  /// How often an incomplete schema is checked.
  static let checkInterval = Duration.seconds(300)

  enum Action: Equatable {
    /// Attend the sweeper's slots.
    case attend
    /// Check the schema: `checked` or `unanswered`.
    case check
    /// Attend no slot until then.
    case wait(until: MonotonicInstant)
  }

  /// A change to report.
  enum Change: Equatable {
    /// The sweeper is off because this is missing.
    case off(missing: String)
    case on
  }

  private enum State: Equatable {
    case unknown, complete
    case lacking(String, nextCheck: MonotonicInstant)
  }

  private var state: State

  /// - Parameter requiresAny: whether the sweeper requires anything that a schema can lack.
  init(requiresAny: Bool) {
    state = requiresAny ? .unknown : .complete
  }

  /// What the schema lacks; nil if nothing is known to be missing.
  var missing: String? {
    if case .lacking(let missing, _) = state { missing } else { nil }
  }

  func next(at now: MonotonicInstant) -> Action {
    switch state {
    case .complete: .attend
    case .unknown: .check
    case .lacking(_, let nextCheck): now < nextCheck ? .wait(until: nextCheck) : .check
    }
  }

  /// The schema was checked, and lacks this.
  mutating func checked(missing: String?, at now: MonotonicInstant) -> Change? {
    let before = self.missing
    guard let missing else {
      state = .complete
      return before == nil ? nil : .on
    }
    state = .lacking(missing, nextCheck: now.advanced(by: Self.checkInterval))
    return before == missing ? nil : .off(missing: missing)
  }

  /// PostgreSQL did not answer. An unknown schema stays unknown: the next run finds what is missing.
  mutating func unanswered(at now: MonotonicInstant) {
    if case .lacking(let missing, _) = state {
      state = .lacking(missing, nextCheck: now.advanced(by: Self.checkInterval))
    }
  }
}
