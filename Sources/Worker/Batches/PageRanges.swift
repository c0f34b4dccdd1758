// Which pages a row sweep's next batch covers, as a pure struct.
// Invariant: the ranges are contiguous, none exceeds the limit, and each batch makes progress.

import Reactor

/// Sweeps a table in page ranges sized so that a transaction takes about the goal of `time`.
///
///                 swept: the next range, of a size that follows from this one's time
///                    ┌──────┐
///                    ▼      │
///     from page ─▶ waiting ─┘◀───────────── the range's end was reached ──┐
///                    │                                                    │
///                    └─ a row stayed locked, or nothing was got done ─▶ skipping
///
/// The cost of a page is unpredictable: a thousand pages may have no due row, and the next ten more than fit into one
/// transaction. So a write also checks the clock, and a range that runs out of time resumes where it stopped. A check
/// per row takes 5% of a delete's time, so it is done only if the last pages had few due rows and the next ones may
/// have many times as many. Otherwise the range is split into parts, with one check before each.
package struct PageRanges: Sendable {
  /// The number of parts of a range whose pages are full of due rows.
  static let parts = 4
  /// Due rows per page that make it full: the control plane's rows are too wide for ten times as many.
  static let fullPageRows = 8
  /// The least time for writing, even if finding the first due row took long.
  package static let writeReserve = Duration.milliseconds(10)
  static let initialPages = 64
  static let limits = 1...16_000
  /// The largest factor by which a range grows or shrinks at a time.
  static let growthLimit = 4.0
  /// The most pages of a range that skips locked rows: its statement does not check the clock.
  static let skippingPages = 8

  /// The times of the next batch.
  var time = BatchTime()
  /// The table's size in pages; nil if unknown.
  private(set) var tablePages: Int?
  private(set) var nextPage = 0
  private var pages = initialPages
  /// Locked rows are skipped before this page.
  private var skippingEnd = 0
  /// Whether the last range's pages were full of due rows.
  private var isFull = false

  /// The next range; nil at the end of the table.
  var next: Range<Int>? {
    if let tablePages, nextPage >= tablePages { return nil }
    if skipsLocked { return nextPage..<min(nextPage + min(Self.skippingPages, pages), skippingEnd) }
    return nextPage..<(nextPage + pages)
  }

  /// Whether the next range skips locked rows.
  var skipsLocked: Bool { nextPage < skippingEnd }

  /// The number of parts of the next range. If it is 1, the clock is checked per row.
  var partCount: Int { isFull && !skipsLocked && pages >= Self.parts ? Self.parts : 1 }

  /// Whether the next range is known to be the last.
  var isLast: Bool {
    guard let tablePages, let next else { return false }
    return next.upperBound >= tablePages
  }

  /// The range `done` was swept by a transaction that took `duration`.
  mutating func swept(_ done: Range<Int>, changed: Int = 0, in duration: Duration) {
    if !skipsLocked { adapt(done.count, changed, duration) }
    nextPage = done.upperBound
  }

  /// The time limit stopped the transaction on `range`: the first row that is still due is on `page`.
  mutating func stopped(_ range: Range<Int>, at page: Int, changed: Int, in duration: Duration) {
    let wasInParts = partCount > 1
    adapt(max(1, page - range.lowerBound), changed, duration)
    nextPage = page
    // The time was spent waiting for a lock, or before the first part; that range is retried without parts.
    if changed == 0, page == range.lowerBound, !wasInParts { stayedLocked(range) }
  }

  /// The parts of `range`, in order.
  static func parts(of range: Range<Int>, count: Int) -> [Range<Int>] {
    (0..<count).map { part in
      range.lowerBound + range.count * part / count..<range.lowerBound + range.count * (part + 1) / count
    }
  }

  /// A row of `range` stayed locked for too long, and nothing of the range was changed.
  mutating func stayedLocked(_ range: Range<Int>) {
    skippingEnd = range.upperBound
  }

  /// A statement on `range` failed, or was cancelled for taking too long. False if the range cannot be any smaller.
  mutating func shrink(_ range: Range<Int>) -> Bool {
    pages = max(Self.limits.lowerBound, range.count / Int(Self.growthLimit))
    return range.count > Self.limits.lowerBound
  }

  /// The page at which a range resumes, given the rows changed per part; nil if it was completed. A skipped part and
  /// one without due rows both have 0, so all pages after the last change are read again.
  static func stop(
    of range: Range<Int>, changes: [Int], in duration: Duration, _ time: BatchTime = BatchTime()
  ) -> Int? {
    guard duration >= time.partLimit else { return nil }
    guard let last = changes.lastIndex(where: { $0 > 0 }) else { return range.lowerBound }
    let page = parts(of: range, count: changes.count)[last].upperBound
    return page < range.upperBound ? page : nil
  }

  /// The sweep starts, or restarts, at `page`.
  mutating func go(to page: Int) {
    nextPage = page
    skippingEnd = 0
  }

  /// Sets the table's size. Rows inserted beyond it are left to the next run.
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
