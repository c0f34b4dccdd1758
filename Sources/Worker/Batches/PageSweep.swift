// Sweeps a table by the index that finds due rows and by page ranges, as its route says. Called by RowSweepRun.
// Invariants: those of SweepRoute; every row that stays due is counted once, under the reason why it does.

import Coordination
import Reactor

/// One run over one table, or one part of it.
@EventLoop
final class PageSweep {
  private typealias Failure = SweepBatches.Failure

  /// A range of so few pages that hit a limit is read again from its beginning, about 10 µs per page.
  static let pagesReadAgain = 8

  private let statements: TableStatements
  private let table: TableSurvey
  private let batches: SweepBatches
  private let tally: RunTally
  private var route: SweepRoute
  /// Locked rows that an index scan found. A page scan finds them again.
  private var skippedByIndex = 0
  private var skippedOnPages = 0
  /// Rows that stayed due although they were written, or that a statement skipped.
  private var kept = 0
  /// The due rows that the last locking statement found, and how many of them it locked.
  private var lastLock: (due: Int, locked: Int)?
  /// The row limit of the last batch; nil for none.
  private var lastLimit: Int?
  /// The record of the full pass, once it is durable.
  private(set) var record: String?

  init(
    _ statements: TableStatements, of table: TableSurvey, in session: GuardedSession, knowing memory: TableMemory,
    route: SweepRoute, noting tally: RunTally
  ) {
    self.statements = statements
    self.table = table
    self.tally = tally
    self.route = route
    batches = SweepBatches(statements.sweep, on: table, in: session, knowing: memory, noting: tally)
  }

  func run() async throws {
    // A pass that starts in mid-table finds only some of the index scan's rows again.
    defer { tally.count.skipped += max(skippedByIndex, skippedOnPages) }
    do {
      try await open()
      while let step = route.next, try await batches.waitForBrakes() {
        do {
          let done = try await send([step], measures: route.isLastRange)
          route.expect(batches.time)
          try await note(step, done.results, done)
        } catch let failure as Failure {
          try await meet(failure, at: step)
        }
      }
      tally.count.kept += kept
      try await takeBackUndone()
      if tally.count.isPartial, let record = route.record {
        // The position is recorded only when the changes before it are durable.
        _ = try await send([], measures: true)
        self.record = record
      }
    } catch let failure as Failure {
      throw failure.cause
    }
    if route.isPartial { throw SweepRefusal.changing(table.displayName) }
  }

  /// Subtracts rows that were counted as changed and are due again.
  private func takeBackUndone() async throws {
    guard let watch = batches.watch, watch.isInDoubt, let first = watch.firstTransaction else { return }
    guard let undone = try await batches.countUndone(PostgresStatement(statements.dueSince, [first])) else { return }
    tally.count.changed -= watch.overcount(undone: undone)
    tally.count.kept += max(0, undone - kept)
  }

  /// The first batch also measures the table.
  private func open() async throws {
    // In one batch, the second step would meet rows that a trigger has reset, and each step would have the whole limit.
    let isTogether = batches.watch == nil && batches.rowLimit == nil && !statements.sweep.leavesReferenced
    var steps = isTogether ? route.opening : Array(route.opening.prefix(1))
    var done: SweepBatches.Answers
    do {
      done = try await send(steps, measures: true)
    } catch let failure as Failure {
      steps = failure.kind == .locked && table.canLockRows ? [steps[0].skippingLocked] : []
      done = try await send(steps, measures: true)
    }
    if let size = done.table { route.measured(size, at: done.beganAt) }
    // Several steps are one statement each.
    if steps.count == 1 { return try await note(steps[0], done.results, done) }
    for (step, answer) in zip(steps, done.results) { try await note(step, [answer], done) }
  }

  /// Continues after a failed batch, or throws its cause.
  private func meet(_ failure: Failure, at step: SweepRoute.Step) async throws {
    switch (failure.kind, step.reads, step.skipsLocked) {
    case (.locked, .pages(let range), false) where table.canLockRows:
      return route.stayedLocked(range)
    case (.locked, .indexScan, false) where table.canLockRows,
      (.locked, .unorderedIndexScan, false) where table.canLockRows:
      let again = step.skippingLocked
      let done = try await send([again], measures: false)
      return try await note(again, done.results, done)
    case (.locked, _, true):
      // The table is locked, not a row.
      throw failure.cause
    default: break
    }
    guard try await batches.isAboutRows(failure, [statements.statement(statements.write, 0..<0)]) else {
      throw failure.cause
    }
    let isRefused = if case .refused = failure.kind { true } else { false }
    switch route.retreat(from: step, isRefused: isRefused) {
    case .smaller: break
    case .givenUp(let rows):
      if failure.kind == .locked { skippedOnPages += rows } else { batches.giveUp(rows, failure) }
      route.finishedRows(table: route.isLastRange ? try await send([], measures: true).table : nil)
    case .none: throw failure.cause
    }
  }

  /// Records the answers of a step's statements.
  private func note(_ step: SweepRoute.Step, _ results: [PostgresResult], _ done: SweepBatches.Answers) async throws {
    switch step.reads {
    case .indexScan, .unorderedIndexScan:
      if case .indexScan(from: nil) = step.reads {
        // A scan that locks rows before the write has no answers about the write.
        tally.count.noteOldestDue(results[0].key(results.count > 1 ? 6 : 7))
      }
      if results.count > 1 { noteLocked(results[0], results[1]) } else { noteFound(results[0], done) }
    case .probeTable:
      let page = results[0][row: 0, column: 0].flatMap(Self.page(ofPlace:))
      route.probed(firstDue: page, in: done.duration, table: done.table)
    case .pages(let range): try await notePages(range, step, results, done)
    case .dueRows: route.listed(Self.places(in: results[0]), table: done.table)
    case .rows:
      skippedOnPages += lastLock.map { max(0, $0.due - $0.locked) } ?? 0
      let changed = table.canKeepRows ? results[0].number(1) : results[0].affectedRows
      noteChange(changed, written: table.canKeepRows ? changed + results[0].number(2) : changed)
      route.finishedRows(table: done.table)
    }
    if done.isFlushed, let record = route.record { self.record = record }
  }

  private func noteFound(_ answer: PostgresResult, _ done: SweepBatches.Answers) {
    let (entries, due, free, changed) = (answer.number(0), answer.number(1), answer.number(2), answer.number(3))
    noteChange(changed, written: table.canKeepRows ? answer.number(6) : changed, byIndex: true)
    skippedByIndex += due - free
    route.found(
      entries: entries, due: due, changed: changed, lowestKey: answer.key(4),
      // Rows that stayed unchanged without being skipped: a page scan finds out why.
      tooManyForIndex: answer.number(5) > 0 || (table.canKeepRows && changed < free && !done.wasStopped),
      wasStopped: (done.wasStopped && changed < free) || lastLimit.map { due >= $0 } ?? false)
  }

  /// The same for an index scan that locked its rows first.
  private func noteLocked(_ answer: PostgresResult, _ write: PostgresResult) {
    let (due, free) = (answer.number(1), answer.number(2))
    let changed = table.canKeepRows ? write.number(1) : write.affectedRows
    noteChange(changed, written: table.canKeepRows ? changed + write.number(2) : changed, byIndex: true)
    skippedByIndex += due - free
    route.found(
      entries: answer.number(0), due: due, changed: changed, lowestKey: answer.key(4),
      // Rows that stayed unchanged although they were locked: a page scan finds out why.
      tooManyForIndex: answer.number(5) > 0 || changed < free, wasStopped: lastLimit.map { due >= $0 } ?? false)
  }

  private func notePages(
    _ range: Range<Int>, _ step: SweepRoute.Step, _ results: [PostgresResult], _ done: SweepBatches.Answers
  ) async throws {
    if step.skipsLocked {
      let (due, changed, free) = (results[0].number(0), results[0].number(1), results[0].number(3))
      noteChange(changed, written: results[0].number(2))
      skippedOnPages += max(0, due - free)
      // This transaction locked them, so only a trigger or a rule can have left them unchanged.
      if table.canKeepRows { kept += max(0, free - changed) }
      return route.swept(range, changed: changed, in: done.duration, table: done.table)
    }
    let isCounted = table.canKeepRows || isLimited
    let changes = results.map { isCounted ? $0.number(1) : $0.affectedRows }
    let changed = changes.reduce(0, +)
    noteChange(changed, written: changed + (isCounted ? results.reduce(0) { $0 + $1.number(2) } : 0))
    let page: Int?
    if results.count > 1 {
      page = PageRanges.stop(of: range, changes: changes, in: done.duration, done.time)
    } else {
      let wasCut = isLimited && lastLimit.map { results[0].number(0) >= $0 } ?? false
      let isDone = !wasCut && !mayHaveLeft(done, changed: changed)
      page = isDone ? nil : try await resumption(of: range, changed: changed)
    }
    if table.canKeepRows, page == nil, changed < results.reduce(0, { $0 + $1.number(0) }) {
      try await countKept(in: range, atLeast: results.reduce(0) { $0 + $1.number(2) })
    }
    route.swept(range, until: page, changed: changed, in: done.duration, table: done.table)
  }

  /// Whether a range may have due rows left that the next batch can change. If all rows that could be locked were
  /// changed, the others count as skipped.
  private func mayHaveLeft(_ done: SweepBatches.Answers, changed: Int) -> Bool {
    guard let lastLock else { return done.wasStopped }
    if changed > 0, done.wasStopped || lastLock.locked == lockLimit { return true }
    skippedOnPages += max(0, lastLock.due - lastLock.locked)
    return false
  }

  /// Counts rows that stay due although the statement skipped none. The statement is repeated first, because a
  /// concurrent transaction may have made another row due, which no trigger keeps. Rows that were written and are still
  /// due may be on other pages now.
  private func countKept(in range: Range<Int>, atLeast written: Int) async throws {
    var options = SweepBatches.Options()
    options.plansOnce = true
    do {
      let again = try await batches.send(write(range), options)
      let answer = again.results[again.results.count - 1]
      let (due, changed) = (answer.number(0), answer.number(1))
      noteChange(changed, written: changed + answer.number(2))
      var left = written
      if changed < due, !again.wasStopped {
        let rest = try await batches.send([statements.statement(statements.countDue, range)])
        left = max(left, min(due - changed, rest.results[0].number(0)))
      }
      kept += left
    } catch is Failure {
      // The next run finds a row that is locked or whose change fails.
      kept += written
    }
  }

  private func noteChange(_ changed: Int, written: Int, byIndex: Bool = false) {
    tally.count.changed += changed
    batches.watch?.noteChange(changed, written: written, byIndex: byIndex)
  }

  /// The page at which a range that hit a limit continues; nil if none of its rows is left.
  private func resumption(of range: Range<Int>, changed: Int) async throws -> Int? {
    // A round trip to find the page costs more than reading a few pages again.
    if changed > 0, range.count <= Self.pagesReadAgain { return range.lowerBound }
    do {
      let done = try await batches.send([statements.statement(statements.firstDue, range)], .init(plansOnce: true))
      return done.results[0][row: 0, column: 0].flatMap(Self.page(ofPlace:))
    } catch let failure as Failure where failure.kind == .tooLong {
      return range.lowerBound
    }
  }

  private static func places(in result: PostgresResult) -> [RowPlace] {
    (0..<result.rowCount).map { row in
      RowPlace(
        table: result[row: row, column: 0].flatMap { Int64($0) } ?? 0, place: result[row: row, column: 1] ?? "(0,0)")
    }
  }

  /// The page of a row's place, "(page,number)".
  private static func page(ofPlace text: String) -> Int? {
    var page = 0
    for byte in text.utf8.dropFirst() {
      guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9"), page < 1 << 32 else { return page }
      page = page * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return nil
  }
}

// MARK: - What a step sends

extension PageSweep {
  /// Whether one statement with a row limit changed the last batch of pages.
  private var isLimited: Bool { lastLimit != nil && !statements.sweep.leavesReferenced }

  private var lockLimit: Int { limited(TableStatements.lockLimit) }

  /// `rows`, or the last batch's limit if that is less.
  private func limited(_ rows: Int) -> Int { min(rows, lastLimit ?? rows) }

  private func send(_ steps: [SweepRoute.Step], measures: Bool) async throws -> SweepBatches.Answers {
    lastLimit = batches.rowLimit
    var options = SweepBatches.Options(measures: measures)
    options.plansOnce = steps.allSatisfy { if case .pages = $0.reads { true } else { false } }
    options.isParallel = steps.contains { $0.reads == .probeTable }
    if case .rows(let rows)? = steps.first?.reads {
      options.lockMilliseconds = SweepBatches.singleRowLockMilliseconds
      if rows.count == 1 { options.statementLimit = SweepBatches.noLimit }
    }
    let done = try await batches.send(steps.flatMap(statements(for:)), options)
    guard statements.sweep.leavesReferenced, let reads = steps.first?.reads else { return done }
    switch reads {
    case .pages, .rows:
      lastLock = (done.results[0].number(1), done.results[0].number(2))
      return done.withoutFirst
    case .indexScan, .unorderedIndexScan, .probeTable, .dueRows: return done
    }
  }

  /// The statements that change the due rows of pages.
  private func write(_ range: Range<Int>, skipsLocked: Bool = false) -> [PostgresStatement] {
    if let lastLimit, isLimited, !skipsLocked {
      return [statements.statement(statements.writeLimited, range, limit: lastLimit)]
    }
    let write = statements.statement(skipsLocked ? statements.writeSkippingLocked : statements.write, range)
    guard statements.sweep.leavesReferenced else { return [write] }
    return [statements.statement(statements.lock, range, limit: lockLimit), write]
  }

  private func statements(for step: SweepRoute.Step) -> [PostgresStatement] {
    switch step.reads {
    case .indexScan(let key):
      let pages = table.size.pages / SweepRoute.pagesPerFoundRow
      let parameters = [key.map { "\($0)" }, "\(pages)", "\(limited(SweepRoute.entryLimit))"]
      guard !statements.sweep.leavesReferenced else { return lockAndWrite(statements.lockIndexScan, parameters) }
      let scan = step.skipsLocked ? statements.indexScanSkippingLocked : statements.indexScan
      return [PostgresStatement(scan, parameters)]
    case .unorderedIndexScan(let key):
      let parameters = ["\(key)", "\(limited(SweepRoute.entryLimit))"]
      guard !statements.sweep.leavesReferenced else {
        return lockAndWrite(statements.lockUnorderedIndexScan, parameters)
      }
      let scan = step.skipsLocked ? statements.unorderedIndexScanSkippingLocked : statements.unorderedIndexScan
      return [PostgresStatement(scan, parameters)]
    case .pages(let range)
    where step.parts > 1 && batches.watch == nil && lastLimit == nil && !statements.sweep.leavesReferenced:
      return PageRanges.parts(of: range, count: step.parts).map { statements.statement(statements.writePart, $0) }
    case .pages(let range):
      return write(range, skipsLocked: step.skipsLocked)
    case .probeTable:
      return [PostgresStatement(statements.probeTable)]
    case .dueRows(let page):
      return [statements.statement(statements.dueRows, page..<(page + 1))]
    case .rows(let rows):
      let places = [PostgresArray.quoted(rows.map { "\($0.table)" }), PostgresArray.quoted(rows.map(\.place))]
      let write = PostgresStatement(statements.writeRows, places)
      guard statements.sweep.leavesReferenced else { return [write] }
      return [PostgresStatement(statements.lockRows, places + ["\(TableStatements.lockLimit)"]), write]
    }
  }

  private func lockAndWrite(_ lock: String, _ parameters: [String?]) -> [PostgresStatement] {
    [PostgresStatement(lock, parameters), PostgresStatement(statements.writeLocked)]
  }
}
