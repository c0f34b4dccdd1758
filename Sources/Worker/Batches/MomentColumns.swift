// The timestamptz columns that a sweep reads or writes, and the condition that their types are unchanged.
// Invariant: a statement with that condition touches no row if the type of one of them has changed.

/// A table's moment columns, as surveyed.
///
/// Due conditions compare moments. If a column becomes a timestamp without time zone, PostgreSQL compares it in the
/// session's zone, even in statements prepared earlier: rows that are not due would look due.
package struct MomentColumns: Equatable, Sendable {
  /// The table's identifier.
  let table: Int64
  /// Their names as an SQL array: "{expires_at,revoked_at}".
  let names: String
  /// Names and types, as `types(of:named:)` returned them.
  let types: String

  package init(table: Int64, names: String, types: String) {
    self.table = table
    self.names = names
    self.types = types
  }

  /// Evaluated once per statement, after it has locked the table.
  var isUnchanged: String {
    "(SELECT (\(Self.types(of: "'\(table)'", named: "'\(names)'")) = '\(types)'::text))"
  }

  /// SQL for the names and types of these columns of a table; null if it has none.
  static func types(of table: String, named names: String) -> String {
    """
    (SELECT string_agg(concat("column".attname, ' ', "column".atttypid), ',' ORDER BY "column".attnum)
       FROM "pg_catalog"."pg_attribute" AS "column"
      WHERE ("column".attrelid = \(table)::oid) AND ("column".attname = ANY (\(names)::name[])))
    """
  }

  /// SQL for the columns that are not timestamptz, with their types: "revoked_at is date". A domain has the output
  /// function of its base type.
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
