// Which due rows a batch changes for a role that cannot read ctid, as a pure struct: windows over the key column.
// Invariant: the windows are consecutive, and each makes progress.

import Reactor

/// Processes due rows from the oldest on.
///
///                 swept: the next window
///                    ┌──────┐
///                    ▼      │
///     first key ─▶ trying ──┘── failed ──▶ a smaller window ── one row ──▶ given up, and the next window follows
///                    │
///                    └── no row is due any more ──▶ done
struct KeyWindows: Equatable, Sendable {
  /// The most rows of one transaction, not counting others with the same last key.
  static let rowLimit = 1_000
  private static let shrinkFactor = 8
  /// A window grows only if the larger one should take no longer than this, half of a statement's time limit.
  /// Otherwise, with slow rows, each window that is too large would use up that limit and change nothing.
  static let growthLimit = Duration.milliseconds(500)

  /// The window begins after this key, in µs since 1970; nil at the beginning.
  private(set) var after: Int64?
  private(set) var limit = rowLimit
  private(set) var isDone = false

  /// The window up to and including `key` was swept; nil if no row was due.
  mutating func swept(upTo key: Int64?, in duration: Duration) {
    guard let key else {
      isDone = true
      return
    }
    after = key
    guard duration * Self.shrinkFactor <= Self.growthLimit else { return }
    limit = min(Self.rowLimit, limit * Self.shrinkFactor)
  }

  /// The window's statement failed. False if the window cannot be any smaller.
  mutating func shrink() -> Bool {
    guard limit > 1 else { return false }
    limit = max(1, limit / Self.shrinkFactor)
    return true
  }

  /// The rows with `key` are left unchanged; nil if none is left.
  mutating func giveUp(_ key: Int64?) {
    if let key { after = key } else { isDone = true }
  }
}
