// What a sweep assumes of its table and its privileges, read from the catalogue at the start of each run.
// Invariant: each assumption is enforced, adapted to, or refused by name; a sweep never runs on a table that it has
// not surveyed, and never reports "nothing to do" for rows that are hidden from it.

import Reactor

/// A table as the session's role sees it.
package struct TableSurvey: Equatable, Sendable {
  let schema: String
  let name: String
  /// The kind of relation: pg_class.relkind.
  let kind: String
  /// The table's OID: it survives a rename, and a new table of the same name has another one.
  let identifier: Int64
  /// Whether row security hides rows from the role.
  let hidesRows: Bool
  /// Whether the role may read whole rows, and with them their place (ctid).
  let canReadPlaces: Bool
  /// Whether the role may lock rows, which SKIP LOCKED needs.
  let canLockRows: Bool
  /// Whether a row trigger or a rule can leave a row unchanged while the statement succeeds.
  private(set) var canKeepRows: Bool
  /// Whether an AFTER trigger fires on a change, and so can undo it.
  let hasLateTriggers: Bool
  /// Whether one of them is deferred, and can be run earlier.
  let hasDeferredTriggers: Bool
  /// The indexes that can be scanned from newest to oldest due row.
  let indexes: KeyIndexes
  /// The columns that the sweep reads or writes as moments.
  let moments: MomentColumns
  /// Whether it has partitions or children.
  let hasParts: Bool
  /// The parts without pages here, such as foreign tables, by display name; nil if none.
  let foreignParts: String?
  /// The moment columns that are not timestamptz: "expires_at is date, revoked_at is date"; nil if none.
  let unusableMoments: String?
  private(set) var size: TableSize

  /// The name for SQL.
  var quotedName: String { Self.quoted(schema, name) }

  /// The name for texts.
  var displayName: String { "\(schema).\(name)" }

  /// Compares what the statements depend on; the rest may change between runs.
  func hasSameShape(as other: TableSurvey) -> Bool {
    schema == other.schema && name == other.name && kind == other.kind && identifier == other.identifier
      && hidesRows == other.hidesRows && canReadPlaces == other.canReadPlaces && canLockRows == other.canLockRows
      && canKeepRows == other.canKeepRows && hasLateTriggers == other.hasLateTriggers
      && hasDeferredTriggers == other.hasDeferredTriggers && indexes == other.indexes && moments == other.moments
      && hasParts == other.hasParts && foreignParts == other.foreignParts
      && unusableMoments == other.unusableMoments
  }

  /// The same table, with changes counted row by row even if no row can be kept.
  var countingChanges: TableSurvey {
    var survey = self
    survey.canKeepRows = true
    return survey
  }

  static func quoted(_ schema: String, _ name: String) -> String { "\(quoted(schema)).\(quoted(name))" }

  static func quoted(_ identifier: String) -> String {
    var text = "\""
    for character in identifier.unicodeScalars {
      if character == "\"" { text += "\"" }
      text.unicodeScalars.append(character)
    }
    return text + "\""
  }
}

extension TableSurvey {
  /// Why a table cannot be swept, and what to do; nil if it can.
  func refusal(allowsRowSecurity: Bool) -> SweepRefusal? {
    if !["r", "p"].contains(kind) { return .notATable(displayName) }
    if let unusableMoments { return .unusableMoments(unusableMoments, table: displayName) }
    if hidesRows, !allowsRowSecurity { return .rowSecurity(displayName) }
    return nil
  }

  /// feature_not_supported: the rule does not support RETURNING.
  private static let ruleState = "0A000"

  /// Whether one of the table's rules made a statement fail.
  func isRefusedByRule(_ error: PostgresError) -> Bool {
    error.sqlState == Self.ruleState && !error.isRaised && canKeepRows
  }

  /// The kind of change: a trigger's event, as a bit of pg_trigger.tgtype.
  enum Event: Int, Sendable {
    case insert = 4
    case delete = 8
    case update = 16
  }

  /// Triggers of the event in `$3`. An update can move a row between partitions, which fires their delete and insert
  /// triggers.
  private static let triggers = """
    part JOIN "pg_catalog"."pg_trigger" AS trigger ON (trigger.tgrelid = part.oid)
         WHERE (trigger.tgenabled <> 'D') AND ((trigger.tgtype
           & CASE WHEN ($3::int = 16) AND (named.relkind = 'p') THEN 28 ELSE $3::int END) <> 0)
    """

  /// Parameters: the table's name, the key column, the event, the moment columns. Answers one row, or none if the
  /// search path finds no such table.
  ///
  /// Temporary tables are skipped: behind a pooler they belong to another client.
  package static let query = CatalogSQL.qualified(
    """
    WITH RECURSIVE named AS MATERIALIZED (
      SELECT class.oid, class.relname, space.nspname, class.relkind, class.relhasrules
        FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, number)
        JOIN "pg_catalog"."pg_namespace" AS space ON (space.nspname = path.schema)
        JOIN "pg_catalog"."pg_class" AS class ON (class.relnamespace = space.oid) AND (class.relname = $1::name)
       WHERE (class.relkind = ANY ('{r,p,f,v,m}'::"char"[])) AND (class.relpersistence <> 't')
       ORDER BY path.number LIMIT 1),
    \(CatalogSQL.tree(from: "SELECT oid FROM named")),
    part AS MATERIALIZED (
      SELECT class.oid, class.relkind, space.nspname, class.relname, class.relhasrules,
             CASE WHEN (class.relkind = 'r') THEN (pg_relation_size(class.oid::regclass, 'main')
               / current_setting('block_size')::bigint) ELSE 0 END AS pages,
             CASE WHEN (class.relkind = 'r') THEN pg_relation_filenode(class.oid::regclass)::bigint ELSE 0 END AS file
        FROM tree
        JOIN "pg_catalog"."pg_class" AS class ON (class.oid = tree.oid)
        JOIN "pg_catalog"."pg_namespace" AS space ON (space.oid = class.relnamespace))
    SELECT named.nspname, named.relkind, named.oid::bigint, row_security_active(named.oid),
           has_table_privilege(named.oid, 'SELECT'), has_any_column_privilege(named.oid, 'UPDATE'),
           EXISTS (SELECT FROM part WHERE part.relhasrules)
             OR EXISTS (SELECT FROM \(triggers) AND ((trigger.tgtype & 3) = 3)),
           (SELECT string_agg(coalesce(pg_get_expr(entry.indpred, entry.indrelid), ''), chr(10)
                              ORDER BY entry.indexrelid)
              FROM "pg_catalog"."pg_index" AS entry
              JOIN "pg_catalog"."pg_class" AS class ON (class.oid = entry.indexrelid)
              JOIN "pg_catalog"."pg_am" AS method ON (method.oid = class.relam)
              JOIN "pg_catalog"."pg_opclass" AS operators ON (operators.oid = entry.indclass[0])
              JOIN "pg_catalog"."pg_attribute" AS "column"
                ON ("column".attrelid = entry.indrelid) AND ("column".attnum = entry.indkey[0])
             WHERE (entry.indrelid = named.oid) AND \(isUsable) AND (method.amname = 'btree') AND operators.opcdefault
               AND (entry.indoption[0] = ANY ('{0,3}'::int2[])) AND ("column".attname = $2::name)),
           (SELECT max(pages) FROM part), (SELECT sum(file)::bigint FROM part), (SELECT count(*) FROM part),
           (SELECT string_agg(concat(part.nspname, '.', part.relname), ', ' ORDER BY part.oid) FROM part
             WHERE (part.relkind <> 'r') AND (part.relkind <> 'p')),
           EXISTS (SELECT FROM \(triggers) AND NOT trigger.tgisinternal
             AND (((trigger.tgtype & 3) <> 3) OR ($3::int = 8))),
           EXISTS (SELECT FROM \(triggers) AND NOT trigger.tgisinternal AND trigger.tginitdeferred)
             AND EXISTS (SELECT FROM "pg_catalog"."pg_language" AS language
               WHERE (language.lanname = 'plpgsql') AND has_language_privilege(language.oid, 'USAGE')),
           \(MomentColumns.unusable(in: "named.oid", named: "$4")), \(indexSum("named.oid")),
           \(MomentColumns.types(of: "named.oid", named: "$4")), $4::name[]::text
      FROM named
    """)

  /// Whether statements can use an index: not while it is built or dropped, or after a failed build.
  private static let isUsable = "entry.indisvalid AND entry.indisready AND entry.indislive"

  /// SQL for a number that changes with the set of usable indexes.
  private static func indexSum(_ table: String) -> String {
    """
    (SELECT coalesce(sum(entry.indexrelid::bigint), 0)::bigint FROM "pg_catalog"."pg_index" AS entry
      WHERE (entry.indrelid = \(table)) AND \(isUsable))
    """
  }

  /// Surveys a table by name, for a sweep that finds due rows by the column `key`.
  ///
  /// - Parameter moments: the columns that the sweep reads or writes as moments.
  static func statement(_ table: String, key: String, moments: [String], event: Event) -> PostgresStatement {
    PostgresStatement(query, [table, key, "\(event.rawValue)", PostgresArray.words(moments)], isPrepared: true)
  }

  /// Parses the answer of `query`; nil if there is no such table.
  @EventLoop
  package init?(table: String, _ answer: PostgresResult) {
    guard answer.rowCount == 1, let schema = answer[row: 0, column: 0] else { return nil }
    func isTrue(_ column: Int) -> Bool { answer[row: 0, column: column] == "t" }
    func number(_ column: Int) -> Int { answer[row: 0, column: column].flatMap { Int($0) } ?? 0 }
    self.schema = schema
    name = table
    kind = answer[row: 0, column: 1] ?? ""
    identifier = Int64(number(2))
    hidesRows = isTrue(3)
    canReadPlaces = isTrue(4)
    canLockRows = canReadPlaces && isTrue(5)
    canKeepRows = isTrue(6)
    indexes = KeyIndexes(predicates: answer[row: 0, column: 7], sum: number(15))
    moments = MomentColumns(
      table: identifier, names: answer[row: 0, column: 17] ?? "{}", types: answer[row: 0, column: 16] ?? "")
    size = TableSize(pages: number(8), file: number(9))
    hasParts = number(10) > 1
    foreignParts = answer[row: 0, column: 11]
    hasLateTriggers = isTrue(12)
    hasDeferredTriggers = isTrue(13)
    unusableMoments = answer[row: 0, column: 14]
  }

  /// Parameters: the table's name, its identifier, and its moment columns. Answers what shows whether a table without
  /// parts is still the surveyed one, and its size. Some twenty times cheaper than a survey.
  package static let check = CatalogSQL.qualified(
    """
    SELECT coalesce((to_regclass($1::text)::oid = $2::oid), false), row_security_active($2::oid),
           has_table_privilege($2::oid, 'SELECT'),
           EXISTS (SELECT FROM "pg_catalog"."pg_inherits" AS child WHERE (child.inhparent = $2::oid)),
           (pg_relation_size($2::oid::regclass, 'main') / current_setting('block_size')::bigint),
           pg_relation_filenode($2::oid::regclass)::bigint, \(indexSum("$2::oid")),
           \(MomentColumns.types(of: "$2", named: "$3"))
    """)

  /// The check of a table without parts.
  var check: PostgresStatement {
    PostgresStatement(Self.check, [name, "\(identifier)", moments.names], isPrepared: true)
  }

  /// The same table with the size from the answer of `check`; nil if it has to be surveyed again.
  @EventLoop
  func checked(by answer: PostgresResult) -> TableSurvey? {
    func isTrue(_ column: Int) -> Bool { answer[row: 0, column: column] == "t" }
    guard isTrue(0), isTrue(1) == hidesRows, isTrue(2) == canReadPlaces, !isTrue(3),
      answer.number(6) == indexes.sum, answer[row: 0, column: 7] ?? "" == moments.types
    else { return nil }
    var survey = self
    survey.size = TableSize(pages: answer.number(4), file: answer.number(5))
    return survey
  }

  /// Parameter: the table's identifier. Answers schema and name of each part that has pages, for a table with some
  /// that have none.
  static let pagedParts = CatalogSQL.qualified(
    """
    WITH RECURSIVE \(CatalogSQL.tree(from: "SELECT $1::oid AS oid"))
    SELECT space.nspname, class.relname
      FROM tree
      JOIN "pg_catalog"."pg_class" AS class ON (class.oid = tree.oid)
      JOIN "pg_catalog"."pg_namespace" AS space ON (space.oid = class.relnamespace)
     WHERE (class.relkind = 'r')
     ORDER BY class.oid
    """)
}

extension Setting where Value == Bool {
  static var allowRowSecurity: Setting {
    .boolean(
      "SB_WORKER_ALLOW_ROW_SECURITY", default: false,
      help: """
        Sweep a table even if row security hides rows from the worker's role. By default such a run fails.
        """)
  }
}
