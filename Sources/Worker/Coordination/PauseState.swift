// When a replica logs a sweeper's pause, as a pure state machine: its beginning, once an hour, and its end.
// Invariant: each change is reported once, however often Redis is asked. Driven by SweeperLoop.

import Reactor

/// A replica's view of one sweeper's pause:
///
///     active ─────── paused: tell ──────▶ paused ◀──┐
///        ▲                                │   └──────┘ paused, an hour later: tell
///        └── any answer of a schedule: tell ──┘
package struct PauseState: Sendable {
  /// A change to report.
  package enum Change: Equatable, Sendable {
    case begun(Pause)
    case lasts(Pause, for: Duration)
    case ended(after: Duration)
  }

  /// How often a continuing pause is reported.
  package static let reminderInterval = Duration.seconds(3_600)

  private enum State: Equatable, Sendable {
    case active
    case paused(Pause, since: MonotonicInstant, reportedAt: MonotonicInstant)
  }

  private var state = State.active

  package init() {}

  package var isPaused: Bool { state != .active }

  /// Redis answered a take.
  package mutating func answered(_ answer: TakeAnswer, at now: MonotonicInstant) -> Change? {
    switch (answer, state) {
    case (.late, _), (.settling, _): return nil
    case (.paused(_, let pause), .active):
      state = .paused(pause, since: now, reportedAt: now)
      return .begun(pause)
    case (.paused(_, let pause), .paused(let known, let since, let reportedAt)):
      if pause.text != known.text {
        state = .paused(pause, since: since, reportedAt: now)
        return .begun(pause)
      }
      guard reportedAt.duration(to: now) >= Self.reminderInterval else { return nil }
      state = .paused(pause, since: since, reportedAt: now)
      return .lasts(pause, for: since.duration(to: now))
    case (_, .paused(_, let since, _)):
      state = .active
      return .ended(after: since.duration(to: now))
    case (_, .active): return nil
    }
  }
}
