// Which due rows a batch changes together with their linked rows, as a pure struct: windows over the key column.
// Invariant: each window changes rows or makes progress; a row that stays due is tried at most twice per run.

import Reactor

/// Processes due rows from the oldest on.
///
///                 swept: the next window
///                    ┌──────┐
///                    ▼      │
///     first key ─▶ trying ──┘── a row stayed locked ──▶ the same without locked rows ──▶ the next window
///                   │    │
///                   │    └── failed ──▶ a smaller window ── one row ──▶ given up, and the next window follows
///                   └── no row is due ──▶ done
///
/// Many more rows than fit in a window can share a key. So the next window begins at the last row's key, and skips as
/// many rows with that key as stayed due.
struct LinkedWindows: Equatable, Sendable {
  /// The answers of a window's statements.
  struct Answer: Equatable, Sendable {
    let due: Int
    let changed: Int
    /// The last row's key in µs since 1970, and how many rows with it are due; nil if no row was due.
    let lastKey: Int64?
    let dueAtLastKey: Int
  }

  /// Rows of one transaction, including linked ones. A row with more linked ones is alone in its window.
  static let limits = 1...4_000
  static let initialLimit = 500
  /// The largest factor by which a window grows or shrinks at a time.
  static let growthLimit = 4

  /// The target duration of a transaction; nil if it does not depend on the window's size, because each window reads
  /// the whole table.
  private var goal: Duration?
  /// The window begins at this key, in µs since 1970, after `passedOver` due rows with it; nil at the beginning.
  private(set) var from: Int64?
  private(set) var passedOver = 0
  private(set) var limit: Int
  private(set) var isDone = false
  /// Whether rows that other sessions have locked are skipped.
  private(set) var skipsLocked = false
  /// Whether the window was tried once and left rows due without meeting a lock.
  private var isAgain = false

  init(goal: Duration?) {
    self.goal = goal
    limit = goal == nil ? Self.limits.upperBound : Self.initialLimit
  }

  /// Sets the target duration of transactions.
  mutating func expect(_ goal: Duration) {
    if self.goal != nil { self.goal = goal }
  }

  /// The window was swept by a transaction that took `duration`.
  ///
  /// - Returns: how many of its rows are still due; nil if the window is retried, because another session may have
  ///   changed a row in the meantime.
  mutating func swept(_ answer: Answer, in duration: Duration) -> Int? {
    guard answer.due > 0, let lastKey = answer.lastKey else {
      isDone = true
      return 0
    }
    if answer.changed < answer.due, !skipsLocked, !isAgain {
      isAgain = true
      return nil
    }
    pass(to: lastKey, answer.dueAtLastKey)
    if let goal { adapt(to: goal, duration) }
    return answer.due - answer.changed
  }

  /// A row of the window stayed locked for too long. False if locked rows are skipped already: it is another lock.
  mutating func stayedLocked() -> Bool {
    guard !skipsLocked else { return false }
    skipsLocked = true
    return true
  }

  /// The window's statements failed. False if the window cannot be any smaller.
  mutating func shrink() -> Bool {
    guard limit > Self.limits.lowerBound else { return false }
    limit = max(Self.limits.lowerBound, limit / (2 * Self.growthLimit))
    return true
  }

  /// The window's first row, with `key`, is left unchanged; nil if no row is due any more.
  mutating func giveUp(_ key: Int64?) {
    guard let key else {
      isDone = true
      return
    }
    pass(to: key, 1)
    limit = Self.growthLimit
  }

  private mutating func pass(to key: Int64, _ left: Int) {
    passedOver = (key == from ? passedOver : 0) + left
    from = key
    skipsLocked = false
    isAgain = false
  }

  private mutating func adapt(to goal: Duration, _ duration: Duration) {
    let factor = Double(goal.nanoseconds) / Double(max(1, duration.nanoseconds))
    let bound = Double(Self.growthLimit)
    let wanted = Int(Double(limit) * min(bound, max(1 / bound, factor)))
    limit = min(Self.limits.upperBound, max(Self.limits.lowerBound, wanted))
  }
}
