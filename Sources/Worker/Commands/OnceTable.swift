// What `run --once` did, as a result a sweeper and as a table for people. The table is pure text.

import Reactor

/// How one sweeper's only attendance ended.
enum OnceResult: Sendable {
  case ran(SweepCount)
  /// Not due, paused, or another replica's.
  case notRun
  /// Why, and what was changed before it failed.
  case failed(String, SweepCount = SweepCount())

  var isFailure: Bool {
    if case .failed = self { true } else { false }
  }
}

/// The table of `run --once --table`.
enum OnceTable {
  struct Row: Sendable {
    let sweeper: String
    var result: OnceResult
  }

  /// Prints the table to stdout.
  static func show(_ rows: [Row]) {
    let bytes = Array(text(rows).utf8)
    _ = StandardStream.output.write(bytes[...], patience: .seconds(10))
  }

  static func text(_ rows: [Row]) -> String {
    var lines = [["sweeper", "found", "changed", "outcome"]]
    for row in rows {
      switch row.result {
      case .ran(let count): lines.append([row.sweeper, "\(count.found)", "\(count.changed)", "success"])
      case .notRun: lines.append([row.sweeper, "-", "-", "not due, paused, or another replica's"])
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
