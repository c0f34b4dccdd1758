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
  static func show(_ rows: [Row], clock: LoopClock) {
    let bytes = Array(text(rows).utf8)
    _ = StandardStream.output.write(bytes[...], patience: .seconds(10), on: clock)
  }

  static func text(_ rows: [Row]) -> String {
    var lines = [["sweeper", "found", "changed", "outcome"]]
    for row in rows {
      switch row.result {
      case .ran(let count): lines.append([row.sweeper, "\(count.found)", "\(count.changed)", "success"])
      case .notRun: lines.append([row.sweeper, "-", "-", "not due, paused, or another replica's"])
      case .drained(let count):
        lines.append([row.sweeper, "-", count.changed > 0 ? "\(count.changed)" : "-", "drained: a signal ended it"])
      case .failed(let reason, let count):
        let changed = count.changed > 0 ? "\(count.changed)" : "-"
        lines.append([row.sweeper, "-", changed, "failure: \(reason)"])
      }
    }
    let widths = (0..<4).map { column in lines.map { $0[column].count }.max() ?? 0 }
    return lines.map { line in
      let cells = line.enumerated().map { column, cell in
        column == 3 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
      }
      return cells.joined(separator: "  ") + "\n"
    }.joined()
  }
}
