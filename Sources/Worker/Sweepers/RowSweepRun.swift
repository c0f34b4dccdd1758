// Runs a row sweep: batch after batch over the table's pages. Called by the scheduler's run.
// Invariant: a run that finds nothing due in a table of one range is one round trip.

import Reactor

extension RowSweep {
  /// Sweeps the whole table.
  ///
  /// - Throws: `RunInterruption`, or `PostgresError` as a batch failed. What earlier batches changed stays changed.
  @EventLoop
  func run(in session: GuardedSession, noting tally: RunTally) async throws {
    var ranges = PageRanges()
    // The first batch also asks what later ones need to know: the table's size, and whether anything is due at all.
    let questions = [size] + (probe.map { [look($0)] } ?? [])
    while let range = ranges.next {
      let isFirst = ranges.tablePages == nil
      let asked = isFirst ? questions.map { PostgresStatement($0) } : []
      let batch = try await sweep(range, after: asked, in: session, noting: tally)
      ranges.swept(range, in: batch.duration)
      tally.count.cutoff = session.cutoff
      guard isFirst else { continue }
      ranges.measured(pages: Int(batch.results[0][row: 0, column: 0] ?? "") ?? 0)
      if probe != nil, Self.saysNothingIsDue(batch.results[1]) { break }
    }
  }

  @EventLoop
  private static func saysNothingIsDue(_ look: PostgresResult) -> Bool {
    let lookedAt = look[row: 0, column: 0].flatMap { Int($0) } ?? Probe.limit
    return lookedAt < Probe.limit && look[row: 0, column: 1] == "f"
  }

  @EventLoop
  private func sweep(
    _ range: Range<Int>, after asked: [PostgresStatement], in session: GuardedSession, noting tally: RunTally
  ) async throws -> GuardedSession.Batch {
    let bounds: [String?] = ["(\(range.lowerBound),0)", "(\(range.upperBound),0)"]
    do {
      let batch = try await session.batch(asked + [PostgresStatement(write, bounds)])
      tally.count.changed += batch.results[asked.count].affectedRows
      return batch
    } catch  where GuardedSession.isLockTimeout(error) {
      let batch = try await session.batch(asked + [PostgresStatement(writeSkippingLocked, bounds)])
      let answer = batch.results[asked.count]
      let due = answer[row: 0, column: 0].flatMap { Int($0) } ?? 0
      let changed = answer[row: 0, column: 1].flatMap { Int($0) } ?? 0
      tally.count.changed += changed
      tally.count.skipped += max(0, due - changed)
      return batch
    }
  }
}
