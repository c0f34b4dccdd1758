// The columns that a sweep reads or writes as moments, and the condition that they still are what they were.
// Invariant: a statement with that condition touches no row of a table where one of them has another type than before.

/// A table's columns of moments, as the look at the table met them.
///
/// Whether a row is due is a question of moments. If a column becomes a timestamp without a time zone, PostgreSQL goes
/// on comparing, in the session's zone, and statements that are prepared go on, too: live rows would be due.
package struct MomentColumns: Equatable, Sendable {
  /// The table's identifier.
  let table: Int64
  /// Their names, as an array in SQL: "{expires_at,revoked_at}".
  let names: String
  /// Names and types, as `types(of:named:)` answered them.
  let types: String

  package init(table: Int64, names: String, types: String) {
    self.table = table
    self.names = names
    self.types = types
  }

  /// Evaluated once a statement, which has locked the table by then.
  var isUnchanged: String {
    "(SELECT (\(Self.types(of: "'\(table)'", named: "'\(names)'")) = '\(types)'::text))"
  }

  /// SQL for the names and types of these columns of a table; null if it has none of them.
  static func types(of table: String, named names: String) -> String {
    """
    (SELECT string_agg(concat("column".attname, ' ', "column".atttypid), ',' ORDER BY "column".attnum)
       FROM "pg_catalog"."pg_attribute" AS "column"
      WHERE ("column".attrelid = \(table)::oid) AND ("column".attname = ANY (\(names)::name[])))
    """
  }

  /// The same columns with their types in words, of those that are no moments: "revoked_at is date". A domain has the
  /// output function of the type that it is made of.
  static func unusable(in table: String, named names: String) -> String {
    """
    (SELECT string_agg(concat("column".attname, ' is ', format_type("column".atttypid, NULL)), ', '
                       ORDER BY "column".attnum)
       FROM "pg_catalog"."pg_attribute" AS "column"
       JOIN "pg_catalog"."pg_type" AS type ON (type.oid = "column".atttypid)
      WHERE ("column".attrelid = \(table)::oid) AND ("column".attname = ANY (\(names)::name[]))
        AND (type.typoutput::oid <> 'pg_catalog.timestamptz_out'::regproc::oid))
    """
  }
}
