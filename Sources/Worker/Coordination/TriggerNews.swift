// When a replica has to ask Redis out of turn, since an operator has triggered a run. Pure.
// Invariant: each trigger that any sweeper's record tells of counts once. Driven by SweeperLoop.

/// What a replica knows of triggers. Each take's answer has the newest one of all sweepers, so a rare sweeper's trigger
/// is learned by whichever sweeper asks first.
package struct TriggerNews: Equatable, Sendable {
  /// The newest trigger's id as far as known; nil before the first answer.
  private var newest: Int64?
  /// How many times a newer one was learned of.
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
}
