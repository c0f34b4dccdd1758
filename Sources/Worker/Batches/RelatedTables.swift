// The other tables that a sweep's statements use: those that it reads values from or writes audit lines to, and those
// whose foreign keys refer to the swept table. Read from the catalogue.
// Invariant: a row is deleted only if every foreign key that exists at that time was already known.

import Reactor

/// Other tables, as the session's role sees them.
package struct RelatedTables: Equatable, Sendable {
  struct Table: Equatable, Sendable {
    let schema: String
    let name: String
    let identifier: Int64
    /// Whether row security hides rows from the role.
    let hidesRows: Bool
    /// Whether the role can read whole rows, including which transaction wrote them.
    let canReadRows: Bool
    /// Whether it has rows, its own or in partitions, unlike a view or a foreign table.
    let isTable: Bool
    /// Whether any trigger in the database can run at the commit.
    let meetsDeferredTriggers: Bool
    /// Whether a statement finds every row that this session inserted.
    var showsOwnRows: Bool { canReadRows && !hidesRows }

    /// The name for SQL.
    var quotedName: String { TableSurvey.quoted(schema, name) }
    /// The name for texts.
    var displayName: String { "\(schema).\(name)" }
  }

  /// A foreign key that refers to the swept table.
  struct Reference: Equatable, Sendable {
    let identifier: Int64
    let table: Table
    /// Its columns, and the columns that they refer to.
    fileprivate(set) var columns: [(own: String, referenced: String)]

    static func == (one: Reference, other: Reference) -> Bool {
      one.identifier == other.identifier && one.table == other.table
        && one.columns.elementsEqual(other.columns, by: ==)
    }
  }

  /// By name.
  private(set) var tables: [String: Table] = [:]
  private(set) var references: [Reference] = []
  /// The OIDs of the swept table and its parts; empty unless references to them were requested.
  private var parts: [Int64] = []

  package init() {}

  /// A table's name for SQL; unqualified without the catalogue, for texts that are not executed.
  func quotedName(of table: String) -> String {
    tables[table]?.quotedName ?? TableSurvey.quoted(table)
  }

  // MARK: Conditions on a row of the swept table, `target`

  /// True if no foreign key refers to it; appended to another condition.
  var isUnreferenced: String {
    var text = ""
    for reference in references {
      text += " AND NOT EXISTS (SELECT FROM \(reference.table.quotedName) AS reference WHERE "
      for (index, column) in reference.columns.enumerated() {
        let (own, referenced) = (TableSurvey.quoted(column.own), TableSurvey.quoted(column.referenced))
        text += "\(index == 0 ? "" : " AND ")(reference.\(own) = target.\(referenced))"
      }
      text += ")"
    }
    return text
  }

  /// Whether the foreign keys are still the known ones. Adding one needs a lock on the swept table that conflicts with
  /// a delete, and a statement reads the catalogue after it has taken its own lock.
  var hasSameReferences: String {
    var (sum, list): (Int64, String) = (0, "")
    for reference in references { sum += reference.identifier }
    for part in parts { list += (list.isEmpty ? "" : ",") + "\(part)" }
    return """
      ((SELECT coalesce(sum(key.oid::bigint), 0) FROM "pg_catalog"."pg_constraint" AS key
         WHERE (key.contype = 'f') AND (key.conparentid = 0) AND (key.confrelid = ANY ('{\(list)}'::oid[])))
        = '\(sum)'::numeric)
      """
  }

  // MARK: The query

  /// Parameters: names of tables, and the swept table's identifier if references to it are requested, or 0.
  ///
  /// Tables are found as `TableSurvey.query` finds them.
  package static let query = CatalogSQL.qualified(
    """
    WITH RECURSIVE \(CatalogSQL.tree(from: "SELECT $2::oid AS oid")),
    found AS (
      SELECT 1 AS kind, wanted.number, class.oid, 0::bigint AS key, '' AS own, '' AS referenced
        FROM unnest($1::name[]) WITH ORDINALITY AS wanted (name, number)
       CROSS JOIN LATERAL (
         SELECT class.oid
           FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, number)
           JOIN "pg_catalog"."pg_namespace" AS space ON (space.nspname = path.schema)
           JOIN "pg_catalog"."pg_class" AS class ON (class.relnamespace = space.oid) AND (class.relname = wanted.name)
          WHERE (class.relkind = ANY ('{r,p,f,v,m}'::"char"[])) AND (class.relpersistence <> 't')
          ORDER BY path.number LIMIT 1) AS class
       UNION ALL
      SELECT 2, "column".number, key.conrelid, key.oid::bigint, own.attname, referenced.attname
        FROM "pg_catalog"."pg_constraint" AS key
       CROSS JOIN LATERAL ROWS FROM (unnest(key.conkey), unnest(key.confkey)) WITH ORDINALITY
         AS "column" (own, referenced, number)
        JOIN "pg_catalog"."pg_attribute" AS own ON (own.attrelid = key.conrelid) AND (own.attnum = "column".own)
        JOIN "pg_catalog"."pg_attribute" AS referenced
          ON (referenced.attrelid = key.confrelid) AND (referenced.attnum = "column".referenced)
       WHERE (key.contype = 'f') AND (key.conparentid = 0) AND (key.confrelid = ANY (ARRAY(SELECT oid FROM tree)))
       UNION ALL
      SELECT 3, 0, tree.oid, 0, '', '' FROM tree WHERE (tree.oid <> 0))
    SELECT found.kind, space.nspname, class.relname, found.oid::bigint, row_security_active(found.oid), found.key,
           found.own, found.referenced, has_table_privilege(found.oid, 'SELECT'),
           (class.relkind = ANY ('{r,p}'::"char"[])),
           EXISTS (SELECT FROM "pg_catalog"."pg_trigger" AS late WHERE late.tgdeferrable AND NOT late.tgisinternal)
      FROM found
      JOIN "pg_catalog"."pg_class" AS class ON (class.oid = found.oid)
      JOIN "pg_catalog"."pg_namespace" AS space ON (space.oid = class.relnamespace)
     ORDER BY found.kind, found.key, found.number
    """)

  static func statement(_ names: [String], referencesTo table: Int64?) -> PostgresStatement {
    PostgresStatement(query, [PostgresArray.words(names), "\(table ?? 0)"])
  }

  /// Reads the answer of `query`.
  @EventLoop
  package init(_ answer: PostgresResult) {
    for row in 0..<answer.rowCount {
      func text(_ column: Int) -> String { answer[row: row, column: column] ?? "" }
      let table = Table(
        schema: text(1), name: text(2), identifier: Int64(text(3)) ?? 0, hidesRows: text(4) == "t",
        canReadRows: text(8) == "t", isTable: text(9) == "t", meetsDeferredTriggers: text(10) == "t")
      let key = Int64(text(5)) ?? 0
      switch text(0) {
      case "1": tables[table.name] = table
      case "2" where references.last?.identifier == key:
        references[references.count - 1].columns.append((text(6), text(7)))
      case "2": references.append(Reference(identifier: key, table: table, columns: [(text(6), text(7))]))
      default: parts.append(table.identifier)
      }
    }
  }
}

extension RelatedTables {
  /// Why the sweep cannot run with these tables, and what to do; nil if it can.
  ///
  /// - Parameter allowsRowSecurity: whether a value that row security hides may count as missing.
  func refusal(of sweep: RowSweep, allowsRowSecurity: Bool) -> SweepRefusal? {
    for name in sweep.otherTables where tables[name] == nil { return .noTable(name) }
    if sweep.audit != nil, let trail = tables[AuditNote.table], !trail.isTable {
      return .unprovableTrail(trail.displayName)
    }
    if let lookup = sweep.lookup.flatMap({ tables[$0.table] }), lookup.hidesRows, !allowsRowSecurity {
      return .rowSecurity(lookup.displayName)
    }
    for reference in references where reference.table.hidesRows {
      return .hiddenReferences(reference.table.displayName)
    }
    return nil
  }
}

extension RowSweep {
  /// The condition of a due row, without its cutoff.
  func dueCondition(among related: RelatedTables) -> String {
    guard let lookup else { return due + related.isUnreferenced }
    let table = related.quotedName(of: lookup.table)
    let value = """
      (SELECT \(lookup.value) FROM \(table) AS looked_up
        WHERE (looked_up.\(lookup.key) = target.\(lookup.foreignKey)))
      """
    // Evaluated once per statement.
    let least = """
      (SELECT min(\(lookup.least.seconds))::float8 FROM (SELECT \(lookup.value) AS value FROM \(table)) AS looked_up)
      """
    return due.replacingFirst(lookup.least.placeholder, with: least).replacingFirst(lookup.placeholder, with: value)
      + related.isUnreferenced
  }

  /// Whether its statements use other tables, or need to know which tables refer to the swept one.
  package var needsRelatedTables: Bool { leavesReferenced || !otherTables.isEmpty }

  /// The query for them.
  package func relatedTables(of table: TableSurvey) -> PostgresStatement {
    RelatedTables.statement(otherTables, referencesTo: leavesReferenced ? table.identifier : nil)
  }
}

extension GuardedSession {
  /// The tables that the sweep's statements use besides `table`. References are read in each run, other tables as often
  /// as the swept one is surveyed.
  ///
  /// - Throws: `SweepRefusal` if a table does not exist or the role does not see all of its rows; `PostgresError`.
  func related(
    to table: TableSurvey, for sweep: RowSweep, knownTo memory: TableMemory, allowsRowSecurity: Bool
  ) async throws -> RelatedTables {
    guard sweep.needsRelatedTables else { return RelatedTables() }
    if !sweep.leavesReferenced, let known = memory.related, memory.relatedSurveyedAt == memory.surveyedAt {
      return known
    }
    let related = RelatedTables(try await query(sweep.relatedTables(of: table)))
    if let refusal = related.refusal(of: sweep, allowsRowSecurity: allowsRowSecurity) { throw refusal }
    memory.related = related
    memory.relatedSurveyedAt = memory.surveyedAt
    return related
  }
}
