// The results of `run --once`, one per sweeper, and their table. The table is pure text.

import Coordination
import Reactor

/// The table of `run --once --table`.
enum OnceTable {
  struct Row: Sendable {
    let sweeper: String
    /// Nil without a run.
    let result: RunResult?
    /// Why there was none.
    var skip: OnceSkip?
    /// Why the settings turn it off; nil if they do not.
    var absence: String?
  }

  /// Prints the table to stdout.
  static func show(_ rows: [Row], as format: ReportTable.Format, clock: LoopClock) {
    let bytes = Array(text(rows, as: format).utf8)
    _ = StandardStream.output.write(bytes[...], patience: .seconds(10), on: clock)
  }

  static func text(_ rows: [Row], as format: ReportTable.Format = .text) -> String {
    var table = ReportTable(["sweeper", "found", "changed", "skipped", "outcome"])
    if format == .json { table.columns.append("reason") }
    for row in rows {
      let (cells, outcome, reason) = cells(of: row)
      table.rows.append([.text(row.sweeper)] + cells)
      switch format {
      case .text: table.rows[table.rows.count - 1].append(.text(reason.map { "\(outcome): \($0)" } ?? outcome))
      case .json: table.rows[table.rows.count - 1] += [.text(outcome), reason.map { .text($0) } ?? .missing]
      }
    }
    return table.text(as: format)
  }

  /// Found, changed and skipped; what an unfinished run found is not known.
  private static func cells(
    of row: Row
  ) -> (counts: [ReportTable.Cell], outcome: String, reason: String?) {
    func partial(_ count: SweepCount) -> [ReportTable.Cell] {
      [.missing, count.changed > 0 ? .number(count.changed) : .missing, .missing]
    }
    if let absence = row.absence { return ([.missing, .missing, .missing], "off", absence) }
    switch row.result {
    case .success(let count):
      return ([.number(count.found), .number(count.changed), .number(count.skipped)], "success", nil)
    case nil:
      let (outcome, reason): (String, String?) =
        switch row.skip {
        case .paused(let pause): ("paused", pause)
        case .held: ("held", "another replica runs it")
        case .notDue, nil: ("not due", nil)
        }
      return ([.missing, .missing, .missing], outcome, reason)
    case .drained(.shutdown, let count): return (partial(count), "drained", "a signal ended it")
    case .drained(.paused, let count): return (partial(count), "drained", RunResult.DrainReason.paused.rawValue)
    case .drained(.readOnly, let count):
      return (partial(count), "failure", RunResult.DrainReason.readOnly.rawValue)
    case .failure(let failure, let count): return (partial(count), "failure", failure.reason)
    case .off(let missing, let count): return (partial(count), "off", "no \(missing)")
    }
  }
}
