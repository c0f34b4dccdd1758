// What a sweep assumes of its table and of its rights there, read from the catalogue at the beginning of each run.
// Invariant: each assumption is made true, adapted to, or refused by name; a sweep never runs on a table that it has
// not looked at, and "nothing to do" is never what it says of rows that it was not shown.

import Reactor

/// A table as the session's role meets it.
package struct TableSurvey: Equatable, Sendable {
  let schema: String
  let name: String
  /// What kind of relation it is: pg_class.relkind.
  let kind: String
  /// The same table under another name has the same, and another table under the same name another one.
  let identifier: Int64
  /// Whether row security hides rows from the role.
  let hidesRows: Bool
  /// Whether the role may read the whole row, and with it where the row lies (ctid).
  let canReadPlaces: Bool
  /// Whether the role may lock rows, which SKIP LOCKED needs.
  let canLockRows: Bool
  /// Whether a row trigger or a rule can keep a row as it is while the statement succeeds.
  private(set) var canKeepRows: Bool
  /// Whether a trigger runs behind the change of a row, and so can undo it.
  let hasLateTriggers: Bool
  /// Whether one of them waits for the transaction's end, and can be made to run before.
  let hasDeferredTriggers: Bool
  /// The indexes that lead from the newest due row to the oldest.
  let indexes: KeyIndexes
  /// The columns that the sweep reads or writes as moments.
  let moments: MomentColumns
  /// Whether it has partitions or children.
  let hasParts: Bool
  /// The parts of the table that have no pages here, such as foreign tables, as people write them; nil if none.
  let foreignParts: String?
  /// Those of them, with their types, that are not timestamptz: "expires_at is date, revoked_at is date"; nil if none.
  let unusableMoments: String?
  private(set) var size: TableSize

  /// As SQL writes it.
  var quotedName: String { Self.quoted(schema, name) }

  /// As people write it.
  var displayName: String { "\(schema).\(name)" }

  /// What the statements are made for; all else may change from run to run.
  func hasSameShape(as other: TableSurvey) -> Bool {
    schema == other.schema && name == other.name && kind == other.kind && identifier == other.identifier
      && hidesRows == other.hidesRows && canReadPlaces == other.canReadPlaces && canLockRows == other.canLockRows
      && canKeepRows == other.canKeepRows && hasLateTriggers == other.hasLateTriggers
      && hasDeferredTriggers == other.hasDeferredTriggers && indexes == other.indexes && moments == other.moments
      && hasParts == other.hasParts && foreignParts == other.foreignParts
      && unusableMoments == other.unusableMoments
  }

  /// The same table, with its changes counted row by row whether or not rows can be kept.
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
  /// Why a table cannot be swept, in words that say what to do.
  func refusal(allowsRowSecurity: Bool) -> SweepRefusal? {
    if !["r", "p"].contains(kind) { return .notATable(displayName) }
    if let unusableMoments { return .unusableMoments(unusableMoments, table: displayName) }
    if hidesRows, !allowsRowSecurity { return .rowSecurity(displayName) }
    return nil
  }

  /// What a rule makes of a statement that says which rows it changed: feature_not_supported.
  private static let ruleState = "0A000"

  /// Whether a statement on the table failed for one of its rules.
  func isRefusedByRule(_ error: PostgresError) -> Bool {
    error.sqlState == Self.ruleState && !error.isRaised && canKeepRows
  }

  /// What is done to the table's rows: a trigger's event, as a bit of pg_trigger.tgtype.
  enum Event: Int, Sendable {
    case insert = 4
    case delete = 8
    case update = 16
  }

  /// Triggers of the event in `$3`; an update can move a row between partitions, which fires those of a deletion and an
  /// insertion there.
  private static let triggers = """
    part JOIN "pg_catalog"."pg_trigger" AS trigger ON (trigger.tgrelid = part.oid)
         WHERE (trigger.tgenabled <> 'D') AND ((trigger.tgtype
           & CASE WHEN ($3::int = 16) AND (named.relkind = 'p') THEN 28 ELSE $3::int END) <> 0)
    """

  /// Parameters: the table's name, the column that due rows are found by, the event, the columns of moments. Answers
  /// one row, or none where the search path leads to no such table.
  ///
  /// Temporary tables are passed over: behind a pooler they are another client's.
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

  /// Whether statements can use an index: not while it is built, dropped, or after a build that failed.
  private static let isUsable = "entry.indisvalid AND entry.indisready AND entry.indislive"

  /// Tells whether a table's usable indexes are the same as before.
  private static func indexSum(_ table: String) -> String {
    """
    (SELECT coalesce(sum(entry.indexrelid::bigint), 0)::bigint FROM "pg_catalog"."pg_index" AS entry
      WHERE (entry.indrelid = \(table)) AND \(isUsable))
    """
  }

  /// The look at a table by its name, for a sweep that finds due rows by the column `key`.
  ///
  /// - Parameter moments: the columns that the sweep reads or writes as moments.
  static func statement(_ table: String, key: String, moments: [String], event: Event) -> PostgresStatement {
    PostgresStatement(query, [table, key, "\(event.rawValue)", PostgresArray.words(moments)], isPrepared: true)
  }

  /// Reads the answer of `query`; nil where there is no such table.
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

  /// Parameters: the table's name and its identifier, and its columns of moments. Answers what tells at once that a
  /// table without parts is still the one that was looked at, and its size: the look itself costs some twenty times as
  /// much.
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

  /// The same table with the size that the answer of `check` has; nil if it is another one, or met otherwise.
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

  /// Parameter: the table's identifier. Answers schema and name of each part that has pages, for a table of which
  /// others have none.
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
