// What the retention sweepers have in common: each deletes the rows of one table that ended long ago.
// Invariant: a row that is not ended, or that a foreign key refers to, is never deleted.

import Reactor

extension Sweeper {
  /// Between two runs. What is kept for days is not missed for an hour.
  private static let retentionInterval = Duration.seconds(3_600)
  /// How long after its time a row is deleted at the latest: what is kept for days is not missed for one.
  private static let retentionPass = Duration.seconds(24 * 3_600)

  /// - Parameters:
  ///   - rows: what is deleted, in the event's words.
  ///   - retained: how long after its end a row is kept; nil if the sweeper is off.
  ///   - requires: what the schema may lack.
  ///   - ended: the condition of a row that ended before `:cutoff`.
  ///   - key: a column of type timestamptz by which rows are shown.
  ///   - otherMoments: the other columns that the condition compares with the cutoff.
  ///   - reaches: what an index on it leads to; nil if that is every row that ended.
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
  /// The least time that rows are kept after their end.
  private static var leastRetention: Duration { .seconds(24 * 3_600) }

  /// How long ended rows are kept; nil if they are kept for ever.
  static func retention(_ name: String, of rows: String, note: String = "") -> Setting {
    .orOff(
      .duration(
        name, default: leastRetention, in: leastRetention...Setting<Duration>.aboveZero.upperBound,
        help: "Retention of \(rows), at least 24h.\(note)"),
      absent: off)
  }
}
