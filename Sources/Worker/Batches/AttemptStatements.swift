// The SQL by which a batch tells which rows it changed, for a sweep that changes a row so often only. Pure text.
// Invariant: what a batch answers is what its own transaction changed, bounded in size.

import Reactor

extension TableStatements {
  /// The most rows that a batch's statements name each: all that are counted, and as many others.
  private static let attemptedLimit = 2 * AttemptCounts.rowLimit

  /// Parameters: the rows that are counted, and those of them that have been changed as often as they may.
  package static let openAttempts = CatalogSQL.qualified(
    """
    SELECT set_config('sb.counted', $1::text, true), set_config('sb.exhausted', $2::text, true),
           set_config('sb.attempted', '', true)
    """)

  /// Answers the ids of the rows that the batch changed, with a comma behind each.
  package static let closeAttempts = CatalogSQL.qualified("SELECT current_setting('sb.attempted')")

  /// Behind the other answers of a change: notes for `closeAttempts` which rows are in `changed`. Empty where a sweep
  /// counts none.
  var noteAttempted: String {
    guard sweep.attemptLimit != nil else { return "" }
    return """
      ,
               set_config('sb.attempted', concat(current_setting('sb.attempted'), (
                 SELECT string_agg(concat(id, ','), '') FROM (
                   SELECT id FROM changed WHERE is_changed
                    ORDER BY (id = ANY (current_setting('sb.counted')::uuid[])) DESC
                    LIMIT \(Self.attemptedLimit)) AS attempted)), true)
      """
  }

  /// Whether the row has been changed as often as it may: what `:exhausted` stands for in a SET list.
  static let isExhausted = "(target.id = ANY (current_setting('sb.exhausted')::uuid[]))"

  /// Parameter: ids. Answers those of the rows that may come back.
  static func comingBack(_ limit: RowSweep.AttemptLimit, in table: String) -> String {
    CatalogSQL.qualified(
      "SELECT target.id::text FROM \(table) AS target WHERE (target.id = ANY ($1::uuid[])) AND (\(limit.comesBack))")
  }
}

extension AttemptCounts {
  @EventLoop
  var opening: PostgresStatement {
    PostgresStatement(TableStatements.openAttempts, [rows, exhaustedRows], isPrepared: true)
  }

  @EventLoop
  static var closing: PostgresStatement { PostgresStatement(TableStatements.closeAttempts, isPrepared: true) }
}
