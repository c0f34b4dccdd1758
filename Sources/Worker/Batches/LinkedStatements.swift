// The SQL of a sweep that changes rows of a second table with each due row. Pure text.
// Invariant: a due row is changed only if none of its linked rows is due in a snapshot taken after their change.

import Reactor

/// The statements of a window: due rows in the order of their keys, up to a number of rows that includes linked ones.
///
/// Two statements of one transaction sweep a window: first the linked rows change, then the due rows without due linked
/// rows. The second sees the first one's changes, what triggers did with them, and what other sessions committed in the
/// meantime. So it changes no row whose linked row was locked or kept unchanged by a trigger.
///
/// Parameters of each: the key at which the window begins (µs; null: the first), how many due rows to skip from there,
/// and the row limit, including linked rows. A window has at least one due row.
@EventLoop
package final class LinkedStatements {
  private let sweep: RowSweep
  private let linked: LinkedRows
  private let rows: TableStatements
  private let linkedTable: String
  /// True while row security and the linked rows' columns are as surveyed: hidden rows would seem to be missing.
  private let seesRows: String

  /// - Parameters:
  ///   - rows: the statements of the swept table.
  ///   - table: the linked rows' table.
  package init(_ linked: LinkedRows, of rows: TableStatements, in table: TableSurvey) {
    self.linked = linked
    self.rows = rows
    linkedTable = table.quotedName
    sweep = rows.sweep
    let isUnhidden = table.hidesRows ? "" : " AND (SELECT NOT row_security_active('\(table.identifier)'::oid))"
    seesRows = table.moments.isUnchanged + isUnhidden
  }

  /// Changes the linked rows of a window. Answers how many changed, and how many of those that were written are still
  /// due.
  package private(set) lazy var writeLinked = writingLinked(among: "SELECT unnest(links) FROM sought")

  /// The same, skipping rows that another session has locked.
  package private(set) lazy var writeLinkedSkippingLocked = writingLinked(
    among: "SELECT id FROM held",
    """
    ,
      held AS MATERIALIZED (
        SELECT linked.\(linked.id) AS id FROM \(linkedTable) AS linked
         WHERE (linked.\(linked.id) = ANY (ARRAY(SELECT unnest(links) FROM sought))) AND \(isLinkedDue)
           FOR NO KEY UPDATE SKIP LOCKED)
    """)

  private func writingLinked(among ids: String, _ more: String = "") -> String {
    CatalogSQL.qualified(
      """
      \(window)\(more),
        written AS (
          UPDATE \(linkedTable) AS linked SET \(TableStatements.withCutoff(linked.set))
           WHERE (linked.\(linked.id) = ANY (ARRAY(\(ids)))) AND \(isLinkedDue)
          RETURNING \(isLinkedDue) AS is_due)
      SELECT (SELECT count(*) FROM written WHERE is_due IS NOT TRUE), (SELECT count(*) FROM written WHERE is_due)
      """)
  }

  /// Changes the due rows of a window that have no due linked row. Answers how many rows were due, how many were
  /// changed, the last row's key, how many rows with that key are still due, how many were written, and the first
  /// row's key.
  package private(set) lazy var write = writing(skippingLocked: false)
  package private(set) lazy var writeSkippingLocked = writing(skippingLocked: true)

  private func writing(skippingLocked: Bool) -> String {
    let free = """
      free AS MATERIALIZED (
          SELECT target.id AS id FROM \(rows.table) AS target
           WHERE (target.id = ANY (ARRAY(SELECT id FROM ready))) AND \(rows.isDue) FOR NO KEY UPDATE SKIP LOCKED),
      """
    return CatalogSQL.qualified(
      """
      \(window),
        blocking AS MATERIALIZED (
          SELECT linked.\(linked.id) AS id FROM \(linkedTable) AS linked
           WHERE (linked.\(linked.id) = ANY (ARRAY(SELECT unnest(links) FROM sought))) AND \(isLinkedDue)),
        ready AS MATERIALIZED (
          SELECT id FROM sought WHERE coalesce((links && ARRAY(SELECT id FROM blocking)), false) IS FALSE),
        \(skippingLocked ? free : "")
        changed AS (
          \(rows.verb)
           WHERE (target.id = ANY (ARRAY(SELECT id FROM \(skippingLocked ? "free" : "ready")))) AND \(rows.isDue)
          RETURNING target.\(sweep.key) AS key, \(rows.answered))\(rows.noted),
        last AS MATERIALIZED (SELECT max(key) AS key FROM sought)
      SELECT (SELECT count(*) FROM sought), \(TableStatements.changed),
             (SELECT \(MomentKey.key(of: "key")) FROM last),
             (SELECT count(*) FROM sought WHERE key = (SELECT key FROM last))
               - (SELECT count(*) FROM changed WHERE is_changed AND key = (SELECT key FROM last)),
             (SELECT count(*) FROM changed), (SELECT \(MomentKey.key(of: "min(key)")) FROM sought)\(rows.countNoted)
      """)
  }

  /// Answers the key of a window's first row. The third parameter is not used.
  package private(set) lazy var firstKey = CatalogSQL.qualified(
    """
    \(window) SELECT \(MomentKey.key(of: "min(key)")) FROM sought
    """)

  // MARK: Parts

  private var isLinkedDue: String { "(\(TableStatements.withCutoff(linked.due)))" }

  /// Rows in key order, until they and their linked rows reach the limit.
  private var window: String {
    """
    WITH ahead AS MATERIALIZED (
        SELECT target.id AS id, target.\(sweep.key) AS key, target.\(linked.references) AS links
          FROM \(rows.table) AS target
         WHERE \(rows.filter) AND \(seesRows) AND \(rows.isDue)
           AND (target.\(sweep.key) >= coalesce(\(MomentKey.moment(of: "$1")), '-infinity'::timestamptz))
         ORDER BY target.\(sweep.key) LIMIT $3::bigint OFFSET $2::bigint),
      counted AS (
        SELECT id, key, links, row_number() OVER () AS number,
               sum(1 + coalesce(cardinality(links), 0)) OVER (ROWS UNBOUNDED PRECEDING) AS size
          FROM ahead),
      sought AS MATERIALIZED (
        SELECT id, key, links FROM counted WHERE ((number = 1) OR (size <= $3::bigint)) AND ($3::bigint > 0))
    """
  }
}
