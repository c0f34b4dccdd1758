// The SQL by which a batch returns the rows that it changed, for a sweep with an attempt limit. Pure text.
// Invariant: a batch returns what its own transaction changed, bounded in size.

import Reactor

extension TableStatements {
  /// The most rows that each statement of a batch returns: all counted rows, and as many others.
  private static let attemptedLimit = 2 * AttemptCounts.rowLimit

  /// Parameters: the counted rows, and those that have reached the limit.
  package static let openAttempts = CatalogSQL.qualified(
    """
    SELECT set_config('sb.counted', $1::text, true), set_config('sb.exhausted', $2::text, true),
           set_config('sb.attempted', '', true)
    """)

  /// Answers the ids of the rows that the batch changed, each followed by a comma.
  package static let closeAttempts = CatalogSQL.qualified("SELECT current_setting('sb.attempted')")

  /// After the other answers of a change: records for `closeAttempts` which rows are in `changed`. Empty if the sweep
  /// does not count attempts.
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

  /// Whether the row has reached the limit: the meaning of `:exhausted` in a SET list.
  static let isExhausted = "(target.id = ANY (current_setting('sb.exhausted')::uuid[]))"

  /// Parameter: ids. Answers which of these rows can become due again.
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
