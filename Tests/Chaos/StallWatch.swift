// Measures how late this machine is: a thread that wants to wake every few milliseconds and notes when it could not.
// Invariant: a check that depends on time is not made over a stall; what others do to the machine is no fault of ours.

import Foundation
import Reactor
import Synchronization

/// Notes the machine's stalls until `stop()`.
final class StallWatch: Sendable {
  static let period = Duration.milliseconds(10)
  /// What is later than this is a stall.
  static let limit = Duration.milliseconds(400)

  private struct State {
    var stalls: [ClosedRange<Moment>] = []
    var longest = Duration.zero
    var isStopped = false
  }

  private let state = Mutex(State())

  init() {
    Thread.detachNewThread {
      while !(self.state.withLock { $0.isStopped }) {
        let before = Moment.now
        usleep(UInt32(Self.period.milliseconds * 1_000))
        let after = Moment.now
        let late = after.since(before) - Self.period
        self.state.withLock { state in
          state.longest = max(state.longest, late)
          if late > Self.limit { state.stalls.append(before...after) }
        }
      }
    }
  }

  var stalls: [ClosedRange<Moment>] { state.withLock { $0.stalls } }
  var longest: Duration { state.withLock { $0.longest } }

  func stop() { state.withLock { $0.isStopped = true } }
}
