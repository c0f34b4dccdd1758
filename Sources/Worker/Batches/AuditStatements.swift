// The SQL by which a batch records its changes in the audit trail and proves that the lines exist. Pure text.
// Invariant: a change is committed only with its line, whatever triggers on the trail do.

import Coordination
import Reactor

extension TableStatements {
  /// Inserts the audit line for each row in `changed`, as part of the same statement.
  var noted: String {
    guard let audit = sweep.audit else { return "" }
    let answer = showsLines ? "ctid::text" : "''"
    return """
      ,
        noted AS (
          INSERT INTO \(related.quotedName(of: AuditNote.table)) (\(AuditNote.columns.joined(separator: ", ")))
          SELECT 'worker', '\(audit.action)', concat('\(audit.resource):', changed.id), '\(audit.status)',
                 gen_random_uuid(), \(audit.metadata)
            FROM changed WHERE changed.is_changed
          RETURNING \(answer) AS place)
      """
  }

  /// Whether the proof may query for the lines.
  private var showsLines: Bool { related.tables[AuditNote.table]?.showsOwnRows ?? false }

  /// After the other answers of a change: counts for `AuditProof` the lines to insert, and those inserted, and reports
  /// their places if the role may read the trail. Empty if the sweep has no audit lines.
  var countNoted: String {
    guard sweep.audit != nil else { return "" }
    return """
      ,
               set_config('sb.lines', (current_setting('sb.lines')::bigint + \(Self.changed))::text, true),
               set_config('sb.lines_inserted',
                 (current_setting('sb.lines_inserted')::bigint + (SELECT count(*) FROM noted))::text, true)\(places)
      """
  }

  /// Elements of an array of tid, each followed by a comma.
  private var places: String {
    guard showsLines else { return "" }
    return """
      ,
               set_config('sb.lines_at', concat(current_setting('sb.lines_at'),
                 (SELECT string_agg(concat('"', noted.place, '",'), '') FROM noted)), true)
      """
  }
}

/// The statements around those of a batch with audit lines. They fail the batch if a trigger discards a line.
///
/// The insert reports how many lines it inserted, and PostgreSQL counts the rows that a transaction deletes per table.
/// If lines are missing, because a trigger moves them into another part of the table or discards them, or if rows were
/// deleted, these lines or old ones, only reading the trail tells which. The lines are searched first where they were
/// inserted, then by time, which an index on occurred_at serves, and last in the whole trail.
///
/// PostgreSQL's count of inserted rows is necessary and not sufficient: it includes those of subtransactions that were
/// rolled back. The lines that are there are no proof alone either: a trigger may have updated older ones.
struct AuditProof: Sendable {
  /// Precedes a batch's statements.
  let opening: PostgresStatement
  /// Follow them: triggers that would run at the commit, if there are any, run before the check.
  let closing: [PostgresStatement]
  /// The refusal of a batch without all of its lines.
  let refusal: RowRefusal

  /// The SQLSTATE of the last closing statement if a line is missing: division by zero.
  static let missingState = "22012"

  init(_ trail: RelatedTables.Table) {
    opening = PostgresStatement(Self.open, ["\(trail.identifier)"], isPrepared: true)
    let check = Self.close(showsLines: trail.showsOwnRows ? trail.quotedName : nil)
    closing =
      (trail.meetsDeferredTriggers ? [PostgresStatement(Self.runDeferredTriggers)] : [])
      + [PostgresStatement(check, ["\(trail.identifier)"], isPrepared: true)]
    refusal = trail.showsOwnRows ? .discardedLines(trail.displayName) : .unprovenLines(trail.displayName)
  }

  /// In a block of PL/pgSQL: on its own in a pipeline, the server would log a warning.
  private static let runDeferredTriggers = "DO 'BEGIN SET CONSTRAINTS ALL IMMEDIATE; END'"

  /// Parameter: the trail's identifier.
  private static func count(_ function: String) -> String {
    """
    (WITH RECURSIVE \(CatalogSQL.tree(from: "SELECT $1::oid AS oid"))
     SELECT sum(\(function)(tree.oid)) FROM tree)
    """
  }

  private static let inserted = count("pg_stat_get_xact_tuples_inserted")
  private static let deleted = count("pg_stat_get_xact_tuples_deleted")

  static let open = CatalogSQL.qualified(
    """
    SELECT set_config('sb.lines', '0', true), set_config('sb.lines_inserted', '0', true),
           set_config('sb.lines_at', '', true), set_config('sb.lines_before', \(inserted)::text, true),
           set_config('sb.lines_deleted', \(deleted)::text, true)
    """)

  /// - Parameter trail: the trail, if the role can read it. Otherwise missing lines and deleted rows fail the check.
  static func close(showsLines trail: String?) -> String {
    CatalogSQL.qualified(
      """
      SELECT 1 / (CASE
        WHEN (current_setting('sb.lines_inserted')::numeric < \(lines))
          THEN \(trail.map { "\(areCounted) AND \(areThere(in: $0))" } ?? "false")
        WHEN (NOT current_setting('track_counts')::boolean)
          OR (\(deleted) > current_setting('sb.lines_deleted')::numeric) THEN \(trail.map(areInPlace) ?? "false")
        ELSE true END)::int
      """)
  }

  private static let lines = "current_setting('sb.lines')::numeric"

  /// True if PostgreSQL counted as many inserts, unless it counts none.
  private static let areCounted = """
    ((NOT current_setting('track_counts')::boolean)
            OR ((\(inserted) - current_setting('sb.lines_before')::numeric) >= \(lines)))
    """

  /// True if no line of this transaction was deleted.
  private static func areInPlace(in trail: String) -> String {
    // Parts of the table can share a place. A row of this transaction in either counts in both queries.
    let isAtPlace = "(line.ctid = ANY (concat('{', rtrim(current_setting('sb.lines_at'), ','), '}')::tid[]))"
    return "CASE WHEN (\(count(in: trail, isAtPlace)) >= \(lines)) THEN true ELSE \(areThere(in: trail)) END"
  }

  /// True if as many lines of this transaction exist as were to be inserted.
  private static func areThere(in trail: String) -> String {
    """
    (CASE WHEN (\(count(in: trail, "(line.occurred_at >= transaction_timestamp())")) >= \(lines)) THEN true
         ELSE (\(count(in: trail, "true")) >= \(lines)) END)
    """
  }

  /// The worker's rows that this transaction or one of its subtransactions wrote. Their numbers follow its own closely;
  /// rows that were frozen long ago keep numbers of an earlier round, for which PostgreSQL has no status. A transaction
  /// is in progress and its rows are visible: it is this one.
  private static func count(in trail: String, _ condition: String) -> String {
    let own = "pg_current_xact_id()::text::bigint"
    let distance = CatalogSQL.transactions(from: own, to: "line")
    return """
      (SELECT count(*) FROM \(trail) AS line
        WHERE \(condition) AND (line.actor = 'worker') AND (CASE WHEN (\(distance) < 1000000)
          THEN pg_xact_status((\(own) + \(distance))::text::xid8) = 'in progress'
          ELSE false END))
      """
  }
}
