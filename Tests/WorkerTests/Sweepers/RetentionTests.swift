// The retention sweepers, row by row and at random: what ended long ago goes, and nothing else ever does.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct RetentionTests {
  /// One retention sweeper, and rows for it: what to insert, and whether a row is kept where 30 days are to be.
  struct Case: Sendable, CustomTestStringConvertible {
    let setting: String
    let table: String
    let migration: DevelopmentSchema
    /// Columns and one tuple of values a row, without its id.
    let columns: String
    let rows: [(values: String, isKept: Bool)]
    let sweeper: @Sendable (Settings) -> Sweeper
    var testDescription: String { setting }
  }

  private static func ago(_ days: Double) -> String { "now() - interval '\(days) days'" }

  static let cases = [
    Case(
      setting: "SB_WORKER_RETAIN_SESSIONS", table: "sessions", migration: .twentyEight,
      columns: "user_id, token_hash, expires_at, idle_expires_at, revoked_at",
      rows: [
        (ago(31) + ", NULL, NULL", false), (ago(30) + ", NULL, NULL", false), (ago(29.9) + ", NULL, NULL", true),
        (ago(-1) + ", \(ago(31)), NULL", false), (ago(-1) + ", \(ago(-1)), \(ago(31))", false),
        (ago(-1) + ", NULL, NULL", true), (ago(1) + ", \(ago(2)), \(ago(3))", true), ("'infinity', NULL, NULL", true),
      ].map { ("'u', gen_random_uuid()::text::bytea, \($0.0)", $0.1) }, sweeper: { .sessionsRetention($0) }),
    Case(
      setting: "SB_WORKER_RETAIN_ENROLLMENT_TOKENS", table: "agent_enrollment_tokens", migration: .thirtyEight,
      columns: "token_hash, expires_at, consumed_at, revoked_at",
      rows: [
        (ago(31) + ", NULL, NULL", false), (ago(-1) + ", \(ago(31)), NULL", false),
        (ago(-1) + ", NULL, \(ago(30))", false), (ago(-1) + ", NULL, NULL", true),
        (ago(-1) + ", \(ago(29)), \(ago(28))", true), (ago(29.9) + ", NULL, NULL", true),
      ].map { ("gen_random_uuid()::text::bytea, \($0.0)", $0.1) }, sweeper: { .enrollmentTokensRetention($0) }),
    Case(
      setting: "SB_WORKER_RETAIN_REVEAL_SESSIONS", table: "reveal_sessions", migration: .twentyEight,
      columns: "user_id, project_id, environment_id, ttl_seconds, wrap_ids, expires_at, expired_at",
      rows: [
        ("\(ago(40)), \(ago(31))", false), ("\(ago(40)), \(ago(30))", false), ("\(ago(40)), \(ago(29.9))", true),
        // It ran out and was not closed: its wraps can still be read.
        ("\(ago(40)), NULL", true), ("\(ago(-1)), NULL", true),
      ].map { ("'u', gen_random_uuid(), gen_random_uuid(), 60, '{}', \($0.0)", $0.1) },
      sweeper: { .revealSessionsRetention($0) }),
    Case(
      setting: "SB_WORKER_RETAIN_JOBS", table: "sync_jobs", migration: .eleven,
      columns: "job_type, correlation_id, status, updated_at",
      rows: [
        ("'succeeded', \(ago(31))", false), ("'failed', \(ago(30))", false), ("'expired', \(ago(31))", false),
        ("'queued', \(ago(31))", true), ("'claimed', \(ago(400))", true), ("'failed', \(ago(29.9))", true),
      ].map { ("'sync', gen_random_uuid(), \($0.0)", $0.1) }, sweeper: { .jobsRetention($0) }),
    Case(
      setting: "SB_WORKER_RETAIN_SECRETS_MISSING", table: "secrets", migration: .eleven,
      columns: "cluster_name, provider_type, secret_ref, status, last_seen_at, updated_at",
      rows: [
        ("'missing', \(ago(33)), \(ago(31))", false), ("'missing', \(ago(30)), \(ago(30))", false),
        ("'present', \(ago(33)), \(ago(31))", true), ("'missing', \(ago(33)), \(ago(29.9))", true),
        ("'missing', \(ago(29.9)), \(ago(33))", true),
      ].map { ("'c', 'vault', gen_random_uuid()::text, \($0.0)", $0.1) }, sweeper: { .secretsMissingRetention($0) }),
    Case(
      setting: "SB_WORKER_RETAIN_GITOPS_OBSERVATIONS", table: "gitops_observations", migration: .twentyEight,
      columns: "request_id, argocd_endpoint_id, application_name, polling_state, terminal_at",
      rows: [
        ("'applied', \(ago(31))", false), ("'applied_unverified', \(ago(30))", false), ("'failed', \(ago(31))", false),
        ("'queued', \(ago(31))", true), ("'active', \(ago(31))", true), ("'applied', \(ago(29.9))", true),
        ("'failed', NULL", true),
      ].map { ("(SELECT id FROM access_requests), (SELECT id FROM argocd_endpoints), 'a', \($0.0)", $0.1) },
      sweeper: { .gitopsObservationsRetention($0) }),
  ]

  private static let surroundings = """
    INSERT INTO access_requests (requester_id, type) VALUES ('r', 'read');
    INSERT INTO argocd_endpoints (name, base_url, token_ciphertext, token_data_key_ciphertext, token_nonce,
      token_kms_key_id) VALUES ('e', 'https://example.com', '', '', '', 'k')
    """

  private static func id(_ number: Int) -> String {
    let text = "\(number)"
    return "00000000-0000-0000-0000-" + String(repeating: "0", count: 12 - text.count) + text
  }

  private func plane(_ item: Case, at migration: DevelopmentSchema = .newest) async throws -> ControlPlane {
    let plane = try await ControlPlane.fresh(at: migration)
    if migration != .eleven { try await plane.sql(Self.surroundings) }
    return plane
  }

  private func insert(_ rows: [String], of item: Case, into plane: ControlPlane) async throws {
    let tuples = rows.enumerated().map { "('\(Self.id($0))', \($1))" }
    // The longest command line has 128 kB for one argument.
    for start in stride(from: 0, to: tuples.count, by: 500) {
      let values = tuples[start..<min(start + 500, tuples.count)].joined(separator: ", ")
      try await plane.sql("INSERT INTO \(item.table) (id, \(item.columns)) VALUES \(values)")
    }
  }

  private func sweeper(_ item: Case, on plane: ControlPlane) throws -> Sweeper {
    item.sweeper(try plane.settings([item.setting: "720h"]))
  }

  private func left(_ item: Case, on plane: ControlPlane) async throws -> Set<String> {
    Set(try await plane.sql("SELECT id FROM \(item.table)").split(separator: "\n").map(String.init))
  }

  private static var casesAndMigrations: [(Case, DevelopmentSchema)] {
    cases.flatMap { item in
      DevelopmentSchema.allCases.filter { $0.rawValue >= item.migration.rawValue }.map { (item, $0) }
    }
  }

  @Test(arguments: casesAndMigrations)
  func whatEndedBeforeTheCutoffIsDeletedAndNothingElse(item: Case, migration: DevelopmentSchema) async throws {
    let plane = try await plane(item, at: migration)
    try await insert(item.rows.map(\.values), of: item, into: plane)
    let sweeper = try sweeper(item, on: plane)
    let count = try await onLoop { try await plane.sweep(sweeper) }
    let kept = item.rows.indices.filter { item.rows[$0].isKept }.map(Self.id)
    #expect(try await left(item, on: plane) == Set(kept))
    #expect(count.changed == item.rows.count - kept.count && count.skipped == 0)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 0)
  }

  /// Rows at random, some of them referred to by tables that the worker has never heard of.
  @Test(arguments: cases)
  func noLiveRowIsEverDeletedWhateverRefersToIt(item: Case) async throws {
    let seed = UInt64.random(in: 0...(.max))
    var random = SeededRandom(seed: seed)
    func any(_ count: Int) -> Int { Int.random(in: 0..<count, using: &random) }
    let plane = try await plane(item)
    let drawn = (0..<3_000).map { _ in item.rows[any(item.rows.count)] }
    try await insert(drawn.map(\.values), of: item, into: plane)
    let actions = ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"]
    var referenced: Set<Int> = []
    for (number, action) in actions.enumerated() {
      let rows = (0..<any(200)).map { _ in any(drawn.count) }
      referenced.formUnion(rows)
      let values = rows.map { "('\(Self.id($0))')" } + ["(NULL)"]
      try await plane.sql(
        """
        CREATE TABLE referring_\(number) (row_id UUID DEFAULT NULL REFERENCES \(item.table) ON DELETE \(action));
        INSERT INTO referring_\(number) VALUES \(values.joined(separator: ", "))
        """)
    }
    let sweeper = try sweeper(item, on: plane)
    let count = try await onLoop { try await plane.sweep(sweeper) }
    let kept = drawn.indices.filter { drawn[$0].isKept || referenced.contains($0) }
    #expect(try await left(item, on: plane) == Set(kept.map(Self.id)), "seed \(seed)")
    #expect(count.changed == drawn.count - kept.count, "seed \(seed)")
  }

  @Test func aProjectKeepsItsMissingSecretAndARequestItsJob() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO secrets (id, cluster_name, provider_type, secret_ref, status, last_seen_at, updated_at)
      SELECT id::uuid, 'c', 'vault', id, 'missing', now() - interval '90 days', now() - interval '90 days'
      FROM unnest('{\(Self.id(1)),\(Self.id(2))}'::text[]) AS id;
      INSERT INTO project_secrets (project_id, secret_id) VALUES (gen_random_uuid(), '\(Self.id(1))');
      INSERT INTO sync_jobs (id, job_type, correlation_id, status, updated_at)
      SELECT id::uuid, 'read', gen_random_uuid(), 'succeeded', now() - interval '90 days'
      FROM unnest('{\(Self.id(1)),\(Self.id(2))}'::text[]) AS id;
      INSERT INTO access_requests (requester_id, type, status, job_id) VALUES ('r', 'read', 'executed', '\(Self.id(1))')
      """)
    let settings = try plane.settings(["SB_WORKER_RETAIN_SECRETS_MISSING": "24h", "SB_WORKER_RETAIN_JOBS": "24h"])
    for sweeper in [Sweeper.secretsMissingRetention(settings), .jobsRetention(settings)] {
      #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
    }
    #expect(try await plane.sql("SELECT id FROM secrets UNION SELECT id FROM sync_jobs") == Self.id(1))
    #expect(try await plane.sql("SELECT count(*) FROM project_secrets") == "1")
  }

  // MARK: References that come in between

  @Test func aRowThatIsBeingReferredToIsSkippedAndThenStays() async throws {
    let item = Self.cases[0]
    let plane = try await plane(item)
    try await plane.sql("CREATE TABLE notes (session_id UUID REFERENCES sessions ON DELETE CASCADE)")
    try await insert([item.rows[0].values, item.rows[0].values], of: item, into: plane)
    let sweeper = try sweeper(item, on: plane)
    let settings = try plane.settings()
    try await onLoop {
      let limit = LoopClock.system.now.advanced(by: .seconds(20))
      let other = try await PostgresConnection.connect(settings[.databaseURL], by: limit, on: .system)
      defer { other.close() }
      for text in ["BEGIN", "INSERT INTO notes VALUES ('\(Self.id(1))')"] {
        _ = try await other.query(PostgresStatement(text), by: limit)
      }
      let count = try await plane.sweep(sweeper)
      #expect(count.changed == 1 && count.skipped == 1)
      _ = try await other.query(PostgresStatement("COMMIT"), by: limit)
      #expect(try await plane.sweep(sweeper).changed == 0)
    }
    #expect(try await plane.sql("SELECT session_id FROM notes JOIN sessions ON sessions.id = session_id") == Self.id(1))
  }

  /// Who gets a reference in keeps it, at whatever moment of a sweep that was.
  @Test func noReferenceIsCascadedAwayThatIsMadeDuringASweep() async throws {
    let item = Self.cases[0]
    let plane = try await plane(item)
    try await plane.sql(
      """
      CREATE TABLE notes (session_id UUID REFERENCES sessions ON DELETE CASCADE);
      CREATE TABLE made (session_id UUID);
      """)
    try await insert((0..<4_000).map { _ in item.rows[0].values }, of: item, into: plane)
    let sweeper = try sweeper(item, on: plane)
    let statement = PostgresStatement(
      """
      WITH note AS (
        INSERT INTO notes SELECT id FROM sessions ORDER BY random() LIMIT 1 RETURNING session_id)
      INSERT INTO made SELECT session_id FROM note
      """)
    let settings = try plane.settings()
    let count = try await onLoop {
      let limit = LoopClock.system.now.advanced(by: .seconds(60))
      let other = try await PostgresConnection.connect(settings[.databaseURL], by: limit, on: .system)
      defer { other.close() }
      async let swept = plane.sweep(sweeper)
      for _ in 0..<200 {
        do {
          _ = try await other.query(statement, by: limit)
        } catch let error as PostgresError where error.sqlState == "23503" {
          // The row was gone.
        }
      }
      return try await swept
    }
    #expect(count.changed > 2_000)
    #expect(
      try await plane.sql(
        """
        SELECT count(*) FROM made WHERE session_id NOT IN (SELECT session_id FROM notes)
          OR session_id NOT IN (SELECT id FROM sessions)
        """) == "0")
  }

  @Test func aForeignKeyAddedAfterTheSurveyKeepsEveryRow() async throws {
    let item = Self.cases[0]
    let plane = try await plane(item)
    try await insert([item.rows[0].values], of: item, into: plane)
    let sweeper = try sweeper(item, on: plane)
    guard case .rows(let sweep) = sweeper.work else { return }
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      try await pool.withConnection(by: LoopClock.system.now.advanced(by: .seconds(20))) { connection in
        let survey = TableSurvey.statement(
          sweep.table, key: sweep.key, moments: sweep.moments, event: sweep.event)
        let limit = LoopClock.system.now.advanced(by: .seconds(20))
        let table = try #require(
          TableSurvey(table: sweep.table, try await connection.query(survey, by: limit)))
        let related = RelatedTables(try await connection.query(sweep.relatedTables(of: table), by: limit))
        let statements = TableStatements(
          sweep: sweep, table: table.quotedName, moments: table.moments, countsDue: false, related: related)
        func write() async throws -> Int {
          let open = PostgresStatement(
            GuardStatements.open, ["\(Int64.max / 4)", "test", nil, "0", "7"])
          let range = ["(0,0)", "(9,0)"]
          return try await connection.pipeline(
            [
              open, TableStatements.settings(flushes: true, statementLimit: .seconds(9)),
              PostgresStatement(statements.lock, range + ["1000"]), PostgresStatement(statements.write, range),
            ], by: limit)[3].affectedRows
        }
        _ = try plane.sqlAtOnce("CREATE TABLE notes (session_id UUID REFERENCES sessions ON DELETE CASCADE)")
        #expect(try await write() == 0)
        _ = try plane.sqlAtOnce("DROP TABLE notes")
        #expect(try await write() == 1)
      }
      await pool.close()
    }
  }

  // MARK: Rights and surroundings

  @Test func aRoleThatMayNotLockRowsOrSeeReferencesIsRefused() async throws {
    let item = Self.cases[0]
    let plane = try await plane(item)
    try await plane.sql("CREATE TABLE notes (session_id UUID REFERENCES sessions ON DELETE CASCADE)")
    try await insert([item.rows[0].values], of: item, into: plane)
    let sweeper = try sweeper(item, on: plane)
    let noLock = try await plane.limited("SELECT, DELETE ON sessions", "SELECT ON notes")
    await #expect(throws: SweepRefusal.cannotLock("public.sessions")) {
      try await onLoop { try await noLock.sweep(sweeper) }
    }
    let blind = try await plane.limited("SELECT, UPDATE (id), DELETE ON sessions")
    await #expect(throws: PostgresError.self) { try await onLoop { try await blind.sweep(sweeper) } }
    let hidden = try await plane.limited("SELECT, UPDATE (id), DELETE ON sessions", "SELECT ON notes")
    try await plane.sql("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
    await #expect(throws: SweepRefusal.hiddenReferences("public.notes")) {
      try await onLoop { try await hidden.sweep(sweeper) }
    }
    try await plane.sql("ALTER TABLE notes DISABLE ROW LEVEL SECURITY")
    #expect(try await onLoop { try await hidden.sweep(sweeper) }.changed == 1)
  }

  @Test func partsOfATableAreSweptOneByOne() async throws {
    let item = Self.cases[0]
    let plane = try await plane(item)
    try await plane.sql("CREATE TABLE more () INHERITS (sessions)")
    try await insert(item.rows.map(\.values), of: item, into: plane)
    try await plane.sql("INSERT INTO more SELECT * FROM sessions")
    let sweeper = try sweeper(item, on: plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 8)
    #expect(try await plane.sql("SELECT count(*) FROM sessions") == "8")
  }

  @Test func aRowThatATriggerKeepsIsAFailureAndTheOthersGo() async throws {
    let item = Self.cases[0]
    let plane = try await plane(item)
    try await insert([item.rows[0].values, item.rows[0].values, item.rows[0].values], of: item, into: plane)
    try await plane.sql(
      """
      CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.id = '\(Self.id(1))' THEN RETURN NULL; END IF; RETURN OLD; END $$;
      CREATE TRIGGER keeper BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION keep()
      """)
    let sweeper = try sweeper(item, on: plane)
    await #expect(throws: SweepRefusal.kept(1, table: "public.sessions")) {
      try await onLoop { try await plane.sweep(sweeper) }
    }
    #expect(try await left(item, on: plane) == [Self.id(1)])
  }

  @Test(arguments: ["23h59m", "0", "-1h", "a month"])
  func lessThanADayIsRefused(text: String) throws {
    let environment = [
      "DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h", "SB_WORKER_RETAIN_SESSIONS": text,
    ]
    let faults = #expect(throws: ConfigurationFaults.self) { try Settings.load(environment: environment) }
    #expect(faults?.faults.first?.rule.hasPrefix("must be a duration from 24h to") == true)
    #expect(faults?.faults.first?.rule.hasSuffix(", or off") == true)
  }
}
