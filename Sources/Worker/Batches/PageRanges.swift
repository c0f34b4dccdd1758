// Which pages a row sweep's next batch covers, as a pure struct.
// Invariant: the ranges follow each other without gap, none is larger than the limit, and each batch gets further.

import Reactor

/// Walks a table in ranges of pages whose size adapts so that a transaction takes about the goal of `time`.
///
///                 swept: the next range, of a size that follows from this one's time
///                    ┌──────┐
///                    ▼      │
///     from page ─▶ waiting ─┘◀───────────── the range's end was reached ──┐
///                    │                                                    │
///                    └─ a row stayed locked, or nothing was got done ─▶ skipping
///
/// What one page costs cannot be foreseen: a thousand may hold nothing that is due, and the next ten more than a
/// transaction's worth. So a write also looks at the clock, and a range that could not be finished in time is continued
/// where it stopped. Looking at it for every row takes a twentieth of a delete's time. It is done only where few rows
/// of the last pages were due, so that the next ones may hold many times as many. Where many were, the range is done in
/// parts, and before each of them the clock is looked at once.
package struct PageRanges: Sendable {
  /// The parts that a range is done in whose pages are full of due rows.
  static let parts = 4
  /// Due rows a page that make it full: the control plane's rows are so wide that a page has no ten times as many.
  static let fullPageRows = 8
  /// But where it took long to find the first row that is due, so much time is left to write.
  package static let writeReserve = Duration.milliseconds(10)
  static let initialPages = 64
  static let limits = 1...16_000
  /// The most that a range grows or shrinks at a time, as a factor.
  static let growthLimit = 4.0
  /// The most pages of a range in which locked rows are left out: there no clock is looked at.
  static let skippingPages = 8

  /// The times of the next batch.
  var time = BatchTime()
  /// Pages of the table, where they are known.
  private(set) var tablePages: Int?
  private(set) var nextPage = 0
  private var pages = initialPages
  /// Up to here locked rows are left out.
  private var skippingEnd = 0
  /// Whether the last range's pages were full of due rows.
  private var isFull = false

  /// The next range, or nil where the table's end was reached.
  var next: Range<Int>? {
    if let tablePages, nextPage >= tablePages { return nil }
    if skipsLocked { return nextPage..<min(nextPage + min(Self.skippingPages, pages), skippingEnd) }
    return nextPage..<(nextPage + pages)
  }

  /// Whether the next range is done without waiting for any row's lock.
  var skipsLocked: Bool { nextPage < skippingEnd }

  /// How many parts the next range is done in. One: there the clock is looked at for every row.
  var partCount: Int { isFull && !skipsLocked && pages >= Self.parts ? Self.parts : 1 }

  /// Whether no range follows on the next one, as far as is known.
  var isLast: Bool {
    guard let tablePages, let next else { return false }
    return next.upperBound >= tablePages
  }

  /// The range `done` was swept by a transaction that took `duration`.
  mutating func swept(_ done: Range<Int>, changed: Int = 0, in duration: Duration) {
    if !skipsLocked { adapt(done.count, changed, duration) }
    nextPage = done.upperBound
  }

  /// The clock stopped the transaction on `range`: the first row that is still due lies on `page`.
  mutating func stopped(_ range: Range<Int>, at page: Int, changed: Int, in duration: Duration) {
    let wasInParts = partCount > 1
    adapt(max(1, page - range.lowerBound), changed, duration)
    nextPage = page
    // The time went into waiting for a lock; or into something before the first part, which is done without parts now.
    if changed == 0, page == range.lowerBound, !wasInParts { stayedLocked(range) }
  }

  /// The parts of `range`, one after the other.
  static func parts(of range: Range<Int>, count: Int) -> [Range<Int>] {
    (0..<count).map { part in
      range.lowerBound + range.count * part / count..<range.lowerBound + range.count * (part + 1) / count
    }
  }

  /// A row of `range` stayed locked for too long, and nothing of the range was changed.
  mutating func stayedLocked(_ range: Range<Int>) {
    skippingEnd = range.upperBound
  }

  /// A statement about `range` failed, or was cancelled for taking too long. False if the range cannot be any smaller.
  mutating func shrink(_ range: Range<Int>) -> Bool {
    pages = max(Self.limits.lowerBound, range.count / Int(Self.growthLimit))
    return range.count > Self.limits.lowerBound
  }

  /// Where a range is to be taken up whose parts changed so many rows each; nil where all of it was done. A part that
  /// was left out changed none, and so did one without due rows: what follows the last change is looked at again.
  static func stop(
    of range: Range<Int>, changes: [Int], in duration: Duration, _ time: BatchTime = BatchTime()
  ) -> Int? {
    guard duration >= time.partLimit else { return nil }
    guard let last = changes.lastIndex(where: { $0 > 0 }) else { return range.lowerBound }
    let page = parts(of: range, count: changes.count)[last].upperBound
    return page < range.upperBound ? page : nil
  }

  /// The walk begins, or begins again, at `page`.
  mutating func go(to page: Int) {
    nextPage = page
    skippingEnd = 0
  }

  /// The table has so many pages. Rows that a later insert puts behind them are the next run's.
  mutating func measured(pages: Int) {
    tablePages = pages
  }

  private mutating func adapt(_ done: Int, _ changed: Int, _ duration: Duration) {
    isFull = changed >= done * Self.fullPageRows
    let nanoseconds = Double(max(1, duration.nanoseconds))
    let factor = Double(time.goal.nanoseconds) / nanoseconds
    let wanted = Double(done) * min(Self.growthLimit, max(1 / Self.growthLimit, factor))
    pages = min(Self.limits.upperBound, max(Self.limits.lowerBound, Int(wanted)))
  }
}
