// What the sweepers of one replica know of triggers and lost records together, and how they wake each other.
// Invariant: a loop that asks after a wake-up has asked since the trigger was set, or the record lost.

import Coordination
import Reactor

/// Shared by all sweepers of one process.
@EventLoop
final class TriggerBoard {
  private var known = TriggerNews()
  private var wakeUps: [WakeUp] = []

  /// How many times all sweepers were to ask.
  var count: Int { known.count }

  /// Has `wakeUp` fire whenever all sweepers are to ask.
  func add(_ wakeUp: WakeUp) { wakeUps.append(wakeUp) }

  /// Redis told of the newest trigger.
  ///
  /// - Returns: whether it was news, so that the other sweepers were woken.
  func answered(newest id: Int64) -> Bool {
    guard known.answered(newest: id) else { return false }
    fire()
    return true
  }

  /// A sweeper's record, last seen at `seenAt`, is another one now.
  ///
  /// - Returns: whether it was news, so that the other sweepers were woken.
  func lostRecord(seenAt: MonotonicInstant, at now: MonotonicInstant) -> Bool {
    guard known.lostRecord(seenAt: seenAt, at: now) else { return false }
    fire()
    return true
  }

  private func fire() {
    for wakeUp in wakeUps { wakeUp.fire() }
  }
}
