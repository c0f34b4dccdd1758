// Measures this machine's scheduling delays: a thread that wakes every few milliseconds and records when it is late.
// Invariant: time-dependent checks skip stalls, because other load on the machine is not the worker's fault.

import Foundation
import Reactor
import Synchronization

/// Records the machine's stalls until `stop()`.
final class StallWatch: Sendable {
  static let period = Duration.milliseconds(10)
  /// A longer delay is a stall.
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
