// The SQL by which a batch records its changes in the audit trail and proves that the lines exist. Pure text.
// Invariant: a change is committed only with its line, whatever triggers on the trail do.

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
/// A trigger may move lines into another part of the table: PostgreSQL counts a transaction's inserts per table, which
/// includes those and needs no SELECT privilege. If rows were deleted and the role can read the table, a query finds
/// out whether they were these lines or old ones: it checks where the lines were inserted, and reads the whole table
/// only if some are missing there.
struct AuditProof: Sendable {
  /// Precedes a batch's statements.
  let opening: PostgresStatement
  /// Follows them.
  let closing: PostgresStatement
  /// The refusal of a batch without all of its lines.
  let refusal: SweepRefusal

  /// The SQLSTATE of `closing` if a line is missing: division by zero.
  static let missingState = "22012"

  init(_ trail: RelatedTables.Table) {
    opening = PostgresStatement(Self.open, ["\(trail.identifier)"], isPrepared: true)
    let isThere = trail.showsOwnRows ? Self.isThere(in: trail.quotedName) : "true"
    closing = PostgresStatement(Self.close(isThere), ["\(trail.identifier)"], isPrepared: true)
    refusal = .discardedLines(trail.displayName)
  }

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
           set_config('sb.lines_at', '', true),
           set_config('sb.lines_before', \(inserted)::text, true),
           set_config('sb.lines_deleted', \(deleted)::text, true)
    """)

  /// - Parameter isThere: a condition that holds if no line of this transaction was deleted.
  static func close(_ isThere: String) -> String {
    CatalogSQL.qualified(
      """
      SELECT 1 / (CASE
        WHEN (current_setting('sb.lines_inserted')::numeric < current_setting('sb.lines')::numeric)
          THEN current_setting('track_counts')::boolean
            AND ((\(inserted) - current_setting('sb.lines_before')::numeric) >= current_setting('sb.lines')::numeric)
        WHEN (\(deleted) > current_setting('sb.lines_deleted')::numeric) THEN \(isThere)
        ELSE true END)::int
      """)
  }

  static func isThere(in trail: String) -> String {
    // Parts of the table can share a place. A row of this transaction in either counts in both queries.
    let isAtPlace = "(line.ctid = ANY (concat('{', rtrim(current_setting('sb.lines_at'), ','), '}')::tid[])) AND "
    return """
      CASE WHEN (\(count(in: trail, isAtPlace)) >= current_setting('sb.lines')::numeric)
           THEN true
           ELSE (\(count(in: trail)) >= current_setting('sb.lines')::numeric) END
      """
  }

  private static func count(in trail: String, _ condition: String = "") -> String {
    "(SELECT count(*) FROM \(trail) AS line WHERE \(condition)(line.xmin = pg_current_xact_id()::xid))"
  }
}
