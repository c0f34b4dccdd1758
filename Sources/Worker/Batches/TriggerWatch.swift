// Detects writes by triggers to the swept table, which may undo the sweep's changes. Used if the table has AFTER
// triggers. Invariant: a row that is reported as changed is no longer due at the end of the run, as far as one query
// can tell.

import Reactor

/// Counts the row versions that a sweep's batches left in its table, and those that the sweep itself wrote.
///
/// PostgreSQL counts them per transaction and table, so a trigger that writes elsewhere, such as an audit trigger,
/// costs no query of the table. If there are more than the sweep wrote, the table is queried once, at the end of the
/// run.
struct TriggerWatch: Sendable {
  /// The table; its parts are counted too.
  private let table: Int64
  private let deletes: Bool
  private let runsDeferredTriggers: Bool
  private var versions = 0
  private var written = 0
  /// Whether the server counts what a transaction writes (track_counts).
  private var isCounted = true
  private(set) var changedByIndex = 0
  private(set) var changedOnPages = 0
  /// The number of the run's first transaction that wrote.
  private(set) var firstTransaction: String?

  /// Nil if no trigger runs after a change.
  init?(_ table: TableSurvey, deletes: Bool) {
    guard table.hasLateTriggers else { return nil }
    self.table = table.identifier
    self.deletes = deletes
    runsDeferredTriggers = table.hasDeferredTriggers
  }

  /// Precedes a batch's statements.
  var opening: PostgresStatement { PostgresStatement(Self.open, ["\(table)"], isPrepared: true) }

  /// Follows them. The last answer is for `note`.
  var closing: [PostgresStatement] {
    (runsDeferredTriggers ? [Self.runDeferredTriggers] : [])
      + [PostgresStatement(Self.close, ["\(table)"], isPrepared: true)]
  }

  /// The answer of a batch's last statement.
  @EventLoop
  mutating func note(_ answer: PostgresResult) {
    versions += answer.number(0)
    if let transaction = answer[row: 0, column: 1], firstTransaction == nil { firstTransaction = transaction }
    if answer[row: 0, column: 2] != "t" { isCounted = false }
  }

  /// The changes of a batch: rows that are no longer due, and all rows that were written.
  mutating func noteChange(_ changed: Int, written: Int, byIndex: Bool) {
    self.written += written
    if byIndex { changedByIndex += changed } else { changedOnPages += changed }
  }

  /// Whether rows may be due again.
  var isInDoubt: Bool {
    guard changedByIndex + changedOnPages > 0 else { return false }
    return !isCounted || extraVersions > 0
  }

  /// The number of versions that triggers wrote, as far as counted.
  private var extraVersions: Int { max(0, deletes ? versions : versions - written) }

  /// How much the count of changed rows is too high if `undone` of them are due again.
  ///
  /// A trigger may have reset a row more than once, so each version that the sweep did not write counts, unless there
  /// are so many that a trigger must also write for other reasons.
  func overcount(undone: Int) -> Int {
    if undone == 0 { return 0 }
    let changed = changedByIndex + changedOnPages
    if isCounted, extraVersions <= changed { return extraVersions }
    return changed - max(0, max(changedByIndex, changedOnPages) - undone)
  }

  // MARK: SQL

  /// Parameter: the table's identifier.
  private static let versionCount = """
    (WITH RECURSIVE \(CatalogSQL.tree(from: "SELECT $1::oid AS oid"))
     SELECT sum(pg_stat_get_xact_tuples_inserted(tree.oid) + pg_stat_get_xact_tuples_updated(tree.oid)) FROM tree)
    """

  static let open = CatalogSQL.qualified("SELECT set_config('sb.versions', \(versionCount)::text, true)")

  /// Answers how many versions were written since `open`, the transaction's number if it wrote anything, and whether
  /// versions are counted. The batch's closing statement detects a trigger that resets settings.
  static let close = CatalogSQL.qualified(
    """
    SELECT (\(versionCount)
             - CASE WHEN (current_setting('sb.versions') = '') THEN 0 ELSE current_setting('sb.versions')::numeric END),
           pg_current_xact_id_if_assigned()::text, current_setting('track_counts')::boolean
    """)

  /// Runs deferred triggers now rather than at the end of the transaction, after the count. The block avoids a warning
  /// that PostgreSQL logs for the bare statement outside an explicit transaction.
  static let runDeferredTriggers = PostgresStatement("DO LANGUAGE plpgsql 'BEGIN SET CONSTRAINTS ALL IMMEDIATE; END'")
}
