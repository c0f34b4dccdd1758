// The part of check about one sweeper's table: its existence, columns, privileges, index, row security, partitions and
// triggers. Invariant: whatever is missing is reported with the statement that adds it.

import Reactor

/// A check of one sweeper's table.
struct TableCheck: Sendable {
  /// A full read of a table with more pages takes more than a few milliseconds.
  private static let largeTable = 1_000

  let needs: SweepNeeds
  let role: String
  let database: String
  let allowsRowSecurity: Bool
  /// The age from which a transaction that holds row locks is a warning.
  var longTransaction = Duration.seconds(30)

  /// - Throws: `PostgresError` if the session ended. A refusal by the server is a finding.
  @EventLoop
  func findings(in session: ReadOnlySession) async throws -> [CheckFinding] {
    do {
      guard let survey = try await session.survey(needs) else { return [try await missing(in: session)] }
      if let refusal = survey.refusal(allowsRowSecurity: allowsRowSecurity) { return [rowSecurity(refusal, survey)] }
      var findings = shape(of: survey)
      findings += try await privileges(
        needs.needs, on: (survey.identifier, survey.displayName, survey.quotedName), in: session)
      findings += try await others(survey, in: session)
      findings += triggers(
        on: survey.displayName, try await session.query(TableSQL.triggers(on: survey.identifier, needs.event)))
      findings += try await holders(in: session)
      return findings
    } catch let error as PostgresError where error.sqlState != nil {
      if case .connectionLost = error { throw error }
      return [.fault("\(needs.table): \(error.publicReason)")] + (try await holders(in: session))
    }
  }

  /// Sessions and prepared transactions whose locks block a sweep of the table or some of its rows.
  @EventLoop
  private func holders(in session: ReadOnlySession) async throws -> [CheckFinding] {
    let answer = try await session.query(
      PostgresStatement(TableSQL.holders, [needs.table, "\(longTransaction.milliseconds)"]))
    return (0..<answer.rowCount).map { row in
      let process = answer[row: row, column: 0] ?? "?"
      let user = answer[row: row, column: 1] ?? "?"
      let mode = answer[row: row, column: 2] ?? "?"
      if let gid = answer[row: row, column: 5] {
        let age = answer[row: row, column: 4] ?? "?"
        return .warning(
          "prepared transaction \(SQLName.literal(gid)) of user \(user) has held \(mode) on "
            + "\(needs.table) for \(age) s: the rows that it holds are not swept", run: PreparedTransaction.end(gid))
      }
      let holder = "session \(process) of user \(user) holds \(mode) on \(needs.table)"
      guard let state = answer[row: row, column: 3], let seconds = answer[row: row, column: 4] else {
        let text = "\(holder); the role may not see for how long"
        // Row locks of the control plane's other parts are normal.
        let verdict: CheckFinding.Verdict = mode.hasPrefix("Row") ? .ok : .warning
        return CheckFinding(
          verdict: verdict, text: text, remedy: "GRANT pg_read_all_stats TO \(SQLName.quoted(role));")
      }
      return .warning(
        "\(holder) in a transaction that began \(seconds) s ago, and is \(state): the rows that it holds are not swept",
        run: "SELECT pg_terminate_backend(\(process));")
    }
  }

  @EventLoop
  private func missing(in session: ReadOnlySession) async throws -> CheckFinding {
    let answer = try await session.query(PostgresStatement(TableSQL.places, [needs.table]))
    let text = SweepRefusal.noTable(needs.table).reason
    guard let schema = answer[row: 0, column: 0] else { return .fault(text) }
    if answer[row: 0, column: 1] == "t" {
      return .fault(
        "\(text). It is in schema \(schema)",
        run: "ALTER ROLE \(SQLName.quoted(role)) IN DATABASE \(SQLName.quoted(database)) SET search_path = "
          + "\(SQLName.quoted(schema));")
    }
    return .fault(
      "\(text). It is in schema \(schema), which the role may not use",
      run: "GRANT USAGE ON SCHEMA \(SQLName.quoted(schema)) TO \(SQLName.quoted(role));")
  }

  private func rowSecurity(_ refusal: SweepRefusal, _ survey: TableSurvey) -> CheckFinding {
    guard case .rowSecurity = refusal else { return .fault(refusal.reason) }
    return hidden(refusal)
  }

  /// Row security hides rows that a run must see.
  private func hidden(_ refusal: SweepRefusal) -> CheckFinding {
    .fault(refusal.reason, run: "ALTER ROLE \(SQLName.quoted(role)) BYPASSRLS;")
  }

  private func shape(of survey: TableSurvey) -> [CheckFinding] {
    var findings: [CheckFinding] = []
    let parts = survey.hasParts ? ", with partitions or children" : ""
    findings.append(.ok("\(survey.displayName): \(survey.size.pages) pages\(parts)"))
    if survey.hidesRows {
      findings.append(
        .warning(
          "row security hides rows of \(survey.displayName) from the role, as SB_WORKER_ALLOW_ROW_SECURITY allows"))
    }
    if let foreign = survey.foreignParts { findings.append(.fault(SweepRefusal.foreignParts(foreign).reason)) }
    guard let condition = needs.indexCondition else { return findings }
    if survey.indexes.serve(condition) {
      findings.append(.ok("an index on \(needs.key) finds due rows"))
    } else if survey.size.pages > Self.largeTable {
      findings.append(
        .warning(
          "no index on \(needs.key): every run reads the whole table",
          run: "CREATE INDEX CONCURRENTLY ON \(survey.quotedName) (\(SQLName.quoted(needs.key)));"))
    } else {
      findings.append(.ok("no index on \(needs.key): every run reads the whole table, which is small"))
    }
    return findings
  }

  /// The sweeper's needs from other tables: those that its statements name, and those with foreign keys to its own.
  @EventLoop
  private func others(_ survey: TableSurvey, in session: ReadOnlySession) async throws -> [CheckFinding] {
    guard needs.readsReferences || !needs.others.isEmpty else { return [] }
    let statement = RelatedTables.statement(
      needs.others.map(\.table), referencesTo: needs.readsReferences ? survey.identifier : nil)
    let related = RelatedTables(try await session.query(statement))
    var findings: [CheckFinding] = []
    for other in needs.others {
      guard let table = related.tables[other.table] else {
        findings.append(.fault(SweepRefusal.noTable(other.table).reason))
        continue
      }
      if other.table == AuditNote.table, !table.isTable {
        findings.append(.fault(SweepRefusal.unprovableTrail(table.displayName).reason))
        continue
      }
      let reads = other.needs.contains { $0.privilege == .select }
      if table.hidesRows, reads, !allowsRowSecurity {
        findings.append(hidden(SweepRefusal.rowSecurity(table.displayName)))
        continue
      }
      findings += try await privileges(
        other.needs, on: (table.identifier, table.displayName, table.quotedName), in: session)
      guard !reads else { continue }
      findings += triggers(
        on: table.displayName, try await session.query(TableSQL.triggers(on: table.identifier, .insert)))
    }
    for reference in related.references {
      let table = reference.table
      if table.hidesRows {
        findings.append(hidden(SweepRefusal.hiddenReferences(table.displayName)))
        continue
      }
      findings += try await privileges(
        reference.columns.map { SweepNeed(privilege: .select, column: $0.own) },
        on: (table.identifier, table.displayName, table.quotedName), in: session)
    }
    return findings
  }

  /// Whether the columns exist, and the privileges on them.
  @EventLoop
  private func privileges(
    _ needs: [SweepNeed], on table: (identifier: Int64, displayName: String, quotedName: String),
    in session: ReadOnlySession
  ) async throws -> [CheckFinding] {
    let answer = try await session.query(TableSQL.privileges(needs, on: table.identifier))
    var lacking: [String] = []
    var denied: [SweepNeed] = []
    for (row, need) in needs.enumerated() {
      if answer[row: row, column: 0] != "t" {
        if !lacking.contains(need.column) { lacking.append(need.column) }
      } else if answer[row: row, column: 1] != "t" {
        denied.append(need)
      }
    }
    var findings = lacking.map {
      CheckFinding.fault("\(table.displayName) has no column \($0): apply the control plane's migrations")
    }
    if !denied.isEmpty {
      let names = Self.list(denied, quoted: false)
      findings.append(
        .fault(
          "the role lacks \(names) on \(table.displayName)",
          run: "GRANT \(Self.list(denied, quoted: true)) ON \(table.quotedName) TO \(SQLName.quoted(role));"))
    }
    if findings.isEmpty {
      let place = table.displayName.hasSuffix(".\(self.needs.table)") ? "" : " on \(table.displayName)"
      findings.append(.ok("privileges: \(Self.list(needs, quoted: false))\(place)"))
    }
    return findings
  }

  /// `SELECT (a, b), UPDATE (c), DELETE`. A privilege on the whole table is listed without columns.
  static func list(_ needs: [SweepNeed], quoted: Bool) -> String {
    var text = ""
    for privilege in [SweepNeed.Privilege.select, .insert, .update, .delete] {
      let columns = needs.filter { $0.privilege == privilege }.map(\.column)
      if columns.isEmpty { continue }
      text += (text.isEmpty ? "" : ", ") + privilege.rawValue
      if columns.contains("") { continue }
      var names = ""
      for column in columns { names += (names.isEmpty ? "" : ", ") + (quoted ? SQLName.quoted(column) : column) }
      text += " (\(names))"
    }
    return text
  }

  @EventLoop
  private func triggers(on table: String, _ answer: PostgresResult) -> [CheckFinding] {
    var findings: [CheckFinding] = []
    for row in 0..<answer.rowCount {
      let name = answer[row: row, column: 0] ?? ""
      let isBefore = answer[row: row, column: 1] == "t"
      if answer[row: row, column: 3] == "t" {
        findings.append(.warning("rule \(name) on \(table) may rewrite a sweep's statements"))
      } else if answer[row: row, column: 2] == "t" {
        findings.append(.ok("trigger \(name) sets updated_at"))
      } else {
        findings.append(
          .warning(
            "trigger \(name) on \(table) runs \(isBefore ? "before" : "after") each change: it may slow "
              + "sweeps down or undo their changes"))
      }
    }
    return findings
  }
}

/// The queries about a table.
enum TableSQL {
  /// Parameter: a table's name. Returns its schema, and whether the role can use it.
  static let places = CatalogSQL.qualified(
    """
    SELECT space.nspname, has_schema_privilege(space.oid, 'USAGE')
      FROM "pg_catalog"."pg_class" AS class
      JOIN "pg_catalog"."pg_namespace" AS space ON (space.oid = class.relnamespace)
     WHERE (class.relname = $1::name) AND (class.relkind = ANY ('{r,p}'::"char"[])) AND (class.relpersistence <> 't')
     ORDER BY space.nspname LIMIT 1
    """)

  /// Returns for each need whether its column exists, and whether the role has the privilege.
  static func privileges(_ needs: [SweepNeed], on table: Int64) -> PostgresStatement {
    PostgresStatement(
      privileges,
      [
        "\(table)", PostgresArray.quoted(needs.map(\.privilege.rawValue)), PostgresArray.quoted(needs.map(\.column)),
      ])
  }

  static let privileges = CatalogSQL.qualified(
    """
    SELECT (need.name = '') OR (attribute.attnum IS NOT NULL),
           CASE WHEN (need.name = '') THEN has_table_privilege($1::oid, need.privilege)
                ELSE coalesce(has_column_privilege($1::oid, attribute.attnum, need.privilege), false) END
      FROM ROWS FROM (unnest($2::text[]), unnest($3::text[])) WITH ORDINALITY AS need (privilege, name, number)
      LEFT JOIN "pg_catalog"."pg_attribute" AS attribute
        ON (attribute.attrelid = $1::oid) AND (attribute.attname = need.name::name) AND (attribute.attnum > 0)
           AND NOT attribute.attisdropped
     ORDER BY need.number
    """)

  /// Answers, for each trigger that the event fires, its name, whether it runs before the change, and whether all that
  /// it does is to set updated_at; and, for each rule, its name and true in the last column.
  static func triggers(on table: Int64, _ event: TableSurvey.Event) -> PostgresStatement {
    PostgresStatement(triggers, ["\(table)", "\(event.rawValue)"])
  }

  static let triggers = CatalogSQL.qualified(
    """
    SELECT trigger.tgname, ((trigger.tgtype & 2) <> 0),
           (((trigger.tgtype & 3) = 3) AND (strpos(function.prosrc, 'updated_at') > 0)
             AND (length(function.prosrc) < 200)), false
      FROM "pg_catalog"."pg_trigger" AS trigger
      JOIN "pg_catalog"."pg_proc" AS function ON (function.oid = trigger.tgfoid)
     WHERE (trigger.tgrelid = $1::oid) AND NOT trigger.tgisinternal AND (trigger.tgenabled <> 'D')
       AND ((trigger.tgtype & $2::int) <> 0)
     UNION ALL
    SELECT rule.rulename, false, false, true FROM "pg_catalog"."pg_rewrite" AS rule
     WHERE (rule.ev_class = $1::oid) AND (rule.ev_enabled <> 'D')
     ORDER BY 1
    """)

  /// Parameters: a table's name, and the age in ms from which a transaction that may hold rows is told of. Answers pid,
  /// user, lock mode, state, age in s and prepared transaction's gid of who holds locks on it: of those that lock the
  /// table as a whole whatever their age. State and age are null, and the age counts as reached, where the role may not
  /// see them.
  static let holders = CatalogSQL.qualified(
    """
    SELECT lock.pid, coalesce(activity.usename, prepared.owner), min(lock.mode), min(activity.state),
           min((extract(epoch FROM (clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))))::bigint),
           prepared.gid
      FROM "pg_catalog"."pg_locks" AS lock
      JOIN "pg_catalog"."pg_class" AS class ON (class.oid = lock.relation) AND (class.relname = $1::name)
      JOIN "pg_catalog"."pg_database" AS base ON (base.oid = lock.database) AND (base.datname = current_database())
      LEFT JOIN "pg_catalog"."pg_stat_activity" AS activity ON (activity.pid = lock.pid)
      \(PreparedTransaction.join)
     WHERE (lock.locktype = 'relation') AND lock.granted AND coalesce((lock.pid <> pg_backend_pid()), true)
       AND ((lock.mode = ANY ('{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::text[]))
         OR ((lock.mode = ANY ('{RowShareLock,RowExclusiveLock}'::text[]))
           AND coalesce(((clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))
             >= ($2::int * '1 millisecond'::interval)), true)))
     GROUP BY lock.pid, activity.usename, prepared.owner, prepared.gid
     ORDER BY lock.pid LIMIT 5
    """)
}
