// The SQL of a row sweep, put together from its declaration. Pure text.
// Invariant: every write checks the row's condition again and has the guard's verdict as a one-time filter; each but
// the one of a few pages with locked rows ends by the clock.

import Reactor

extension RowSweep {
  /// Parameters: synchronous_commit, the longest time that a statement may take in ms, and plan_cache_mode.
  static let batchSettings = """
    SELECT set_config('synchronous_commit', $1, true), set_config('plan_cache_mode', $3, true),
           set_config('statement_timeout', least($2::bigint, greatest(1, trunc(extract(epoch FROM
             current_setting('sb.deadline')::timestamptz - clock_timestamp()) * 1000)))::bigint::text, true)
    """

  /// Answers the table's size in pages, and the number of its file.
  var size: String {
    "SELECT \(pages), pg_relation_filenode('\(table)')"
  }

  private var pages: String {
    "pg_relation_size('\(table)', 'main') / current_setting('block_size')::int"
  }

  /// About these pages. Its plan is the same for all of them.
  func statement(_ text: String, _ range: Range<Int>) -> PostgresStatement {
    PostgresStatement(text, ["(\(range.lowerBound),0)", "(\(range.upperBound),0)"], isKept: true)
  }

  // MARK: Pages, from $1 up to and without $2

  /// Changes due rows until the clock says stop.
  var write: String {
    "\(verb) WHERE \(GuardStatements.filter) AND \(range) AND \(isDue) AND \(Self.hasTime)"
  }

  /// The same for a part of a range: all due rows, or none where the clock says stop.
  var writePart: String {
    "\(verb) WHERE \(GuardStatements.filter) AND \(Self.hasTimeForPart) AND \(range) AND \(isDue)"
  }

  /// The same where a row stayed locked: leaves locked rows out, and answers how many rows were due and how many were
  /// changed.
  var writeSkippingLocked: String {
    """
    WITH free AS MATERIALIZED (
        SELECT ctid AS row_id FROM \(table)
         WHERE \(GuardStatements.filter) AND \(range) AND \(isDue) FOR UPDATE SKIP LOCKED),
      changed AS (\(verb) WHERE \(isAmong("free")) AND \(isDue) RETURNING 1)
    SELECT (SELECT count(*) FROM \(table) WHERE \(range) AND \(isDue)), (SELECT count(*) FROM changed)
    """
  }

  /// Answers where the first row lies that is due.
  var firstDue: String {
    "SELECT min(ctid) FROM \(table) WHERE \(range) AND \(isDue)"
  }

  // MARK: All pages

  /// Answers where the first row lies that is due. Parallel workers may share it: nothing is written, no lock is taken.
  var look: String {
    "SELECT min(ctid) FROM \(table) WHERE \(GuardStatements.filter) AND \(isDue)"
  }

  // MARK: An index, from the key $1 downwards (null: from the cutoff on)

  /// Changes the due rows among the next entries. Answers how many entries there were, how many of them were due, how
  /// many of those nobody held, how many rows were changed, and the last entry's key; the first time also whether more
  /// rows are due than the index is good for (0 or 1), which is looked at where most of many entries were.
  func walk(_ index: Index, skippingLocked: Bool) -> String {
    """
    WITH found AS MATERIALIZED (
        SELECT ctid AS row_id, \(index.column) AS key, \(isDue) AS is_due FROM \(table)
         WHERE \(GuardStatements.filter) AND \(reached(index))
         ORDER BY \(index.column) DESC LIMIT \(SweepRoute.entryLimit)),
      sought AS MATERIALIZED (SELECT row_id FROM found WHERE is_due),
      \(changingSought(skippingLocked))
    SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM sought),
           (SELECT count(*) FROM \(skippingLocked ? "free" : "sought")), (SELECT count(*) FROM changed),
           (SELECT min(key)::text FROM found),
           CASE WHEN $1 IS NULL AND (SELECT count(*) FROM sought) * 2 >= \(SweepRoute.entryLimit)
             THEN (SELECT count(*) FROM (SELECT FROM \(table) WHERE \(reached(index)) AND \(isDue)
               OFFSET (\(pages)) / \(SweepRoute.pagesPerFoundRow) LIMIT 1) AS beyond) ELSE 0 END
    """
  }

  /// Changes due rows in no order: where few of many entries are due, one look at all of them costs less than their
  /// order does. Answers as `walk` does; the entries are the due rows that were found.
  func gather(_ index: Index, skippingLocked: Bool) -> String {
    """
    WITH found AS MATERIALIZED (
        SELECT ctid AS row_id FROM \(table)
         WHERE \(GuardStatements.filter) AND \(reached(index)) AND \(isDue)),
      sought AS MATERIALIZED (SELECT row_id FROM found LIMIT \(SweepRoute.entryLimit)),
      \(changingSought(skippingLocked))
    SELECT (SELECT count(*) FROM sought), (SELECT count(*) FROM sought),
           (SELECT count(*) FROM \(skippingLocked ? "free" : "sought")), (SELECT count(*) FROM changed), NULL, 0
    """
  }

  private func changingSought(_ skippingLocked: Bool) -> String {
    let changed =
      "changed AS (\(verb) WHERE \(isAmong(skippingLocked ? "free" : "sought")) AND \(isDue)"
      + " AND \(Self.hasTime) RETURNING 1)"
    guard skippingLocked else { return changed }
    return """
      free AS MATERIALIZED (
        SELECT ctid AS row_id FROM \(table) WHERE \(isAmong("sought")) AND \(isDue) FOR UPDATE SKIP LOCKED),
      \(changed)
      """
  }

  // MARK: Parts

  private var range: String {
    "\(table).ctid >= $1::tid AND \(table).ctid < $2::tid"
  }

  private var verb: String {
    switch change {
    case .delete: "DELETE FROM \(table)"
    case .update(let set): "UPDATE \(table) SET \(set)"
    }
  }

  private var isDue: String {
    "(" + due.replacingFirst(":cutoff", with: GuardStatements.cutoff) + ")"
  }

  private func isAmong(_ rows: String) -> String {
    "\(table).ctid = ANY (ARRAY(SELECT row_id FROM \(rows)))"
  }

  /// The cutoff stands here as an expression that the planner can look at, so that it knows how many rows there are.
  private func reached(_ index: Index) -> String {
    let bound = index.reaches.replacingFirst(":cutoff", with: "current_setting('sb.cutoff')::timestamptz")
    return "(\(bound)) AND \(index.column) <= coalesce($1::timestamptz, 'infinity')"
  }

  /// Volatile, so looked at for every row; the right side is computed at the first row, which it always lets pass:
  /// however long the way to it was, a batch gets something done.
  private static let hasTime = """
    clock_timestamp() < (SELECT greatest(now() + interval '\(PageRanges.writeLimit.milliseconds) ms',
      clock_timestamp() + interval '\(PageRanges.writeReserve.milliseconds) ms'))
    """

  /// Looked at once, before the first row.
  private static let hasTimeForPart = """
    (SELECT clock_timestamp() < now() + interval '\(PageRanges.partLimit.milliseconds) ms')
    """
}
