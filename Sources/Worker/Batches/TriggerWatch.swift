// Whether triggers wrote to the swept table besides the sweep, and so may have undone what it did. Used where the table
// has triggers that run behind the change of a row.
// Invariant: what is told as changed is not due any more when the run ends, as far as one look at the table can tell.

import Reactor

/// Counts the row versions that the batches of one sweep left in its table, and those that the sweep itself wrote.
///
/// PostgreSQL counts them for each transaction and table, so a trigger that writes elsewhere, such as one that keeps an
/// audit, costs a batch no look at the table. Only where there are more than the sweep wrote is the table looked at,
/// once, at the end of the run.
struct TriggerWatch: Sendable {
  /// Any part of the table that a row can be in.
  private let table: Int64
  private let deletes: Bool
  private let settlesConstraints: Bool
  private var versions = 0
  private var written = 0
  /// Whether the server counts what a transaction writes (track_counts).
  private var isCounted = true
  private(set) var changedByIndex = 0
  private(set) var changedOnPages = 0
  /// The run's first transaction that wrote, by its number.
  private(set) var firstTransaction: String?

  /// Nil where no trigger runs behind a change.
  init?(_ table: TableSurvey, deletes: Bool) {
    guard table.hasLateTriggers else { return nil }
    self.table = table.identifier
    self.deletes = deletes
    settlesConstraints = table.hasDeferredTriggers
  }

  /// Before a batch's statements.
  var opening: PostgresStatement { PostgresStatement(Self.open, ["\(table)"], isPrepared: true) }

  /// Behind them. The last one's answer is for `note`.
  var closing: [PostgresStatement] {
    (settlesConstraints ? [Self.settle] : [])
      + [PostgresStatement(Self.close, ["\(table)"], isPrepared: true)]
  }

  /// What a batch's last statement answered.
  @EventLoop
  mutating func note(_ answer: PostgresResult) {
    versions += answer.number(0)
    if let transaction = answer[row: 0, column: 1], firstTransaction == nil { firstTransaction = transaction }
    if answer[row: 0, column: 2] != "t" { isCounted = false }
  }

  /// What the statements of a batch answered: rows that are no longer due, and all rows that they wrote.
  mutating func noteChange(_ changed: Int, written: Int, byIndex: Bool) {
    self.written += written
    if byIndex { changedByIndex += changed } else { changedOnPages += changed }
  }

  /// Whether rows may be due again.
  var isInDoubt: Bool {
    guard changedByIndex + changedOnPages > 0 else { return false }
    return !isCounted || extraVersions > 0
  }

  /// How many versions others wrote, as far as they were counted.
  private var extraVersions: Int { max(0, deletes ? versions : versions - written) }

  /// How many rows too many were told as changed, where `undone` rows that the run changed are due.
  ///
  /// A row that a trigger put back can have been met, changed and put back more than once, so each version that was not
  /// the sweep's counts, unless there are so many that a trigger must also write for other reasons.
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

  /// Answers how many versions were written since, the transaction's number if it wrote anything, and whether versions
  /// are counted. A trigger that resets the session's settings is the closing statement's to find.
  static let close = CatalogSQL.qualified(
    """
    SELECT (\(versionCount)
             - CASE WHEN (current_setting('sb.versions') = '') THEN 0 ELSE current_setting('sb.versions')::numeric END),
           pg_current_xact_id_if_assigned()::text, current_setting('track_counts')::boolean
    """)

  /// What would run when the transaction ends, out of reach of any count, runs now. Within a block, for a warning is
  /// logged of the bare statement outside of an explicit transaction.
  static let settle = PostgresStatement("DO LANGUAGE plpgsql 'BEGIN SET CONSTRAINTS ALL IMMEDIATE; END'")
}
