// What a replica logs of a sweeper's pause, as a pure state machine: its begin, once an hour that it lasts, its end.
// Invariant: each change is told once, however often Redis is asked. Driven by SweeperLoop.

import Reactor

/// A replica's view of one sweeper's pause:
///
///     active ─────── paused: tell ──────▶ paused ◀──┐
///        ▲                                │   └──────┘ paused, an hour later: tell
///        └── any answer of a schedule: tell ──┘
package struct PauseState: Sendable {
  /// What is to be told.
  package enum News: Equatable, Sendable {
    case begun(Pause)
    case lasts(Pause, for: Duration)
    case ended(after: Duration)
  }

  /// How often a pause that lasts is told.
  package static let reminderInterval = Duration.seconds(3_600)

  private enum State: Equatable, Sendable {
    case active
    case paused(Pause, since: MonotonicInstant, toldAt: MonotonicInstant)
  }

  private var state = State.active

  package init() {}

  package var isPaused: Bool { state != .active }

  /// Redis answered a take.
  package mutating func answered(_ answer: TakeAnswer, at now: MonotonicInstant) -> News? {
    switch (answer, state) {
    case (.late, _), (.settling, _): return nil
    case (.paused(_, let pause), .active):
      state = .paused(pause, since: now, toldAt: now)
      return .begun(pause)
    case (.paused(_, let pause), .paused(let known, let since, let toldAt)):
      if pause.text != known.text {
        state = .paused(pause, since: since, toldAt: now)
        return .begun(pause)
      }
      guard toldAt.duration(to: now) >= Self.reminderInterval else { return nil }
      state = .paused(pause, since: since, toldAt: now)
      return .lasts(pause, for: since.duration(to: now))
    case (_, .paused(_, let since, _)):
      state = .active
      return .ended(after: since.duration(to: now))
    case (_, .active): return nil
    }
  }
}
