// When a replica has to ask Redis out of turn: an operator has triggered a run, or Redis has lost its data. Pure.
// Invariant: each trigger that any sweeper's record tells of counts once, and so does each loss. Driven by SweeperLoop.

import Reactor

/// What a replica knows of triggers and of lost records. Each take's answer has the newest trigger of all sweepers and
/// the record's origin, so a rare sweeper's trigger, or the loss of its record, is learned by whichever asks first.
package struct TriggerNews: Equatable, Sendable {
  /// The newest trigger's id as far as known; nil before the first answer.
  private var newest: Int64?
  /// When a loss was last learned of.
  private var lossLearnedAt: MonotonicInstant?
  /// How many times all sweepers were to ask.
  package private(set) var count = 0

  package init() {}

  /// Redis answered a take.
  ///
  /// - Parameter id: the newest trigger that the record tells of; 0 if it tells of none.
  /// - Returns: whether all sweepers are to ask now. What was set before the first answer needs no question: at boot
  ///   each sweeper asks anyway.
  package mutating func answered(newest id: Int64) -> Bool {
    defer { newest = max(newest ?? 0, id) }
    guard let newest, id > newest else { return false }
    count += 1
    return true
  }

  /// A sweeper's record is another one than Redis last answered with: Redis lost its data, and with it who attends the
  /// sweepers and which are paused.
  ///
  /// - Parameter seenAt: when the earlier record was last seen. If all sweepers were to ask since, it is the same loss.
  /// - Returns: whether all sweepers are to ask now, so that each has a record before its next slot.
  package mutating func lostRecord(seenAt: MonotonicInstant, at now: MonotonicInstant) -> Bool {
    if let lossLearnedAt, seenAt < lossLearnedAt { return false }
    lossLearnedAt = now
    count += 1
    return true
  }
}
