// Sweeps a table whose due rows change together with rows of a second one, window by window. Called by RowSweepRun.
// Invariants: those of LinkedWindows and LinkedStatements.

import Coordination
import Reactor

/// One run over one table and the rows of a second one.
@EventLoop
struct LinkedSweep {
  /// The lock timeout. Transactions that lock a wrap are short; if one takes longer, the next run takes the session.
  static let lockMilliseconds = 100

  private let statements: LinkedStatements
  private let rows: TableStatements
  private let linkedTable: TableSurvey
  private let batches: SweepBatches
  private let memory: TableMemory
  private let tally: RunTally
  private let canKeepRows: Bool
  private let goal: Duration?

  /// - Parameters:
  ///   - linkedTable: the table of linked rows.
  ///   - hasIndex: whether an index finds due rows, so that a window's time follows from its size.
  init(
    _ linked: LinkedRows, _ rows: TableStatements, of table: TableSurvey, linkedTable: TableSurvey, hasIndex: Bool,
    in session: GuardedSession, knowing memory: TableMemory, noting tally: RunTally
  ) {
    self.rows = rows
    self.linkedTable = linkedTable
    self.memory = memory
    self.tally = tally
    statements = memory.statements(of: linked, in: linkedTable, with: rows)
    canKeepRows = table.canKeepRows || linkedTable.canKeepRows || linkedTable.hasLateTriggers
    goal = hasIndex ? BatchTime().goal : nil
    batches = SweepBatches(rows.sweep, on: table, in: session, knowing: memory, noting: tally)
  }

  func run() async throws {
    var windows = LinkedWindows(goal: goal)
    var isFirst = true
    while !windows.isDone, try await batches.waitForBrakes() {
      do {
        let done = try await send(windows, isFirst: isFirst)
        if isFirst, rows.sweep.isDueByKey { tally.count.noteOldestDue(write(of: done).key(5)) }
        isFirst = false
        windows.expect(batches.time.goal)
        note(done, &windows)
      } catch let failure as SweepBatches.Failure {
        try await retreat(from: failure, &windows)
      }
    }
    try await batches.takeBackUndone(rows)
  }

  /// The first batch also measures the swept table, and checks that the linked one has not changed.
  private func send(_ windows: LinkedWindows, isFirst: Bool) async throws -> SweepBatches.Answers {
    var options = SweepBatches.Options(measures: isFirst)
    options.lockMilliseconds = Self.lockMilliseconds
    if windows.limit == LinkedWindows.limits.lowerBound { options.statementLimit = SweepBatches.noLimit }
    // A table with parts was surveyed for this run.
    let isChecked = isFirst && !linkedTable.hasParts
    let done = try await batches.send(statements(for: windows) + (isChecked ? [linkedTable.check] : []), options)
    if isChecked, linkedTable.checked(by: done.results[done.results.count - 1]) == nil { memory.linkedTable = nil }
    return done
  }

  private func statements(for windows: LinkedWindows) -> [PostgresStatement] {
    let parameters = [
      windows.from.map { "\($0)" }, "\(windows.passedOver)", "\(batches.limited(windows.limit))",
    ]
    func statement(_ text: String) -> PostgresStatement { PostgresStatement(text, parameters, isPrepared: true) }
    let writeLinked = windows.skipsLocked ? statements.writeLinkedSkippingLocked : statements.writeLinked
    let write = windows.skipsLocked ? statements.writeSkippingLocked : statements.write
    // Deferred triggers could undo a linked row's change after the due row has changed.
    let deferred = linkedTable.hasDeferredTriggers ? [TriggerWatch.runDeferredTriggers] : []
    return [statement(writeLinked)] + deferred + [statement(write)]
  }

  /// The answer of the statement that changes due rows.
  private func write(of done: SweepBatches.Answers) -> PostgresResult {
    done.results[linkedTable.hasDeferredTriggers ? 2 : 1]
  }

  private func note(_ done: SweepBatches.Answers, _ windows: inout LinkedWindows) {
    let write = write(of: done)
    tally.count.linked += done.results[0].number(0)
    let answer = LinkedWindows.Answer(
      due: write.number(0), changed: write.number(1), lastKey: write.key(2), dueAtLastKey: write.number(3))
    tally.count.changed += answer.changed
    batches.watch?.noteChange(answer.changed, written: write.number(4), byIndex: true)
    let hadLocked = windows.skipsLocked
    guard let left = windows.swept(answer, in: done.duration) else { return }
    if canKeepRows, !hadLocked { tally.count.kept += left } else { tally.count.skipped += left }
  }

  private func retreat(from failure: SweepBatches.Failure, _ windows: inout LinkedWindows) async throws {
    if failure.kind == .locked {
      // If locked rows are skipped already, the table is locked, or a row that a trigger uses.
      guard windows.stayedLocked() else { throw failure.cause }
      return
    }
    let nothing = [nil, "0", "0"]
    let isAboutRows = try await batches.isAboutRows(
      failure,
      [PostgresStatement(statements.writeLinked, nothing), PostgresStatement(statements.write, nothing)])
    guard isAboutRows else { throw failure.cause }
    if windows.shrink() { return }
    let first = PostgresStatement(
      statements.firstKey, [windows.from.map { "\($0)" }, "\(windows.passedOver)", "1"])
    let key = try await batches.send([first]).results[0].key(0)
    if key != nil { batches.giveUp(1, failure) }
    windows.giveUp(key)
  }
}
