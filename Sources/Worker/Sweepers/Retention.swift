// The common part of the retention sweepers: each deletes rows of one table that ended long ago.
// Invariant: a row that has not ended, or that a foreign key refers to, is never deleted.

import Reactor

extension Sweeper {
  /// Between two runs. Rows kept for days can wait an hour.
  private static let retentionInterval = Duration.seconds(3_600)
  /// The longest delay before a row is deleted: rows kept for days can wait one more.
  private static let retentionPass = Duration.seconds(24 * 3_600)

  /// - Parameters:
  ///   - rows: the deleted rows, in the event's words.
  ///   - retained: how long a row is kept after its end; nil if the sweeper is off.
  ///   - requires: what the schema may lack.
  ///   - ended: the condition of a row that ended before `:cutoff`.
  ///   - key: a column of type timestamptz by which rows are shown.
  ///   - otherMoments: the other columns that the condition compares with the cutoff.
  ///   - reaches: the part of `ended` that an index on `key` covers; nil if it is all.
  static func retention(
    _ name: String, of rows: String, in table: String, retained: Duration?, requires: [RequiredTable] = [],
    ended: String, key: String, otherMoments: [String] = [], reaches: String? = nil
  ) -> Sweeper {
    Sweeper(
      name: name,
      summary: "Deletes \(rows) at the end of their retention period.",
      interval: retained.map { _ in retentionInterval },
      requires: requires,
      work: .rows(
        RowSweep(
          table: table, change: .delete, due: ended, key: key, otherMoments: otherMoments,
          age: retained ?? .zero,
          index: .init(reaches: reaches ?? ended, fullPassWithin: retentionPass, passesSuffice: true),
          leavesReferenced: true)),
      report: Report(
        severity: .info, title: "\(rows) deleted", countName: "deleted", showsCutoff: true,
        failureTitle: "delete \(rows) failed"))
  }
}

extension Setting where Value == Duration? {
  /// The shortest retention after a row's end.
  private static var leastRetention: Duration { .seconds(24 * 3_600) }

  /// How long ended rows are kept; nil if forever.
  static func retention(_ name: String, of rows: String, note: String = "") -> Setting {
    .orOff(
      .duration(
        name, default: leastRetention, in: leastRetention...Setting<Duration>.aboveZero.upperBound,
        help: "Retention of \(rows), at least 24h.\(note)"),
      absent: off)
  }
}
