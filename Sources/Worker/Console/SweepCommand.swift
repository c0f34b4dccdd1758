// The verb sweep: what a run of one sweeper would change. Invariants: it only reads, in read-only transactions with a
// timeout, and takes no lock; the sweeper's own condition decides which rows are due, as in a batch.

import Coordination
import Logging
import Reactor

extension CommandOption {
  static let dryRun = CommandOption(name: "dry-run", help: "Show what a run would change, and change nothing.")
}

extension Verb {
  static let sweep = Verb(
    name: "sweep",
    help: """
      With --dry-run: show how many rows a run of the sweeper would change, the oldest and the newest of them, and the \
      ids of the first, and whether a brake would refuse or cut the run. Takes no lock and needs no Redis. To sweep, \
      use `run --once`.
      """,
    operands: Operands(name: "SWEEPER", count: 1...1, words: { Sweepers.names }),
    options: [.dryRun, .json],
    statuses: [
      ExitStatus(0, "The rows were counted."),
      ExitStatus(1, "PostgreSQL did not answer, the table cannot be swept, or the sweeper is off."),
    ],
    fault: { $0.has(.dryRun) ? nil : "sweep needs --dry-run" },
    perform: { arguments, context in
      let rows = [Setting.databaseURL.row, Setting.logLevel.row] + SettingRow.sweepers
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      let logger = context.logger(settings)
      let name = arguments.operands[0]
      if let absence = Sweepers.absent(settings).first(where: { $0.name == name }) {
        logger.error("the sweeper is off", metadata: ["task": "\(name)", "error": "\(absence.reason)"])
        return 1
      }
      guard let sweeper = Sweepers.all(settings).first(where: { $0.name == name }) else { return 1 }
      return EventLoop.run {
        let run = DryRun(
          sweeper: sweeper, allowsRowSecurity: settings[.allowRowSecurity],
          maximumRows: settings[.maximumRowsPerRun], clock: context.clock)
        do {
          let found = try await run.found(through: settings[.databaseURL])
          return context.show(found.text(as: arguments.has(.json) ? .json : .text))
        } catch {
          logger.error("the dry run failed", metadata: ["task": "\(name)", "error": "\(RunFailure(error).reason)"])
          return 1
        }
      }
    })
}

/// Finds what a run would change.
@EventLoop
struct DryRun {
  /// Total time limit for connecting and the statements.
  static let limit = Duration.seconds(45)
  private static let statementMilliseconds = 30_000
  /// The most row ids shown.
  static let idLimit = 20

  let sweeper: Sweeper
  let allowsRowSecurity: Bool
  /// The most rows of a run; nil if that is not limited.
  var maximumRows: Int?
  let clock: LoopClock

  /// - Throws: `PostgresError`, or `SweepRefusal` if a run would be refused.
  func found(through configuration: PostgresConfiguration) async throws -> DryRunResult {
    let deadline = clock.now.advanced(by: Self.limit)
    let connection = try await PostgresConnection.connect(configuration, by: deadline, on: clock)
    defer { connection.close() }
    let session = ReadOnlySession(connection: connection, clock: clock, deadline: deadline, answerLimit: Self.limit)
    let needs = SweepNeeds(sweeper.work)
    let survey = try await survey(needs, in: session)
    var result = DryRunResult(
      sweeper: sweeper.name, summary: sweeper.summary, table: survey.displayName, key: needs.key,
      change: sweeper.work.verb)
    switch sweeper.work {
    case .discovery(let discovery): result.targets = discovery.targets.targets.map(\.name)
    case .rows(let sweep): try await findDue(sweep, survey, session, &result)
    case .connections(let discovery): try await findDue(discovery, survey, session, &result)
    case .watch(let watch):
      result.due = QueueWatch.waits(in: try await session.query(watch.statement(on: survey))).reduce(0) { $0 + $1.jobs }
    }
    return result
  }

  /// A table as a run would see it.
  private func survey(_ needs: SweepNeeds, in session: ReadOnlySession) async throws -> TableSurvey {
    guard let survey = try await session.survey(needs) else { throw SweepRefusal.noTable(needs.table) }
    if let refusal = survey.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
    return survey
  }

  private func findDue(
    _ discovery: ConnectionDiscovery, _ connections: TableSurvey, _ session: ReadOnlySession,
    _ result: inout DryRunResult
  ) async throws {
    guard let needs = SweepNeeds.all(sweeper.work).last, let jobs = try await session.survey(needs) else {
      throw SweepRefusal.noTable(Discovery.table)
    }
    let statements = discovery.statements(on: connections, jobs)
    let due = try await session.query(PostgresStatement(statements.due, ["\(ConnectionPages.claimLimit)", "0"]))
    result.due = due.rowCount
    result.rows = (0..<min(due.rowCount, Self.idLimit)).map { (due[row: $0, column: 0] ?? "", due.moment(row: $0, 1)) }
  }

  private func findDue(
    _ sweep: RowSweep, _ survey: TableSurvey, _ session: ReadOnlySession, _ result: inout DryRunResult
  ) async throws {
    let linkedTable: TableSurvey? =
      if let needs = SweepNeeds(linkedTo: sweeper.work) { try await self.survey(needs, in: session) } else { nil }
    let related = try await session.related(
      to: survey, for: sweep, allowsRowSecurity: allowsRowSecurity)
    let sql = DryRunSQL(sweep, on: survey, linkedTable: linkedTable, related)
    func limits(cutoff: String?) -> [PostgresStatement] {
      [
        PostgresStatement(
          DryRunSQL.limits, ["\(Self.statementMilliseconds)", cutoff, "\(sweep.age.nanoseconds / 1_000)"])
      ]
    }
    let counted = try await session.query(
      PostgresStatement(sql.count, ["\(survey.identifier)"]), after: limits(cutoff: nil), isLimited: false)
    result.due = counted.number(0)
    result.oldest = counted.moment(row: 0, 1)
    result.newest = counted.moment(row: 0, 2)
    result.cutoff = counted.moment(row: 0, 3)
    if let maximumRows, result.due > maximumRows { result.rowLimit = maximumRows }
    let estimate = counted.number(4)
    result.estimatedRows = estimate >= 0 ? estimate : nil
    let sameCutoff = limits(cutoff: counted[row: 0, column: 3])
    if let linkedTable, let count = sql.linked {
      let linked = try await session.query(PostgresStatement(count), after: sameCutoff, isLimited: false)
      result.linked = (linkedTable.displayName, linked.number(0))
    }
    if let count = sql.shares, let limit = sweep.shareLimit {
      let preparations = sameCutoff + [PostgresStatement(DryRunSQL.open)]
      result.refusal = try await refusal(by: limit, count, session, after: preparations)
    }
    try await nameRows(PostgresStatement(sql.first), session, after: sameCutoff, &result)
  }

  private func nameRows(
    _ first: PostgresStatement, _ session: ReadOnlySession, after preparations: [PostgresStatement],
    _ result: inout DryRunResult
  ) async throws {
    do {
      let rows = try await session.query(first, after: preparations, isLimited: false)
      for row in 0..<rows.rowCount {
        result.rows.append((rows[row: row, column: 0] ?? "", rows.moment(row: row, 1)))
      }
    } catch let error as PostgresError where error.sqlState == "42501" && !error.isRaised {
      // A sweep needs no ids.
      result.hidesIDs = true
    }
  }
}

extension DryRun {
  /// Why a run would change nothing; nil if the share is not too large.
  private func refusal(
    by limit: ShareLimit, _ count: String, _ session: ReadOnlySession, after preparations: [PostgresStatement]
  ) async throws -> String? {
    let shares = try await session.query(
      PostgresStatement(count, ["\(ShareLimit.freeRows)", nil]), after: preparations, isLimited: false)
    let found = ShareLimit.Count(due: shares.number(0), silent: shares.number(1), live: shares.number(2))
    guard limit.isExceeded(by: found) else { return nil }
    return SweepRefusal.share(found.silent, of: found.live, warning: limit.warning).reason
  }
}

/// The queries of a dry run.
@EventLoop
struct DryRunSQL {
  /// Parameters: the longest time that a statement may take in ms, the cutoff in µs or null, the age in µs. The
  /// operator's own timeouts hold where they are shorter.
  static let limits = CatalogSQL.qualified(
    """
    VALUES (
      set_config('lock_timeout',
        least(\(GuardStatements.lockTimeoutMilliseconds), \(GuardStatements.given("lock_timeout")))::text, true),
      set_config('statement_timeout', least($1::bigint, \(GuardStatements.given("statement_timeout")))::text, true),
      set_config('sb.cutoff', coalesce($2::bigint, (\(GuardStatements.nowMicroseconds) - $3::bigint))::text, true))
    """)

  /// Opens the guard that a run's statements check: there is no lease to expire.
  static let open = CatalogSQL.qualified(
    "VALUES (set_config('sb.guard', 'true', true), set_config('sb.deadline', '\(Int64.max)', true))")

  /// Parameter: the table's identifier. Answers how many rows are due, the lowest and the highest key and the cutoff in
  /// µs since 1970, and about how many rows there are (-1: not known).
  let count: String
  /// Returns id and key of the rows that have been due longest.
  let first: String
  /// Returns how many linked rows change with the due rows; nil if the sweep has none.
  let linked: String?
  /// As `TableStatements.countShares`; nil if the sweep has no maximum share.
  let shares: String?

  init(
    _ sweep: RowSweep, on survey: TableSurvey, linkedTable: TableSurvey? = nil,
    _ related: RelatedTables = RelatedTables()
  ) {
    let statements = TableStatements(
      sweep: sweep, table: survey.quotedName, moments: survey.moments, countsDue: false, related: related)
    count = CatalogSQL.qualified(
      """
      SELECT count(*), \(MomentKey.key(of: "min(\(sweep.key))")), \(MomentKey.key(of: "max(\(sweep.key))")),
             current_setting('sb.cutoff')::bigint,
             (SELECT class.reltuples::bigint FROM "pg_catalog"."pg_class" AS class WHERE (class.oid = $1::oid))
        FROM \(survey.quotedName) AS target WHERE \(statements.isDue)
      """)
    shares = sweep.shareLimit.flatMap { $0.percent < 100 ? statements.countShares($0) : nil }
    first = CatalogSQL.qualified(
      """
      SELECT target.id::text, \(MomentKey.key(of: "target.\(sweep.key)"))
        FROM \(survey.quotedName) AS target WHERE \(statements.isDue)
       ORDER BY target.\(sweep.key), target.id LIMIT \(DryRun.idLimit)
      """)
    guard let rows = sweep.linked, let linkedTable else {
      linked = nil
      return
    }
    linked = CatalogSQL.qualified(
      """
      SELECT count(*) FROM \(linkedTable.quotedName) AS linked
       WHERE (linked.\(rows.id) = ANY (ARRAY(
               SELECT unnest(target.\(rows.references)) FROM \(survey.quotedName) AS target WHERE \(statements.isDue))))
         AND (\(TableStatements.withCutoff(rows.due)))
      """)
  }
}

/// What a run would change.
struct DryRunResult: Sendable {
  let sweeper: String
  let summary: String
  let table: String
  let key: String
  /// How a row changes: DELETE, UPDATE or INSERT.
  let change: String
  var cutoff: String?
  var due = 0
  /// By the server's statistics.
  var estimatedRows: Int?
  var oldest: String?
  var newest: String?
  /// The ids of the rows that have been due longest, and since when.
  var rows: [(id: String, key: String?)] = []
  /// Whether the role may not read ids.
  var hidesIDs = false
  /// The table of linked rows, and how many of them change with the due rows.
  var linked: (table: String, due: Int)?
  /// Why a run would change nothing; nil if it would.
  var refusal: String?
  /// The most rows that a run would change, if more are due.
  var rowLimit: Int?
  /// For discovery: whose jobs a run enqueues, unless an identical one is queued.
  var targets: [String]?

  func text(as format: ReportTable.Format) -> String {
    format == .json ? json : lines
  }

  private var lines: String {
    var text = "\(sweeper): \(summary)\nNothing was changed. A run would \(phrase) \(table)\(linkedPhrase).\n\n"
    if let targets {
      var table = ReportTable(["target", "job"])
      for target in targets {
        table.rows.append([.text(target), .text("one a slot, unless an identical one is queued")])
      }
      return text + table.text(as: .text)
    }
    var facts = ReportTable(["cutoff", "due", "rows", "oldest", "newest"])
    facts.rows = [
      [.init(cutoff), .number(due), .init(estimatedRows.map { "about \($0)" }), .init(oldest), .init(newest)]
    ]
    text += facts.text(as: .text) + brakes
    if hidesIDs { return text + "\nThe role may not read ids: GRANT SELECT (\"id\") shows them.\n" }
    return rows.isEmpty ? text : text + "\n" + firstRows.text(as: .text)
  }

  private var brakes: String {
    var text = ""
    if let refusal {
      text += "\nA run would change nothing: \(refusal)\nTo let one run change them: trigger \(sweeper) --accept\n"
    }
    if let rowLimit {
      text += "\nA run would end after \(rowLimit) rows (\(Setting.maximumRowsPerRun.name)), and the next one go on.\n"
    }
    return text
  }

  private var phrase: String {
    switch change {
    case "DELETE": "delete these rows of"
    case "INSERT": "insert these jobs into"
    case "SELECT": "warn of these rows of"
    default: "update these rows of"
    }
  }

  private var linkedPhrase: String {
    linked.map { ", and with them \($0.due) \($0.due == 1 ? "row" : "rows") of \($0.table)" } ?? ""
  }

  private var firstRows: ReportTable {
    var table = ReportTable(["id", key])
    for row in rows { table.rows.append([.text(row.id), .init(row.key)]) }
    return table
  }

  private var json: String {
    var facts = ReportTable(
      [
        "sweeper", "table", "change", "cutoff", "due", "estimated_rows", "oldest", "newest", "targets", "linked_table",
        "linked_due", "refusal", "row_limit",
      ])
    facts.rows = [
      [
        .text(sweeper), .text(table), .text(change), .init(cutoff), .number(due),
        estimatedRows.map { .number($0) } ?? .missing, .init(oldest), .init(newest),
        targets.map { .list($0) } ?? .missing, .init(linked?.table), linked.map { .number($0.due) } ?? .missing,
        .init(refusal), rowLimit.map { .number($0) } ?? .missing,
      ]
    ]
    var json = JSONWriter()
    json.beginObject()
    json.key("summary")
    facts.write(to: &json)
    json.key("first")
    firstRows.write(to: &json)
    json.endObject()
    return String(decoding: json.bytes, as: UTF8.self) + "\n"
  }
}

extension Sweeper.Work {
  fileprivate var verb: String {
    switch self {
    case .rows(let sweep): sweep.deletes ? "DELETE" : "UPDATE"
    case .discovery: "INSERT"
    case .connections: "UPDATE"
    case .watch: "SELECT"
    }
  }
}

extension PostgresResult {
  /// A time from the server, in µs since 1970, as text in UTC; nil if null.
  fileprivate func moment(row: Int, _ column: Int) -> String? {
    guard let microseconds = self[row: row, column: column].flatMap({ Int64($0) }) else { return nil }
    // Excludes infinities and years that RFC 3339 cannot represent.
    guard (-62_135_596_800_000_000...253_402_300_799_000_000).contains(microseconds) else { return "infinite" }
    return WallClockTime(microsecondsSince1970: microseconds).rfc3339Seconds
  }
}
