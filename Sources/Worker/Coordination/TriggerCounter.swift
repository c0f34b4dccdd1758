// Counts the triggers and losses of Redis's data that a replica sees, so that all its sweepers ask Redis at once.
// Pure. Invariant: each counts once, whichever sweeper's answer shows it. Driven by SweeperLoop.

import Reactor

/// The triggers and losses seen so far. Each take's answer has the newest trigger of all sweepers and the record's
/// origin, so the first sweeper to ask sees what concerns one that asks rarely.
package struct TriggerCounter: Equatable, Sendable {
  /// The id of the newest trigger that was seen; nil before the first answer.
  private var newest: Int64?
  /// When a loss was last seen.
  private var lossSeenAt: MonotonicInstant?
  /// How many newer triggers were seen after the first answer, and how many losses.
  package private(set) var count = 0

  package init() {}

  /// Redis answered a take.
  ///
  /// - Parameter id: the newest trigger; 0 if there is none.
  /// - Returns: whether it is new, so that all sweepers have to ask now. One set before the first answer is not: each
  ///   sweeper asks at boot.
  package mutating func observe(newest id: Int64) -> Bool {
    defer { newest = max(newest ?? 0, id) }
    guard let newest, id > newest else { return false }
    count += 1
    return true
  }

  /// A sweeper's record has been replaced since Redis last answered: Redis lost its data, and with it the replicas
  /// and pauses of all sweepers.
  ///
  /// - Parameter seenAt: when the earlier record was last seen. A loss seen since then is the same one.
  /// - Returns: whether it is new, so that all sweepers have to ask now: each gets a record before its next slot.
  package mutating func lostRecord(seenAt: MonotonicInstant, at now: MonotonicInstant) -> Bool {
    if let lossSeenAt, seenAt < lossSeenAt { return false }
    lossSeenAt = now
    count += 1
    return true
  }
}
