// Whether the schema has what one sweeper requires, as a pure state machine. Invariants: a schema that has it is not
// looked at again until a run finds something missing; one that lacks it is looked at once in five minutes at the most.
// Driven by SweeperLoop.

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
  /// How often a schema is looked at that lacks something.
  static let lookInterval = Duration.seconds(300)

  enum Action: Equatable {
    /// Attend the sweeper's slots.
    case attend
    /// Look at the schema: `looked` or `unanswered`.
    case look
    /// Attend no slot until then.
    case wait(until: MonotonicInstant)
  }

  /// What people are to be told.
  enum News: Equatable {
    /// The sweeper is off for lack of this.
    case off(missing: String)
    case on
  }

  private enum State: Equatable {
    case unknown, complete
    case lacking(String, nextLook: MonotonicInstant)
  }

  private var state: State

  /// - Parameter requiresAny: whether the sweeper requires anything that a schema can lack.
  init(requiresAny: Bool) {
    state = requiresAny ? .unknown : .complete
  }

  /// What the schema lacks; nil if it lacks nothing as far as known.
  var missing: String? {
    if case .lacking(let missing, _) = state { missing } else { nil }
  }

  func next(at now: MonotonicInstant) -> Action {
    switch state {
    case .complete: .attend
    case .unknown: .look
    case .lacking(_, let nextLook): now < nextLook ? .wait(until: nextLook) : .look
    }
  }

  /// The schema was looked at, and lacks this.
  mutating func looked(missing: String?, at now: MonotonicInstant) -> News? {
    let before = self.missing
    guard let missing else {
      state = .complete
      return before == nil ? nil : .on
    }
    state = .lacking(missing, nextLook: now.advanced(by: Self.lookInterval))
    return before == missing ? nil : .off(missing: missing)
  }

  /// PostgreSQL did not say. What is unknown is found out by a run.
  mutating func unanswered(at now: MonotonicInstant) {
    if case .lacking(let missing, _) = state {
      state = .lacking(missing, nextLook: now.advanced(by: Self.lookInterval))
    }
  }
}
