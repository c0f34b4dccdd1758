// The results of `run --once`, one per sweeper, and their table. The table is pure text.

import Reactor

/// The result of a sweeper's only slot.
enum OnceResult: Sendable {
  case ran(SweepCount)
  /// Not due, paused, or run by another replica.
  case notRun
  /// A signal ended the process before or during the run: with what was changed before.
  case drained(SweepCount = SweepCount())
  /// The reason, and what was changed before it failed.
  case failed(String, SweepCount = SweepCount())

  /// Whether the sweeper's work was not done, here or elsewhere.
  var isUndone: Bool {
    switch self {
    case .ran, .notRun: false
    case .drained, .failed: true
    }
  }
}

/// The table of `run --once --table`.
enum OnceTable {
  struct Row: Sendable {
    let sweeper: String
    var result: OnceResult
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
      let (cells, outcome, reason) = cells(of: row.result)
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
    of result: OnceResult
  ) -> (counts: [ReportTable.Cell], outcome: String, reason: String?) {
    func partial(_ count: SweepCount) -> [ReportTable.Cell] {
      [.missing, count.changed > 0 ? .number(count.changed) : .missing, .missing]
    }
    switch result {
    case .ran(let count):
      return ([.number(count.found), .number(count.changed), .number(count.skipped)], "success", nil)
    case .notRun: return ([.missing, .missing, .missing], "not due, paused, or another replica's", nil)
    case .drained(let count): return (partial(count), "drained", "a signal ended it")
    case .failed(let reason, let count): return (partial(count), "failure", reason)
    }
  }
}
