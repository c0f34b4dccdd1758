// Wakes all sweepers of a replica when an answer of Redis shows one of them a new trigger or a loss of Redis's data.
// Invariant: a loop that asks Redis after its wake-up asks after the trigger was set or the data lost.

import Coordination
import Reactor

/// Shared by all sweepers of one process.
@EventLoop
final class TriggerBroadcast {
  private var counter = TriggerCounter()
  private var wakeUps: [WakeUp] = []

  /// How many new triggers and losses were seen.
  var count: Int { counter.count }

  /// Makes `wakeUp` fire at each new trigger and loss.
  func add(_ wakeUp: WakeUp) { wakeUps.append(wakeUp) }

  /// An answer of Redis had the id of the newest trigger.
  ///
  /// - Returns: whether it is new, so that all sweepers were woken.
  func observe(newest id: Int64) -> Bool {
    guard counter.observe(newest: id) else { return false }
    fire()
    return true
  }

  /// A sweeper's record, last seen at `seenAt`, has been replaced.
  ///
  /// - Returns: whether that is a new loss, so that all sweepers were woken.
  func lostRecord(seenAt: MonotonicInstant, at now: MonotonicInstant) -> Bool {
    guard counter.lostRecord(seenAt: seenAt, at: now) else { return false }
    fire()
    return true
  }

  private func fire() {
    for wakeUp in wakeUps { wakeUp.fire() }
  }
}
