// What one run of a row sweep reads, step by step, as a pure struct: an index's entries first, then the pages.
// Invariant: every row that was due when the run began, and that nobody held, is met, but for those that no index
// finds in a large table, which the full pass meets in time.

import Reactor

/// The way of one run through its table.
///
///                few: all entries were looked at
///     walking ─────────────────────────────────▶ is a full pass due? ── no ─▶ ended
///      │  ▲ │                                ▲       │ yes, or no index has every due row
///      │  └─┘ most entries are due           │       ▼
///      │                                     │     paging ─── the table's end ─▶ ended
///      ├─ hardly any is ─▶ gathering ── few ─┘       ▲   │ the first pages had none, and thousands follow
///      │                        │ many               │   ▼
///      └─ too many are due ─────┴────────────────────┴─ looking ─── none at all ─▶ ended
///
/// A few due rows among a million are found by the index in no time; many are changed faster page by page, and that
/// way costs the same for each row however many there are. That nothing is due is told fastest by a look at the table
/// as a whole, which PostgreSQL shares out among parallel workers; it says at which page the first due row lies, too.
///
/// A row whose change fails, or takes longer than a statement may, is cut out: the range around it is halved and halved
/// again, down to one page, and then that page's due rows are (see `RowIsolation`). All others are changed.
struct SweepRoute: Sendable {
  struct Step: Equatable, Sendable {
    enum Reads: Equatable, Sendable {
      /// The index's next entries, from this key (µs) downwards (nil: from the cutoff).
      case walk(from: Int64?)
      /// All entries from this key downwards, in no order, until enough are due.
      case gather(from: Int64)
      /// These pages.
      case pages(Range<Int>)
      /// The whole table, to find its first due row; changes nothing.
      case look
      /// This page, to list its due rows; changes nothing.
      case dueRows(page: Int)
      /// These rows of a page.
      case rows([RowPlace])
    }

    let reads: Reads
    /// Whether rows that someone else holds are left out rather than waited for.
    var skipsLocked = false
    /// How many parts pages are written in; see `PageRanges.partCount`.
    var parts = 1

    var skippingLocked: Step { Step(reads: reads, skipsLocked: true) }
  }

  /// Entries of the index that one step looks at, and due rows that a gathering changes.
  static let entryLimit = 1_000
  /// One due row found by the index costs about what so many pages do that are read one after the other.
  static let pagesPerFoundRow = 8

  /// How many pages a table has that is looked at as a whole: as many as parallel workers are worth, and not so many
  /// that it takes a second.
  static let lookPages = 1_000...100_000

  /// How often a run reads a table again that was rewritten meanwhile, as VACUUM FULL, CLUSTER and some forms of ALTER
  /// TABLE do.
  static let rewriteLimit = 3

  private enum Phase: Equatable {
    case walking(from: Int64?)
    case gathering(from: Int64)
    case paging
    case ended
  }

  private let hasIndex: Bool
  private let passesSuffice: Bool
  private var phase: Phase
  private(set) var pass: FullPass?
  private(set) var ranges = PageRanges()
  /// The page whose rows are changed one by one, or nearly so.
  private var isolation: RowIsolation?
  private var table: TableSize?
  private var beganAt: Int64 = 0
  private var found = 0
  /// More rows are due than the index is good for.
  private var isPlenty = false
  /// Whether this run's pass covers the whole table.
  private var isWhole = true
  /// How often the table was rewritten, to another file, during the run.
  private var rewrites = 0
  /// Whether the table was rewritten too often for the run to read all of it.
  private(set) var isPartial = false
  /// Whether a look at the whole table may say more than the pages so far, which had nothing to do.
  private var mayLook = true

  /// - Parameters:
  ///   - pass: given where the index does not have every due row.
  ///   - passesSuffice: whether full passes alone find due rows early enough, so that no run need read everything.
  init(hasIndex: Bool, pass: FullPass?, passesSuffice: Bool = false) {
    self.hasIndex = hasIndex
    self.passesSuffice = passesSuffice && pass != nil
    self.pass = pass
    phase = hasIndex ? .walking(from: nil) : .paging
  }

  /// What the first batch does, besides measuring the table. A small table that has nothing due is done with it.
  var opening: [Step] {
    let walk = Step(reads: .walk(from: nil))
    let pages = Step(reads: .pages(0..<PageRanges.initialPages))
    if !hasIndex { return [pages] }
    return pass == nil ? [walk] : [walk, pages]
  }

  /// The next step; nil at the end.
  var next: Step? {
    switch phase {
    case .walking(let key): Step(reads: .walk(from: key))
    case .gathering(let key): Step(reads: .gather(from: key))
    case .paging where isolation != nil: isolation?.step
    case .paging where isLooking: Step(reads: .look)
    case .paging:
      ranges.next.map { Step(reads: .pages($0), skipsLocked: ranges.skipsLocked, parts: ranges.partCount) }
    case .ended: nil
    }
  }

  /// The table as the first batch met it, which began at `now` (ms on PostgreSQL's clock).
  mutating func measured(_ table: TableSize, at now: Int64) {
    self.table = table
    beganAt = now
    guard phase == .paging else { return }
    if passesSuffice { indexIsDone() } else { page(from: 0) }
  }

  /// A walk or a gathering met so many entries, and changed so many of the due ones among them.
  ///
  /// - Parameters:
  ///   - lowestKey: the last entry's key, where a walk met any.
  ///   - isPlenty: more due rows are there than the index is good for.
  ///   - wasStopped: the clock left some of the due ones for later.
  mutating func found(entries: Int, due: Int, changed: Int, lowestKey: Int64?, isPlenty: Bool, wasStopped: Bool) {
    found += due
    if isPlenty { return readEverything() }
    // The same step again, unless it got nothing done: then it waited for a lock.
    if wasStopped, changed > 0, found * Self.pagesPerFoundRow <= table?.pages ?? 0 { return }
    if wasStopped { return readEverything() }
    switch phase {
    case .walking(let key):
      guard entries >= Self.entryLimit, let lowestKey else { return indexIsDone() }
      // A step whose entries all have one key would be made again and again.
      if found * Self.pagesPerFoundRow > table?.pages ?? 0 || lowestKey == key { return readEverything() }
      phase = due * 2 >= entries ? .walking(from: lowestKey) : .gathering(from: lowestKey)
    case .gathering:
      if due < Self.entryLimit { indexIsDone() } else { readEverything() }
    case .paging, .ended:
      break
    }
  }

  /// Pages were swept, until the clock stopped the transaction at `page` where it is given; the table's extent is to be
  /// known at its end.
  mutating func swept(
    _ range: Range<Int>, until page: Int? = nil, changed: Int, in duration: Duration, table end: TableSize? = nil
  ) {
    // The first batch may have read pages that turned out not to be the next ones.
    guard phase == .paging, range.lowerBound == ranges.nextPage else { return }
    if changed > 0 || page != nil { mayLook = false }
    if let page {
      ranges.stopped(range, at: page, changed: changed, in: duration)
    } else {
      ranges.swept(range, changed: changed, in: duration)
    }
    pass?.reached(ranges.nextPage, after: duration)
    if ranges.next == nil { reachedEnd(of: end) }
  }

  /// A look at the whole table met its first due row on `page`, or none.
  mutating func looked(firstDue page: Int?, in duration: Duration, table end: TableSize? = nil) {
    mayLook = false
    guard phase == .paging, let table else { return }
    // A row behind the table as it was measured is the next run's.
    ranges.go(to: min(page ?? table.pages, table.pages))
    pass?.reached(ranges.nextPage, after: duration)
    if ranges.next == nil { reachedEnd(of: end) }
  }

  /// A row of `range` stayed locked for too long: the range is done again without waiting.
  mutating func stayedLocked(_ range: Range<Int>) {
    mayLook = false
    ranges.stayedLocked(range)
  }

  /// What is left of a step that failed as it was.
  enum Retreat: Equatable {
    /// The next step is a smaller one, or another way.
    case smaller
    /// Of this many rows nothing smaller is left: they stay as they are, and the next step is about others.
    case givenUp(Int)
    /// Nothing smaller is left, and nothing can be left out.
    case none
  }

  /// A statement of `step` failed for a row of it, was cancelled for taking too long, or met a lock that is not left
  /// out.
  ///
  /// - Parameter isRefused: the statement failed, and was neither cancelled nor waiting for a lock.
  mutating func retreat(from step: Step, isRefused: Bool) -> Retreat {
    mayLook = false
    switch step.reads {
    case .look: break
    case .walk, .gather: readEverything()
    case .pages(let range):
      if !ranges.shrink(range) { isolation = RowIsolation(page: range.lowerBound) }
    case .dueRows:
      // A damaged page cannot even be read: those behind it can.
      guard isRefused, isolation != nil else { return .none }
      isolation?.unreadable()
      return .givenUp(1)
    case .rows(let rows):
      if isolation?.failed() ?? false { return .givenUp(rows.count) }
    }
    return .smaller
  }

  /// The due rows of the page that is isolated. As for `swept`, the table's extent is to be known at its end.
  mutating func listed(_ rows: [RowPlace], table end: TableSize? = nil) {
    isolation?.listed(rows)
    leaveIsolation(end)
  }

  /// The rows that the last step was about were changed, or given up.
  mutating func finishedRows(table end: TableSize? = nil) {
    isolation?.changed()
    leaveIsolation(end)
  }

  private mutating func leaveIsolation(_ end: TableSize?) {
    guard let isolation, isolation.isDone else { return }
    self.isolation = nil
    swept(isolation.page..<(isolation.page + 1), changed: 1, in: ranges.time.goal / 4, table: end)
  }

  /// The next batch has these times.
  mutating func expect(_ time: BatchTime) { ranges.time = time }

  /// What the schedule record is to keep; nil where it is to stay as it is.
  var record: String? {
    pass.flatMap { $0.isRecorded ? $0.record.text : nil }
  }

  /// Whether the next step may end a walk over the pages.
  var isLastRange: Bool { phase == .paging && (isLooking || ranges.isLast) }

  /// Whether the next step is a look at the whole table: after the first pages, where nothing is known to be due.
  private var isLooking: Bool {
    guard mayLook, isWhole, !isPlenty, ranges.nextPage > 0, let table else { return false }
    return Self.lookPages.contains(table.pages)
  }

  private mutating func reachedEnd(of end: TableSize?) {
    pass?.ended(file: end?.file ?? 0)
    if let end, end.file != table?.file {
      isPartial = rewrites == Self.rewriteLimit
      guard !isPartial else {
        phase = .ended
        return
      }
      // Rows that lay ahead may lie behind now, on pages that this run has read.
      rewrites += 1
      table = end
      _ = pass?.start(end, at: beganAt, mustBegin: true)
      page(from: 0)
    } else if isPlenty, !isWhole {
      // What the index found too much of may lie before the page at which this run took the pass up.
      pass?.begin(at: beganAt)
      page(from: 0)
    } else {
      phase = .ended
    }
  }

  private mutating func indexIsDone() {
    guard let table, let start = pass?.start(table, at: beganAt) else {
      phase = .ended
      return
    }
    page(from: start)
  }

  private mutating func readEverything() {
    guard phase != .paging else { return }
    isPlenty = true
    guard let table else { return }
    page(from: pass?.start(table, at: beganAt, mustBegin: true) ?? 0)
  }

  private mutating func page(from start: Int) {
    isWhole = start == 0
    ranges.go(to: start)
    ranges.measured(pages: table?.pages ?? 0)
    phase = .paging
    if ranges.next == nil { phase = .ended }
  }
}
