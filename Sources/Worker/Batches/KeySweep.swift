// Sweeps a table for a role that can read only some of its columns, in windows over the key column. Called by
// RowSweepRun. Invariant: that of KeyWindows.

import Coordination
import Reactor

/// One run over one table, by keys.
@EventLoop
struct KeySweep {
  private let statements: TableStatements
  private let batches: SweepBatches
  private let tally: RunTally
  private let canKeepRows: Bool

  init(
    _ statements: TableStatements, of table: TableSurvey, in session: GuardedSession, knowing memory: TableMemory,
    noting tally: RunTally
  ) {
    self.statements = statements
    self.tally = tally
    canKeepRows = table.canKeepRows
    batches = SweepBatches(statements.sweep, on: table, in: session, knowing: memory, noting: tally)
  }

  func run() async throws {
    var windows = KeyWindows()
    var isFirst = true
    var isAgain = false
    while !windows.isDone, try await batches.waitForBrakes() {
      do {
        var options = SweepBatches.Options(measures: isFirst)
        if windows.limit == 1 { options.statementLimit = SweepBatches.noLimit }
        let after = windows.after
        let done = try await batches.send([window(after, limit: batches.limited(windows.limit))], options)
        if isFirst, statements.sweep.isDueByKey { tally.count.noteOldestDue(done.results[0].key(4)) }
        isFirst = false
        let (key, due, changed) = (done.results[0].key(0), done.results[0].number(1), done.results[0].number(2))
        tally.count.changed += changed
        let written = canKeepRows ? done.results[0].number(3) : changed
        batches.watch?.noteChange(changed, written: written, byIndex: true)
        // A concurrent transaction may have made another row due, which no trigger keeps.
        if due > changed, !isAgain {
          isAgain = true
          continue
        }
        isAgain = false
        windows.swept(upTo: key, in: done.duration)
        // Rows that another transaction changed are no longer due; these still are.
        if due > changed, let key, let first = try await firstKey(after).key, first <= key {
          tally.count.kept += due - changed
        }
      } catch let failure as SweepBatches.Failure {
        try await retreat(from: failure, &windows)
      }
    }
    try await batches.takeBackUndone(statements)
  }

  private func retreat(from failure: SweepBatches.Failure, _ windows: inout KeyWindows) async throws {
    // A window without rows.
    guard try await batches.isAboutRows(failure, [window(windows.after, limit: 0)]) else { throw failure.cause }
    if windows.shrink() { return }
    do {
      let first = try await firstKey(windows.after)
      if first.key != nil { batches.giveUp(first.rows, failure) }
      windows.giveUp(first.key)
    } catch is SweepBatches.Failure {
      // The table is locked, not a row.
      throw failure.cause
    }
  }

  private func window(_ after: Int64?, limit: Int) -> PostgresStatement {
    PostgresStatement(statements.writeWindow, [after.map { "\($0)" }, "\(limit)"])
  }

  private func firstKey(_ after: Int64?) async throws -> (key: Int64?, rows: Int) {
    let answer = try await batches.send([PostgresStatement(statements.firstKey, [after.map { "\($0)" }])]).results[0]
    return (answer.key(0), answer.number(1))
  }
}
