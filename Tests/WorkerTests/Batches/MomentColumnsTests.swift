// Columns of moments that have another type: a timestamp without a time zone, or a date, means another moment in each
// session's zone. Every column that a sweeper reads or writes as a moment is guarded, and each guard refuses by name.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct MomentColumnsTests {
  /// Every sweeper is on.
  private static let settings = [
    "SB_WORKER_REQUESTS_EXPIRED_INTERVAL": "1m", "SB_WORKER_QUEUE_ALERT_AFTER": "10m",
    "SB_WORKER_RETAIN_SESSIONS": "24h", "SB_WORKER_RETAIN_ENROLLMENT_TOKENS": "24h",
    "SB_WORKER_RETAIN_REVEAL_SESSIONS": "24h", "SB_WORKER_RETAIN_JOBS": "24h",
    "SB_WORKER_RETAIN_SECRETS_MISSING": "24h", "SB_WORKER_RETAIN_GITOPS_OBSERVATIONS": "24h",
    "SB_WORKER_AGENTS_STALE_MAX_SHARE": "50%", "SB_WORKER_SECRETS_STALE_MAX_SHARE": "50%",
    "SB_WORKER_JOBS_RECOVERY_ACTION": "requeue", "SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "3",
    "SB_WORKER_AUDIT_EVENTS": "true",
  ]

  /// A row that is live for four hours at least, and what tells that it still is. By the worker's zone it is due.
  private static let live = [
    (
      "wraps-expired", "secret_wraps", "expires_at",
      SweeperTests.wrap + " VALUES ('live', '', '', '', 'k', '', 0, now() + interval '4 hours', NULL, NULL)",
      "SELECT key_name FROM secret_wraps"
    ),
    (
      "agents-stale", "agents", "last_seen_at",
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('live', '', now())",
      "SELECT name FROM agents WHERE status = 'active'"
    ),
    (
      "reveal-sessions-expired", "reveal_sessions", "expires_at",
      RevealRows.sessionWithWraps("live", expiry: "now() + interval '4 hours'"), RevealRows.open
    ),
    (
      "sessions-retention", "sessions", "revoked_at",
      session("now() + interval '9 days', NULL, now() - interval '20 hours'"), "SELECT user_id FROM sessions"
    ),
    (
      "sessions-retention", "sessions", "idle_expires_at",
      session("now() + interval '9 days', now() - interval '20 hours', NULL"), "SELECT user_id FROM sessions"
    ),
    (
      "enrollment-tokens-retention", "agent_enrollment_tokens", "consumed_at",
      token("now() + interval '9 days', now() - interval '20 hours', NULL"),
      "SELECT 'live' FROM agent_enrollment_tokens"
    ),
    (
      "secrets-missing-retention", "secrets", "updated_at",
      """
      INSERT INTO secrets (secret_ref, status, last_seen_at, updated_at, cluster_name, provider_type)
        VALUES ('live', 'missing', now() - interval '9 days', now() - interval '20 hours', 'c', 'vault')
      """, "SELECT secret_ref FROM secrets"
    ),
  ]

  private static func session(_ moments: String) -> String {
    """
    INSERT INTO sessions (user_id, token_hash, expires_at, idle_expires_at, revoked_at) VALUES ('live', '', \(moments))
    """
  }

  private static func token(_ moments: String) -> String {
    "INSERT INTO agent_enrollment_tokens (token_hash, expires_at, consumed_at, revoked_at) VALUES ('', \(moments))"
  }

  @Test(arguments: live)
  func nothingIsDueByAColumnThatBecomesOneOfAnotherType(
    name: String, table: String, column: String, live: String, left: String
  ) async throws {
    let plane = try await ControlPlane.fresh()
    let database = try await plane.sql("SELECT current_database()")
    try await plane.sql("ALTER DATABASE \"\(database)\" SET timezone = 'Asia/Kolkata'")
    try await plane.sql(live)
    let sweeper = try #require(Sweepers.declared(try plane.settings(Self.settings)).first { $0.name == name })
    let memory = try await onLoop { TableMemory() }
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      let first = try await plane.sweep(sweeper, through: pool, knowing: memory)
      #expect(first.changed == 0)
      // In this session's zone nothing is written anew, so that the table's file and size are what they were.
      try await plane.sql("SET timezone = 'UTC'; ALTER TABLE \(table) ALTER \(column) TYPE timestamp")
      let refusal = await #expect(throws: SweepRefusal.self) {
        try await plane.sweep(sweeper, through: pool, knowing: memory)
      }
      #expect(refusal == .unusableMoments("\(column) is timestamp without time zone", table: "public.\(table)"))
      #expect(try await plane.sql(left) == "live")
      await pool.close()
    }
  }

  /// Before a run takes the lock, PostgreSQL may be asked whether anything is due.
  @Test func aQueryBeforeTheLockDoesNotAnswerByAColumnOfAnotherType() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = try #require(
      Sweepers.declared(try plane.settings()).first { $0.name == "reveal-sessions-expired" })
    let memory = try await onLoop { TableMemory() }
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      _ = try await plane.sweep(sweeper, through: pool, knowing: memory)
      func nothingIsDue() async throws -> Bool {
        var answer = false
        let limit = LoopClock.system.now.advanced(by: .seconds(20))
        try await pool.withSweepConnection(by: limit) { answer = try await memory.nothingIsDue(over: $0, by: limit) }
        return answer
      }
      #expect(try await nothingIsDue())
      try await plane.sql("SET timezone = 'UTC'; ALTER TABLE reveal_sessions ALTER expires_at TYPE timestamp")
      #expect(try await !nothingIsDue())
      await pool.close()
    }
  }

  @Test func eachColumnOfMomentsIsRefusedByNameWhereItHasAnotherType() async throws {
    let plane = try await ControlPlane.fresh()
    let types = [("timestamp", "timestamp without time zone"), ("date", "date")]
    for sweeper in Sweepers.declared(try plane.settings(Self.settings)) {
      for needs in SweepNeeds.all(sweeper.work) {
        for column in needs.moments {
          for (type, name) in types {
            try await Self.change(column, of: needs.table, to: type, on: plane)
            try await onLoop {
              let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper) }
              #expect(refusal == .unusableMoments("\(column) is \(name)", table: "public.\(needs.table)"))
            }
          }
          try await Self.change(column, of: needs.table, to: "timestamptz", on: plane)
        }
      }
    }
  }

  private static func change(_ column: String, of table: String, to type: String, on plane: ControlPlane) async throws {
    let indexes = try await plane.sql(
      """
      SELECT string_agg(concat('DROP INDEX ', entry.indexrelid::regclass), ';')
        FROM pg_index AS entry JOIN pg_attribute AS "column"
          ON "column".attrelid = entry.indrelid AND "column".attnum = ANY (entry.indkey)
       WHERE entry.indrelid = '\(table)'::regclass AND "column".attname = '\(column)' AND NOT entry.indisprimary
      """)
    try await plane.sql(
      """
      \(indexes); ALTER TABLE \(table) ALTER \(column) DROP DEFAULT;
      ALTER TABLE \(table) ALTER \(column) TYPE \(type) USING \(column)::\(type)
      """)
  }

  /// A column that is compared with a moment in any way, by whatever function, is declared as one: PostgreSQL says
  /// which columns are moments, and the declaration of which others it only asks whether they are null.
  @Test func everyMomentThatASweeperUsesIsDeclared() async throws {
    let plane = try await ControlPlane.fresh()
    func moments(of table: String, among needs: [SweepNeed]) async throws -> [String] {
      let names = needs.map { "'\($0.column)'" }.joined(separator: ",")
      return try await plane.sql(
        """
        SELECT attname FROM pg_attribute WHERE attrelid = '\(table)'::regclass AND attname IN (\(names))
           AND format_type(atttypid, NULL) ~ '^(timestamp|date|time)' ORDER BY attname
        """
      ).split(separator: "\n").map(String.init)
    }
    var found = 0
    for sweeper in Sweepers.declared(try plane.settings(Self.settings)) {
      let texts = Self.texts(of: sweeper.work)
      for needs in SweepNeeds.all(sweeper.work) {
        for column in try await moments(of: needs.table, among: needs.needs) where !needs.moments.contains(column) {
          #expect(
            !texts.isEmpty && texts.allSatisfy { Self.isOnlyAskedForNull(column, in: $0) },
            "\(sweeper.name) uses \(needs.table).\(column) as a moment")
        }
        found += needs.moments.count
        for other in needs.others where other.table != AuditNote.table {
          #expect(try await moments(of: other.table, among: other.needs) == [], "\(sweeper.name): \(other.table)")
        }
      }
    }
    #expect(found > 20)
    #expect(Self.isOnlyAskedForNull("a_at", in: "a_at IS NULL OR b_at < a_at") == false)
    #expect(Self.isOnlyAskedForNull("a_at", in: "ba_at < :cutoff AND a_at IS NOT NULL"))
  }

  /// The conditions and changes that a declaration has.
  private static func texts(of work: Sweeper.Work) -> [String] {
    guard case .rows(let sweep) = work else { return [] }
    var texts = [sweep.due] + (sweep.index.map { [$0.reaches] } ?? [])
    if case .update(let set) = sweep.change { texts.append(set) }
    if let linked = sweep.linked { texts += [linked.set, linked.due] }
    if let limit = sweep.shareLimit { texts += [limit.live, limit.changed] }
    if let lookup = sweep.lookup { texts += [lookup.value, lookup.foreignKey] }
    return texts
  }

  private static func isOnlyAskedForNull(_ column: String, in text: String) -> Bool {
    var rest = text[...]
    while let range = rest.firstRange(of: column) {
      let before = text[..<range.lowerBound].last
      let after = text[range.upperBound...]
      rest = after
      let isPart = [before, after.first].contains { $0.map { $0.isLetter || $0.isNumber || $0 == "_" } ?? false }
      if !isPart, !after.hasPrefix(" IS NULL"), !after.hasPrefix(" IS NOT NULL") { return false }
    }
    return true
  }
}
