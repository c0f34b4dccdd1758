// What one run of a row sweep reads, step by step, as a pure struct: an index's entries first, then the pages.
// Invariant: the run finds every row that was due when it began and was not locked, except rows that no index finds in
// a large table. The full pass finds those in time.

import Reactor

/// The route of one run through its table.
///
///     index scan ─── no entry is left ───────────────▶ is a full pass due? ── no ─▶ ended
///      │  ▲ │                                   ▲       │ yes, or no index has every due row
///      │  └─┘ most entries are due              │       ▼
///      │                                        │     page scan ── the table's end ─▶ ended
///      ├─ few are due ─▶ unordered index scan ──┘       ▲   │ the first pages had none, and thousands follow
///      │                        │ too many are due      │   ▼
///      └─ too many are due ─────┴───────────────────────┴─ table probe ── none is due ─▶ ended
///
/// An index finds a few due rows among a million at once. Many due rows are changed faster page by page, at a constant
/// cost per row. A probe of the whole table, which PostgreSQL runs with parallel workers, is the fastest way to find
/// that nothing is due; otherwise it returns the page of the first due row.
///
/// A row whose change fails, or exceeds the statement's time limit, is isolated: the range around it is divided down to
/// one page, and then that page's due rows are (see `RowIsolation`). All other rows are changed.
struct SweepRoute: Sendable {
  struct Step: Equatable, Sendable {
    enum Reads: Equatable, Sendable {
      /// The index's next entries in descending order from this key (µs); nil: from the cutoff.
      case indexScan(from: Int64?)
      /// All entries up to this key, in any order, until enough are due.
      case unorderedIndexScan(from: Int64)
      /// These pages.
      case pages(Range<Int>)
      /// The whole table, to find its first due row. Changes nothing.
      case probeTable
      /// This page, to list its due rows. Changes nothing.
      case dueRows(page: Int)
      /// These rows of a page.
      case rows([RowPlace])
    }

    let reads: Reads
    /// Whether locked rows are skipped rather than waited for.
    var skipsLocked = false
    /// The number of statements that share the pages; see `PageRanges.partCount`.
    var parts = 1

    var skippingLocked: Step { Step(reads: reads, skipsLocked: true) }
  }

  /// The entries that one step of the index scan reads, and the due rows that the unordered scan changes.
  static let entryLimit = 1_000
  /// Finding one due row by the index costs about as much as reading this many pages in sequence.
  static let pagesPerFoundRow = 8

  /// The size of tables that are probed, in pages: large enough for parallel workers to pay off, and small enough to
  /// read in a second.
  static let probePages = 1_000...100_000

  /// How often a run restarts on a table that was rewritten in the meantime, as by VACUUM FULL, CLUSTER or some forms
  /// of ALTER TABLE.
  static let rewriteLimit = 3

  private enum Phase: Equatable {
    case indexScan(from: Int64?)
    case unorderedIndexScan(from: Int64)
    case pageScan(Coverage)
    case ended
  }

  /// Which pages a page scan reads.
  private enum Coverage: Equatable {
    /// All pages. The table may be probed while no due row was met.
    case wholeTable(mayProbe: Bool)
    /// The pages from where an earlier run's pass stopped.
    case remainder(mayProbe: Bool)
    /// The same, and then all pages, because too many rows are due for the index.
    case remainderThenWholeTable

    /// The same without a probe, which can no longer help.
    var withoutProbe: Coverage {
      switch self {
      case .wholeTable: .wholeTable(mayProbe: false)
      case .remainder: .remainder(mayProbe: false)
      case .remainderThenWholeTable: .remainderThenWholeTable
      }
    }

    /// All pages, from the first one.
    var restarted: Coverage {
      switch self {
      case .wholeTable(let mayProbe), .remainder(let mayProbe): .wholeTable(mayProbe: mayProbe)
      case .remainderThenWholeTable: .wholeTable(mayProbe: false)
      }
    }
  }

  private let hasIndex: Bool
  private let passesSuffice: Bool
  private var phase: Phase
  private(set) var pass: FullPass?
  private(set) var ranges = PageRanges()
  /// The page whose rows are changed singly or in small groups.
  private var isolation: RowIsolation?
  private var table: TableSize?
  private var beganAt: Int64 = 0
  private var found = 0
  /// How often the table was rewritten, to another file, during the run.
  private var rewrites = 0
  /// Whether the table was rewritten too often for the run to read all of it.
  private(set) var isPartial = false

  /// - Parameters:
  ///   - pass: nil if the index has every due row.
  ///   - passesSuffice: whether full passes alone find due rows early enough, so that some runs skip the table.
  init(hasIndex: Bool, pass: FullPass?, passesSuffice: Bool = false) {
    self.hasIndex = hasIndex
    self.passesSuffice = passesSuffice && pass != nil
    self.pass = pass
    phase = hasIndex ? .indexScan(from: nil) : .pageScan(.wholeTable(mayProbe: true))
  }

  /// The steps of the first batch, which also measures the table. They suffice for a small table without due rows.
  var opening: [Step] {
    let scan = Step(reads: .indexScan(from: nil))
    let pages = Step(reads: .pages(0..<PageRanges.initialPages))
    if !hasIndex { return [pages] }
    return pass == nil ? [scan] : [scan, pages]
  }

  /// The next step; nil at the end.
  var next: Step? {
    switch phase {
    case .indexScan(let key): Step(reads: .indexScan(from: key))
    case .unorderedIndexScan(let key): Step(reads: .unorderedIndexScan(from: key))
    case .pageScan where isolation != nil: isolation?.step
    case .pageScan where isProbing: Step(reads: .probeTable)
    case .pageScan:
      ranges.next.map { Step(reads: .pages($0), skipsLocked: ranges.skipsLocked, parts: ranges.partCount) }
    case .ended: nil
    }
  }

  /// The first batch, which began at `now` (ms on PostgreSQL's clock), measured the table.
  mutating func measured(_ table: TableSize, at now: Int64) {
    self.table = table
    beganAt = now
    guard case .pageScan(let coverage) = phase else { return }
    if passesSuffice { endIndexScan() } else { scanPages(from: 0, coverage) }
  }

  /// An index scan read this many entries, and changed this many of the due ones.
  ///
  /// - Parameters:
  ///   - lowestKey: the last entry's key; nil if an ordered scan read none, and for an unordered one.
  ///   - tooManyForIndex: whether more rows are due than the index is efficient for.
  ///   - wasStopped: whether the time limit left some due rows for later.
  mutating func found(
    entries: Int, due: Int, changed: Int, lowestKey: Int64?, tooManyForIndex: Bool, wasStopped: Bool
  ) {
    precondition(isScanningIndex, "an index scan was answered after it had ended")
    found += due
    if tooManyForIndex { return scanAllPages() }
    // The step is repeated, unless it changed nothing because it waited for a lock.
    if wasStopped, changed > 0, found * Self.pagesPerFoundRow <= table?.pages ?? 0 { return }
    if wasStopped { return scanAllPages() }
    switch phase {
    case .indexScan(let key):
      guard entries >= Self.entryLimit, let lowestKey else { return endIndexScan() }
      // A step whose entries all have the same key would repeat forever.
      if found * Self.pagesPerFoundRow > table?.pages ?? 0 || lowestKey == key { return scanAllPages() }
      phase = due * 2 >= entries ? .indexScan(from: lowestKey) : .unorderedIndexScan(from: lowestKey)
    case .unorderedIndexScan:
      if due < Self.entryLimit { endIndexScan() } else { scanAllPages() }
    case .pageScan, .ended:
      break
    }
  }

  /// Pages were swept, up to `page` if the time limit stopped the transaction there.
  ///
  /// - Parameter end: the table's size; required for the last range.
  mutating func swept(
    _ range: Range<Int>, until page: Int? = nil, changed: Int, in duration: Duration, table end: TableSize? = nil
  ) {
    // The first batch may have read pages before the route chose others.
    guard case .pageScan = phase, range.lowerBound == ranges.nextPage else { return }
    if changed > 0 || page != nil { forgoProbe() }
    if let page {
      ranges.stopped(range, at: page, changed: changed, in: duration)
    } else {
      ranges.swept(range, changed: changed, in: duration)
    }
    pass?.reached(ranges.nextPage, after: duration)
    if ranges.next == nil { reachedEnd(of: end) }
  }

  /// The table probe found the first due row on `page`, or none.
  mutating func probed(firstDue page: Int?, in duration: Duration, table end: TableSize? = nil) {
    forgoProbe()
    guard case .pageScan = phase, let table else { preconditionFailure("a probe outside of a page scan") }
    // A row beyond the measured table is left to the next run.
    ranges.go(to: min(page ?? table.pages, table.pages))
    pass?.reached(ranges.nextPage, after: duration)
    if ranges.next == nil { reachedEnd(of: end) }
  }

  /// A row of `range` stayed locked for too long. The range is repeated without waiting for locks.
  mutating func stayedLocked(_ range: Range<Int>) {
    forgoProbe()
    ranges.stayedLocked(range)
  }

  /// How the run continues after a failed step.
  enum Retreat: Equatable {
    /// The next step is smaller, or another kind of scan.
    case smaller
    /// This many rows cannot be divided further. They are left unchanged, and the next step is about others.
    case givenUp(Int)
    /// The step cannot be divided, and nothing can be skipped.
    case none
  }

  /// A statement of `step` failed because of a row, was cancelled for taking too long, or met a lock that cannot be
  /// skipped.
  ///
  /// - Parameter isRefused: whether the statement failed, rather than being cancelled or waiting for a lock.
  mutating func retreat(from step: Step, isRefused: Bool) -> Retreat {
    forgoProbe()
    switch step.reads {
    case .probeTable: break
    case .indexScan, .unorderedIndexScan: scanAllPages()
    case .pages(let range):
      if !ranges.shrink(range) { isolation = RowIsolation(page: range.lowerBound) }
    case .dueRows:
      // A damaged page cannot be read, but those after it can.
      guard isRefused, isolation != nil else { return .none }
      isolation?.unreadable()
      return .givenUp(1)
    case .rows(let rows):
      if isolation?.failed() ?? false { return .givenUp(rows.count) }
    }
    return .smaller
  }

  /// The due rows of the isolated page.
  ///
  /// - Parameter end: as for `swept`.
  mutating func listed(_ rows: [RowPlace], table end: TableSize? = nil) {
    isolation?.listed(rows)
    leaveIsolation(end)
  }

  /// The rows of the last step were changed or given up.
  mutating func finishedRows(table end: TableSize? = nil) {
    isolation?.changed()
    leaveIsolation(end)
  }

  private mutating func leaveIsolation(_ end: TableSize?) {
    guard let isolation, isolation.isDone else { return }
    self.isolation = nil
    swept(isolation.page..<(isolation.page + 1), changed: 1, in: ranges.time.goal / 4, table: end)
  }

  /// Sets the next batch's times.
  mutating func expect(_ time: BatchTime) { ranges.time = time }

  /// The text for the schedule record; nil leaves it unchanged.
  var record: String? {
    pass.flatMap { $0.isRecorded ? $0.record.text : nil }
  }

  /// Whether the next step may end a page scan.
  var isLastRange: Bool {
    guard case .pageScan = phase else { return false }
    return isProbing || ranges.isLast
  }

  /// Whether the next step is a table probe: after the first pages, if none had a due row.
  private var isProbing: Bool {
    guard phase == .pageScan(.wholeTable(mayProbe: true)), ranges.nextPage > 0, let table else { return false }
    return Self.probePages.contains(table.pages)
  }

  private mutating func reachedEnd(of end: TableSize?) {
    guard case .pageScan(let coverage) = phase else { preconditionFailure("the table's end is reached by a page scan") }
    pass?.ended(file: end?.file ?? 0)
    if let end, end.file != table?.file {
      isPartial = rewrites == Self.rewriteLimit
      guard !isPartial else {
        phase = .ended
        return
      }
      // Rows that were ahead may now be on pages that this run has read.
      rewrites += 1
      table = end
      _ = pass?.start(end, at: beganAt, mustBegin: true)
      scanPages(from: 0, coverage.restarted)
    } else if coverage == .remainderThenWholeTable {
      // The due rows that the index found may be before the page at which this run continued the pass.
      pass?.begin(at: beganAt)
      scanPages(from: 0, coverage.restarted)
    } else {
      phase = .ended
    }
  }

  private var isScanningIndex: Bool {
    switch phase {
    case .indexScan, .unorderedIndexScan: true
    case .pageScan, .ended: false
    }
  }

  private mutating func endIndexScan() {
    guard let table, let start = pass?.start(table, at: beganAt) else {
      phase = .ended
      return
    }
    scanPages(from: start, start == 0 ? .wholeTable(mayProbe: true) : .remainder(mayProbe: true))
  }

  /// Leaves the index for the pages, because too many rows are due or its statement failed.
  private mutating func scanAllPages() {
    guard let table else { return }
    let start = pass?.start(table, at: beganAt, mustBegin: true) ?? 0
    scanPages(from: start, start == 0 ? .wholeTable(mayProbe: false) : .remainderThenWholeTable)
  }

  private mutating func forgoProbe() {
    if case .pageScan(let coverage) = phase { phase = .pageScan(coverage.withoutProbe) }
  }

  private mutating func scanPages(from start: Int, _ coverage: Coverage) {
    ranges.go(to: start)
    ranges.measured(pages: table?.pages ?? 0)
    phase = ranges.next == nil ? .ended : .pageScan(coverage)
  }
}
