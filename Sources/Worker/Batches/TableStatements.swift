// The SQL of a row sweep on one table, generated from its declaration and the survey. Pure text.
// Invariant: every write checks the row's condition again and has the guard's verdict as a one-time filter. Each write
// has a time limit, except the one that skips locked rows on a few pages.

import Reactor

/// The statements that sweep one table, or one part of it. Each text is generated once, when it is first needed.
@EventLoop
package final class TableStatements {
  let sweep: RowSweep
  /// The name for SQL, after ONLY if it is a part that is swept separately.
  let table: String
  let moments: MomentColumns
  /// Whether a trigger or rule may keep rows unchanged, so that each write also counts rows that stay due.
  let countsDue: Bool
  /// Whether the index has every due row, not only those that the declaration says it reaches.
  let indexHasAll: Bool

  /// The other tables that the statements name.
  let related: RelatedTables

  package init(
    sweep: RowSweep, table: String, moments: MomentColumns, countsDue: Bool,
    related: RelatedTables = RelatedTables(), indexHasAll: Bool = false
  ) {
    self.sweep = sweep
    self.table = table
    self.moments = moments
    self.countsDue = countsDue
    self.related = related
    self.indexHasAll = indexHasAll
  }

  /// Parameters: whether to commit synchronously, the statement timeout in ms, plan_cache_mode, the lock timeout in ms,
  /// whether parallel workers may be used, and the limits in ms after the transaction's start for writing another row
  /// and for beginning another part of a range.
  ///
  /// synchronous_commit is only ever lowered. The last set_config wins, and the operator's own limits still apply.
  /// If the costs of parallel plans are set to 0, starting a worker takes longer than a whole batch.
  package static let batchSettings = CatalogSQL.qualified(
    """
    SELECT CASE WHEN NOT $1::boolean THEN set_config('synchronous_commit', 'off', true) END,
           CASE WHEN NOT $5::boolean THEN set_config('max_parallel_workers_per_gather', '0', true) END,
           set_config('plan_cache_mode', $3::text, true), set_config('sb.write_limit', $6::text, true),
           set_config('sb.part_limit', $7::text, true),
           set_config('lock_timeout', least($4::bigint, current_setting('sb.lock_limit')::bigint)::text, true),
           set_config('statement_timeout', least($2::bigint, current_setting('sb.statement_limit')::bigint,
             \(GuardStatements.millisecondsLeft))::text, true)
    """)

  static func settings(
    flushes: Bool, statementLimit: Duration, plansOnce: Bool = false,
    lockMilliseconds: Int = GuardStatements.lockTimeoutMilliseconds, isParallel: Bool = false,
    _ time: BatchTime = BatchTime()
  ) -> PostgresStatement {
    PostgresStatement(
      batchSettings,
      [
        flushes ? "true" : "false", "\(statementLimit.milliseconds)", plansOnce ? "force_generic_plan" : "auto",
        "\(lockMilliseconds)", isParallel ? "true" : "false", "\(time.writeLimit.milliseconds)",
        "\(time.partLimit.milliseconds)",
      ], isPrepared: true)
  }

  /// For these pages. The plan is the same for all ranges.
  func statement(_ text: String, _ range: Range<Int>) -> PostgresStatement {
    PostgresStatement(text, ["(\(range.lowerBound),0)", "(\(range.upperBound),0)"], isPrepared: true)
  }

  /// The same with a row limit, $3.
  func statement(_ text: String, _ range: Range<Int>, limit: Int) -> PostgresStatement {
    PostgresStatement(text, ["(\(range.lowerBound),0)", "(\(range.upperBound),0)", "\(limit)"], isPrepared: true)
  }

  // MARK: Pages, from $1 up to and without $2

  /// Changes due rows until the time limit. If changes are counted, answers how many rows were due, were changed, and
  /// were written but are still due; otherwise the command tag has the number of changed rows.
  package private(set) lazy var write = sql(
    counting(
      "\(verb) WHERE \(filter) AND \(Self.isInRange) AND \(isWritten)"
        + (sweep.leavesReferenced ? "" : " AND \(Self.hasTime)")))

  /// The same for a part of a range: all due rows, or none after the time limit.
  package private(set) lazy var writePart = sql(
    counting(
      "\(verb) WHERE \(filter) AND \(Self.hasTimeForPart) AND \(Self.isInRange) AND \(isWritten)"))

  /// Changes at most $3 due rows until the time limit. Answers how many it selected, how many were changed, and how
  /// many were written and are still due.
  package private(set) lazy var writeLimited = sql(
    """
    WITH sought AS MATERIALIZED (
        SELECT tableoid AS table_id, ctid AS row_id FROM \(table) AS target
         WHERE \(filter) AND \(Self.isInRange) AND \(isDue) LIMIT $3::bigint),
      \(changing("WHERE \(Self.isAmong("sought")) AND \(isDue) AND \(Self.hasTime)"))
    SELECT (SELECT count(*) FROM sought), \(Self.changed),
           (SELECT count(*) FROM changed WHERE NOT is_changed)\(noteChanges)
    """)

  /// The same after a row stayed locked: skips locked rows. Answers how many rows were due, were changed, were written,
  /// and were due but not locked by others.
  package private(set) lazy var writeSkippingLocked = sql(
    """
    WITH free AS MATERIALIZED (
        SELECT tableoid AS table_id, ctid AS row_id FROM \(table) AS target
         WHERE \(filter) AND \(Self.isInRange) AND \(isWritten) FOR UPDATE SKIP LOCKED),
      \(changing("WHERE \(Self.isAmong("free")) AND \(isWritten)"))
    SELECT (SELECT count(*) FROM \(table) AS target WHERE \(Self.isInRange) AND \(isDue)), \(Self.changed),
             (SELECT count(*) FROM changed), (SELECT count(*) FROM free)\(noteChanges)
    """)

  /// Answers the place of the first due row.
  package private(set) lazy var firstDue = sql(
    "SELECT min(ctid) FROM \(table) AS target WHERE \(Self.isInRange) AND \(isDue)")

  /// Answers how many rows are due.
  package private(set) lazy var countDue = sql(
    "SELECT count(*) FROM \(table) AS target WHERE \(filter) AND \(Self.isInRange) AND \(isDue)"
  )

  /// Answers whether no row is due now, by the server's clock instead of a run's cutoff. One index entry suffices.
  /// False if the table has changed; a run then finds out.
  package private(set) lazy var nothingDue: String = {
    let now = "(SELECT (clock_timestamp() - '\(sweep.age.nanoseconds / 1_000) microseconds'::interval))"
    let due = sweep.due.replacingFirst(":cutoff", with: now)
    return sql("SELECT (min(\(sweep.key)) IS NULL) AND \(moments.isUnchanged) FROM \(table) AS target WHERE \(due)")
  }()

  // MARK: Single rows

  /// Answers the table's identifier and the place of each due row of the pages.
  package private(set) lazy var dueRows = sql(
    """
    SELECT tableoid::bigint, ctid FROM \(table) AS target
     WHERE \(filter) AND \(Self.isInRange) AND \(isDue)
    """)

  /// Parameters: identifiers and places. Changes these rows if they are still due, and answers as `write` does.
  package private(set) lazy var writeRows: String = {
    let isAmong = "(target.ctid = ANY ($2::tid[])) AND (target.tableoid = ANY ($1::oid[]))"
    return sql(counting("\(verb) WHERE \(filter) AND \(isAmong) AND \(isWritten)", among: isAmong))
  }()

  // MARK: All pages

  /// Answers the place of the first due row. It can run in parallel workers, because it writes and locks nothing.
  package private(set) lazy var probeTable = sql(
    "SELECT min(ctid) FROM \(table) AS target WHERE \(filter) AND \(isDue)")

  /// Parameter: a transaction's number. Answers how many rows written since are due, or how many of all rows if the
  /// role cannot see who wrote a row.
  package private(set) lazy var dueSince = sql(
    // The half that follows a number is ahead of it.
    "\(countAll) AND (\(CatalogSQL.transactions(from: "$1", to: "target")) < 2147483648)")
  package private(set) lazy var dueAtAll = sql(countAll)

  private var countAll: String {
    "SELECT count(*) FROM \(table) AS target WHERE \(filter) AND \(isDue)"
  }

  // MARK: An index, in descending order from the key $1 (µs; null: from the cutoff)

  /// Changes the due rows among the next entries, at most $3. Answers how many entries there were, how many due ones
  /// were selected, how many of those were not locked by others, how many rows were changed, and the last entry's key;
  /// for the first scan also whether more than $2 rows are due (0 or 1), checked if most of many entries were due; and
  /// how many rows were written, if that can differ; and for the first scan the oldest due row's key, as far as known.
  package private(set) lazy var indexScan = indexScanning(skippingLocked: false)
  package private(set) lazy var indexScanSkippingLocked = indexScanning(skippingLocked: true)

  private func indexScanning(skippingLocked: Bool) -> String {
    sql(
      """
      WITH found AS MATERIALIZED (
          SELECT tableoid AS table_id, ctid AS row_id, \(sweep.key) AS key, \(isDue) AS is_due
            FROM \(table) AS target
           WHERE \(filter) AND \(reached)
           ORDER BY \(sweep.key) DESC LIMIT \(SweepRoute.entryLimit)),
        sought AS MATERIALIZED (SELECT table_id, row_id FROM found WHERE is_due LIMIT $3::bigint),
        \(changingSought(skippingLocked))
      SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM sought),
             (SELECT count(*) FROM \(skippingLocked ? "free" : "sought")), \(Self.changed),
             (SELECT \(MomentKey.key(of: "min(key)")) FROM found),
             \(tooManyForIndex), \(written), \(oldestDue)\(noteChanges)
      """)
  }

  /// The most entries at an index's old end that are read for the oldest due row.
  private static let oldestEntryLimit = 100

  /// The key of the row that is due for the longest, for the first scan: if that did not read all entries, of the
  /// oldest ones. If none of those is due, the oldest due row is at least as old as this.
  private var oldestDue: String {
    guard sweep.isDueByKey else { return "NULL" }
    return """
      CASE WHEN $1::bigint IS NULL THEN coalesce(
               CASE WHEN ((SELECT count(*) FROM found) >= \(SweepRoute.entryLimit))
                 THEN (SELECT \(MomentKey.key(of: "min(key)")) FROM (SELECT \(sweep.key) AS key, \(isDue) AS is_due
                         FROM \(table) AS target WHERE \(reached)
                         ORDER BY \(sweep.key) LIMIT \(Self.oldestEntryLimit)) AS oldest WHERE is_due) END,
               (SELECT \(MomentKey.key(of: "min(key)")) FROM found WHERE is_due)) END
      """
  }

  private var tooManyForIndex: String {
    """
    CASE WHEN $1::bigint IS NULL AND (((SELECT count(*) FROM sought) * 2) >= \(SweepRoute.entryLimit))
               THEN (SELECT count(*) FROM (SELECT FROM \(table) AS target WHERE \(reached) AND \(isDue)
                 OFFSET $2::bigint LIMIT 1) AS beyond) ELSE 0 END
    """
  }

  /// Changes at most $2 due rows in any order: if few of many entries are due, reading all of them costs less than
  /// sorting them. Answers as `indexScan` does; the entries are the due rows that were found.
  package private(set) lazy var unorderedIndexScan = unorderedIndexScanning(skippingLocked: false)
  package private(set) lazy var unorderedIndexScanSkippingLocked = unorderedIndexScanning(skippingLocked: true)

  private func unorderedIndexScanning(skippingLocked: Bool) -> String {
    sql(
      """
      WITH found AS MATERIALIZED (
          SELECT tableoid AS table_id, ctid AS row_id FROM \(table) AS target
           WHERE \(filter) AND \(reached) AND \(isDue)),
        sought AS MATERIALIZED (SELECT table_id, row_id FROM found LIMIT $2::bigint),
        \(changingSought(skippingLocked))
      SELECT (SELECT count(*) FROM sought), (SELECT count(*) FROM sought),
             (SELECT count(*) FROM \(skippingLocked ? "free" : "sought")), \(Self.changed), NULL, 0,
             \(written)\(noteChanges)
      """)
  }

  private func changingSought(_ skippingLocked: Bool) -> String {
    let changed = changing(
      "WHERE \(Self.isAmong(skippingLocked ? "free" : "sought")) AND \(isDue) AND \(Self.hasTime)")
    guard skippingLocked else { return changed }
    return """
      free AS MATERIALIZED (
        SELECT tableoid AS table_id, ctid AS row_id FROM \(table) AS target
         WHERE \(Self.isAmong("sought")) AND \(isDue) FOR UPDATE SKIP LOCKED),
      \(changed)
      """
  }

  // MARK: Keys, for a role that may not read ctid

  /// Parameters: the key after which the window begins (µs; null: the first), and its row limit, not counting rows that
  /// share its last key. Answers the window's last key, how many of its rows were due, how many were changed, how many
  /// were written, if counted, and the window's first key.
  package private(set) lazy var writeWindow: String = {
    let isBehind = "($1::bigint IS NULL OR (\(sweep.key) > \(MomentKey.moment(of: "$1"))))"
    return sql(
      """
      WITH ending AS MATERIALIZED (
          SELECT max(key) AS key, min(key) AS first FROM (
            SELECT \(sweep.key) AS key FROM \(table) AS target
             WHERE \(filter) AND \(isDue) AND \(isBehind)
             ORDER BY \(sweep.key) LIMIT $2::bigint) AS ahead),
        \(changing("WHERE \(isDue) AND \(isBehind) AND (\(sweep.key) <= (SELECT key FROM ending))"))
      SELECT (SELECT \(MomentKey.key(of: "key")) FROM ending),
             (SELECT count(*) FROM \(table) AS target
               WHERE \(isDue) AND \(isBehind) AND (\(sweep.key) <= (SELECT key FROM ending))), \(Self.changed),
             \(written), (SELECT \(MomentKey.key(of: "first")) FROM ending)\(noteChanges)
      """)
  }()

  /// Parameter: the key after which to search. Answers the first due row's key, and how many due rows share it.
  package private(set) lazy var firstKey: String = {
    let isBehind = "($1::bigint IS NULL OR (\(sweep.key) > \(MomentKey.moment(of: "$1"))))"
    return sql(
      """
      WITH ahead AS MATERIALIZED (
          SELECT \(sweep.key) AS key, count(*) AS rows FROM \(table) AS target
           WHERE \(filter) AND \(isDue) AND \(isBehind)
           GROUP BY \(sweep.key) ORDER BY \(sweep.key) LIMIT 1)
      SELECT \(MomentKey.key(of: "key")), rows FROM ahead
      """)
  }()

  // MARK: Parts

  /// The one-time filter of each statement.
  var filter: String { "\(GuardStatements.filter) AND \(moments.isUnchanged)" }

  private func sql(_ text: String) -> String { CatalogSQL.qualified(text) }

  /// Adds the number of rows that were due before the write, if rows can be kept.
  private func counting(_ write: String, among rows: String = isInRange) -> String {
    guard countsDue else { return write }
    return """
      WITH \(returning(write))
      SELECT (SELECT count(*) FROM \(table) AS target WHERE \(rows) AND \(isWritten)), \(Self.changed),
             (SELECT count(*) FROM changed WHERE NOT is_changed)\(noteChanges)
      """
  }

  /// Changes the rows that `condition` selects, as `changed`, and records them.
  private func changing(_ condition: String) -> String { returning("\(verb) \(condition)") }

  private func returning(_ write: String) -> String { "changed AS (\(write) RETURNING \(answered))\(noted)" }

  /// What a change returns per row.
  var answered: String { isChanged + (sweep.audit == nil && sweep.attemptLimit == nil ? "" : ", target.id AS id") }

  /// Follows a change's other answers: what the batch's closing statements need.
  private var noteChanges: String { noteAttempted + countNoted }

  /// Whether a written row is no longer due. A trigger may have reverted it.
  var isChanged: String {
    switch sweep.change {
    case .delete: "true AS is_changed"
    case .update: "\(isDue) IS NOT TRUE AS is_changed"
    }
  }

  /// How many rows were written; null if each was changed.
  private var written: String { countsDue ? "(SELECT count(*) FROM changed)" : "NULL" }

  static let changed = "(SELECT count(*) FROM changed WHERE is_changed)"

  private static let isInRange = "(target.ctid >= $1::tid) AND (target.ctid < $2::tid)"

  var verb: String {
    switch sweep.change {
    case .delete: "DELETE FROM \(table) AS target"
    case .update(let set):
      "UPDATE \(table) AS target SET "
        + Self.withCutoff(set).replacingFirst(":exhausted", with: Self.isExhausted)
    }
  }

  /// Whether a row is due, by the cutoff in the transaction's setting sb.cutoff.
  var isDue: String { "(" + Self.withCutoff(sweep.dueCondition(among: related)) + ")" }

  /// A declaration's text with the cutoff filled in.
  static func withCutoff(_ text: String) -> String {
    let filled = text.replacingFirst(":cutoff", with: GuardStatements.cutoff)
    return filled == text ? text : withCutoff(filled)
  }

  /// Whether a row is due and, if rows are locked before the write, was locked by this transaction.
  private var isWritten: String {
    sweep.leavesReferenced ? "\(isDue) AND \(Self.isLocked) AND \(related.hasSameReferences)" : isDue
  }

  // MARK: Locks, taken before a write where rows that something refers to stay
  //
  // The write is a separate statement. Its snapshot is taken after the locks, so it sees references that were added
  // before a row was locked, and none can be added afterwards.

  /// The most rows that are locked before one write.
  package static let lockLimit = 1_000

  /// Locks due rows of pages, at most $3, until the time limit. Answers nothing, how many were due, and how many were
  /// locked.
  package private(set) lazy var lock = locking(Self.isInRange)

  /// Parameters: those of `writeRows`, and the row limit.
  package private(set) lazy var lockRows = locking(
    "(target.ctid = ANY ($2::tid[])) AND (target.tableoid = ANY ($1::oid[]))")

  /// Locks the due rows among the next index entries, or due rows in any order, except those locked by others. The
  /// parameters and the answers are those of `indexScan` and `unorderedIndexScan`, without those about the write.
  package private(set) lazy var lockIndexScan = lockingFound(
    """
    SELECT ctid AS row_id, \(sweep.key) AS key, \(isDue) AS is_due FROM \(table) AS target
             WHERE \(filter) AND \(reached)
             ORDER BY \(sweep.key) DESC LIMIT \(SweepRoute.entryLimit)
    """, tooManyForIndex: tooManyForIndex, oldestDue: oldestDue, limit: " LIMIT $3::bigint")
  package private(set) lazy var lockUnorderedIndexScan = lockingFound(
    """
    SELECT ctid AS row_id, NULL::timestamptz AS key, true AS is_due FROM \(table) AS target
             WHERE \(filter) AND \(reached) AND \(isDue) LIMIT $2::bigint
    """, tooManyForIndex: "0", oldestDue: "NULL", limit: "")

  private func lockingFound(
    _ found: String, tooManyForIndex: String, oldestDue: String, limit: String
  ) -> String {
    sql(
      """
      WITH found AS MATERIALIZED (
          \(found)),
        sought AS MATERIALIZED (SELECT row_id FROM found WHERE is_due\(limit)),
        locked AS MATERIALIZED (
          SELECT ctid AS row_id FROM \(table) AS target
           WHERE (target.ctid = ANY (ARRAY(SELECT row_id FROM sought))) AND \(isDue) FOR UPDATE SKIP LOCKED)
      SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM sought), (SELECT count(*) FROM locked),
             \(Self.setLocked), (SELECT \(MomentKey.key(of: "min(key)")) FROM found), \(tooManyForIndex), \(oldestDue)
      """)
  }

  /// Changes the rows that were locked, and answers as `write` does.
  package private(set) lazy var writeLocked = sql(
    counting("\(verb) WHERE \(filter) AND \(isWritten)", among: "true"))

  private static let setLocked =
    "set_config('sb.locked', coalesce((SELECT array_agg(row_id)::text FROM locked), '{}'), true) <> ''"

  private func locking(_ rows: String) -> String {
    sql(
      """
      WITH locked AS MATERIALIZED (
          SELECT ctid AS row_id FROM \(table) AS target
           WHERE \(filter) AND \(rows) AND \(isDue) AND \(Self.hasTime)
           LIMIT $3::bigint FOR UPDATE SKIP LOCKED)
      SELECT \(Self.setLocked),
             (SELECT count(*) FROM \(table) AS target WHERE \(filter) AND \(rows) AND \(isDue)),
             (SELECT count(*) FROM locked)
      """)
  }

  /// The setting is empty after the transaction, or was never set.
  private static let isLocked = """
    (target.ctid = ANY (CASE WHEN (current_setting('sb.locked', true) <> '')
      THEN current_setting('sb.locked', true)::tid[] END))
    """

  /// A place is unique only within a part of a table.
  private static func isAmong(_ rows: String) -> String {
    "(target.ctid = ANY (ARRAY(SELECT row_id FROM \(rows))))"
      + " AND (target.tableoid = ANY (ARRAY(SELECT table_id FROM \(rows))))"
  }

  /// Has the cutoff as an expression that the planner can read, so that it can estimate the number of rows.
  private var reached: String {
    guard let index = sweep.index else { preconditionFailure("a table without an index is not searched by one") }
    let reaches = indexHasAll ? sweep.due : index.reaches
    let bound = reaches.replacingFirst(":cutoff", with: GuardStatements.plannedCutoff)
    return "(\(bound)) AND (\(sweep.key) <= coalesce(\(MomentKey.moment(of: "$1")), 'infinity'::timestamptz))"
  }

  /// Volatile, so evaluated for every row. The right side is computed at the first row, which always passes: however
  /// long it took to find, a batch makes progress.
  private static let hasTime = """
    (clock_timestamp() < (SELECT greatest(\(limit("sb.write_limit")),
      (clock_timestamp() + '\(PageRanges.writeReserve.milliseconds) ms'::interval))))
    """

  /// Evaluated once, before the first row.
  private static let hasTimeForPart = """
    (SELECT (clock_timestamp() < \(limit("sb.part_limit"))))
    """

  private static func limit(_ setting: String) -> String {
    "(now() + (current_setting('\(setting)')::bigint * '1 ms'::interval))"
  }
}
