// The SQL by which a batch notes its changes in the audit trail and proves that the lines are there. Pure text.
// Invariant: a change is committed only with its line, whatever the trail's triggers do.

import Reactor

extension TableStatements {
  /// What the audit trail says of each row in `changed`: a further part of the same statement.
  var noted: String {
    guard let audit = sweep.audit else { return "" }
    return """
      ,
        noted AS (
          INSERT INTO \(related.quotedName(of: AuditNote.table)) (\(AuditNote.columns.joined(separator: ", ")))
          SELECT 'worker', '\(audit.action)', concat('\(audit.resource):', changed.id), '\(audit.status)',
                 gen_random_uuid(), \(audit.metadata)
            FROM changed WHERE changed.is_changed
          RETURNING 1 AS line)
      """
  }

  /// Behind the other answers of a change: counts for `AuditProof` the lines that it was to insert, and those that it
  /// did. Empty where a sweep notes nothing.
  var countNoted: String {
    guard sweep.audit != nil else { return "" }
    return """
      ,
               set_config('sb.lines', (current_setting('sb.lines')::bigint + \(Self.changed))::text, true),
               set_config('sb.lines_inserted',
                 (current_setting('sb.lines_inserted')::bigint + (SELECT count(*) FROM noted))::text, true)
      """
  }
}

/// The statements around those of a batch that notes its changes: they fail the batch where a trigger discards a line.
///
/// A trigger that moves lines into another part of the table is none that discards them: PostgreSQL counts the rows
/// that a transaction inserts into each table, which takes no right to read them. One that deletes a line again is told
/// from one that deletes old lines by a look at the table, where the role may read it and something was deleted.
struct AuditProof: Sendable {
  /// Before a batch's statements.
  let opening: PostgresStatement
  /// Behind them.
  let closing: PostgresStatement
  /// What a batch without all of its lines is refused with.
  let refusal: SweepRefusal

  /// What `closing` fails with where a line is missing: division by zero.
  static let missingState = "22012"

  init(_ trail: RelatedTables.Table) {
    opening = PostgresStatement(Self.open, ["\(trail.identifier)"], isPrepared: true)
    let canLook = trail.canReadRows && !trail.hidesRows
    closing = PostgresStatement(
      Self.close(canLook ? Self.isThere(in: trail.quotedName) : "true"), ["\(trail.identifier)"], isPrepared: true)
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
           set_config('sb.lines_before', \(inserted)::text, true),
           set_config('sb.lines_deleted', \(deleted)::text, true)
    """)

  /// - Parameter isThere: a condition that holds where no line of this transaction was deleted again.
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
    """
    ((SELECT count(*) FROM \(trail) AS line WHERE (line.xmin = pg_current_xact_id()::xid))
      >= current_setting('sb.lines')::numeric)
    """
  }
}
