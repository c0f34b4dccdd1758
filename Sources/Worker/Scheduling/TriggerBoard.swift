// What the sweepers of one replica know of triggers together, and how they wake each other.
// Invariant: a loop that asks after a wake-up has asked since the trigger was set.

import Coordination
import Reactor

/// Shared by all sweepers of one process.
@EventLoop
final class TriggerBoard {
  private var known = TriggerNews()
  private var wakeUps: [WakeUp] = []

  /// How many triggers were learned of.
  var count: Int { known.count }

  /// Has `wakeUp` fire at each trigger.
  func add(_ wakeUp: WakeUp) { wakeUps.append(wakeUp) }

  /// Redis told of the newest trigger.
  ///
  /// - Returns: whether it was news, so that the other sweepers were woken.
  func answered(newest id: Int64) -> Bool {
    guard known.answered(newest: id) else { return false }
    for wakeUp in wakeUps { wakeUp.fire() }
    return true
  }
}
