// Which pages a row sweep's next batch covers, as a pure struct.
// Invariant: the ranges follow each other without gap or overlap, and none is larger than the limit.

/// Walks a table in ranges of pages whose size adapts so that a transaction takes about `goal`.
struct PageRanges: Sendable {
  /// What one transaction should take. The range is doubled below half of it, and halved above it.
  static let goal = Duration.milliseconds(25)
  static let initialPages = 64
  static let limits = 8...4_000

  /// Pages of the table, where they are known.
  private(set) var tablePages: Int?
  private(set) var nextPage = 0
  private var pages = initialPages

  /// The next range, or nil where the table's end was reached.
  var next: Range<Int>? {
    if let tablePages, nextPage >= tablePages { return nil }
    return nextPage..<(nextPage + pages)
  }

  /// The range `done` was swept by a transaction that took `duration`.
  mutating func swept(_ done: Range<Int>, in duration: Duration) {
    nextPage = done.upperBound
    if duration > Self.goal {
      pages = max(Self.limits.lowerBound, pages / 2)
    } else if duration < Self.goal / 2 {
      pages = min(Self.limits.upperBound, pages * 2)
    }
  }

  /// The table has so many pages. Rows that a later insert puts behind them are the next run's.
  mutating func measured(pages: Int) {
    tablePages = pages
  }
}
