// The column that a sweep finds due rows by, and the condition that it still is what it was.
// Invariant: a statement with that condition touches no row of a table whose column has another type than was seen.

/// A table's key column, as the look at the table met it.
///
/// Whether a row is due is a question of moments. If the column becomes a timestamp without a time zone, PostgreSQL
/// goes on comparing, in the session's zone, and statements that are prepared go on, too: live rows would be due.
package struct KeyColumn: Equatable, Sendable {
  /// The identifiers of the table and of the column's type.
  let table: Int64
  let type: Int64
  let name: String

  package init(table: Int64, type: Int64, name: String) {
    self.table = table
    self.type = type
    self.name = name
  }

  /// Evaluated once a statement, which has locked the table by then.
  var isUnchanged: String {
    """
    (SELECT ("column".atttypid = '\(type)'::oid) FROM "pg_catalog"."pg_attribute" AS "column"
      WHERE ("column".attrelid = '\(table)'::oid) AND ("column".attname = '\(name)'::name))
    """
  }
}
