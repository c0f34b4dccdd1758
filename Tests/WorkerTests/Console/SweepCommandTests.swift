// What a dry run of a sweeper says, and that a run then changes that and a dry run nothing.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct SweepCommandTests {
  private func dryRun(
    _ name: String, on plane: ControlPlane, _ more: [String: String] = [:]
  ) async throws -> DryRunResult {
    let settings = try plane.settings(more)
    let sweeper = try #require(Sweepers.all(settings).first { $0.name == name })
    return try await onLoop {
      try await DryRun(
        sweeper: sweeper, allowsRowSecurity: false, maximumRows: settings[.maximumRowsPerRun], clock: .system
      ).found(through: settings[.databaseURL])
    }
  }

  private func sweep(_ name: String, on plane: ControlPlane) async throws -> SweepCount {
    let sweeper = try #require(Sweepers.all(try plane.settings()).first { $0.name == name })
    return try await onLoop { try await plane.sweep(sweeper) }
  }

  /// 30 agents, last seen 1 to 30 minutes ago: those beyond 5 minutes are due.
  private func planeWithAgents() async throws -> ControlPlane {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at)
        SELECT 'agent-' || i, 'x', now() - i * interval '1 minute' - interval '1 second'
          FROM generate_series(1, 30) AS i;
      ANALYZE agents
      """)
    return plane
  }

  @Test func itSaysWhatARunThenChangesAndChangesNothing() async throws {
    let plane = try await planeWithAgents()
    let before = try await plane.sql("SELECT md5(string_agg(a::text, ',' ORDER BY name)) FROM agents AS a")
    let found = try await dryRun("agents-stale", on: plane)
    #expect(found.due == 26 && found.estimatedRows == 30 && found.table == "public.agents")
    let ids = try await plane.sql("SELECT id FROM agents ORDER BY last_seen_at, id LIMIT 20").split(separator: "\n")
    #expect(found.rows.map(\.id) == ids.map(String.init))
    #expect(found.oldest == found.rows.first?.key && found.newest != nil && found.cutoff != nil)
    #expect(try await plane.sql("SELECT md5(string_agg(a::text, ',' ORDER BY name)) FROM agents AS a") == before)
    #expect(try await sweep("agents-stale", on: plane).changed == found.due)
    #expect(try await dryRun("agents-stale", on: plane).due == 0)
  }

  @Test func itSaysThatTheMaximumShareWouldRefuseARun() async throws {
    let plane = try await planeWithAgents()
    let found = try await dryRun("agents-stale", on: plane, ["SB_WORKER_AGENTS_STALE_MAX_SHARE": "50%"])
    #expect(found.due == 26 && found.refusal == "refused: 26 of 30 agents look silent: is it the api?")
    #expect(
      found.text(as: .text).contains(
        """
        \nA run would change nothing: refused: 26 of 30 agents look silent: is it the api?
        To let one run change them: trigger agents-stale --accept\n
        """))
    #expect(found.text(as: .json).contains(#""refusal":"refused: 26 of 30"#))
    for share in ["90%", "100%"] {
      #expect(try await dryRun("agents-stale", on: plane, ["SB_WORKER_AGENTS_STALE_MAX_SHARE": share]).refusal == nil)
    }
  }

  @Test func itSaysThatTheRowLimitWouldCutARun() async throws {
    let plane = try await planeWithAgents()
    let found = try await dryRun("agents-stale", on: plane, ["SB_WORKER_MAX_ROWS_PER_RUN": "25"])
    #expect(found.due == 26 && found.rowLimit == 25)
    #expect(found.text(as: .text).contains("A run would end after 25 rows (SB_WORKER_MAX_ROWS_PER_RUN)"))
    #expect(try await dryRun("agents-stale", on: plane, ["SB_WORKER_MAX_ROWS_PER_RUN": "26"]).rowLimit == nil)
  }

  @Test func keysWithoutEndAreSaidToBeInfinite() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO secret_wraps
        (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
      VALUES ('x', 'x', 'x', 'k', 'x', 1, '-infinity')
      """)
    let found = try await dryRun("wraps-expired", on: plane)
    #expect(found.due == 1 && found.oldest == "infinite" && found.change == "DELETE")
  }

  @Test func aRoleThatMayNotReadIdsSeesTheCounts() async throws {
    let owner = try await planeWithAgents()
    let plane = try await owner.limited("SELECT (status, last_seen_at) ON agents")
    let found = try await dryRun("agents-stale", on: plane)
    #expect(found.due == 26 && found.hidesIDs && found.rows.isEmpty)
    #expect(found.text(as: .text).hasSuffix("The role may not read ids: GRANT SELECT (\"id\") shows them.\n"))
  }

  @Test func whatARunWouldRefuseIsRefused() async throws {
    let owner = try await planeWithAgents()
    let plane = try await owner.limited("SELECT ON agents")
    try await owner.sql("ALTER TABLE agents ENABLE ROW LEVEL SECURITY")
    await #expect(throws: SweepRefusal.rowSecurity("public.agents")) { try await dryRun("agents-stale", on: plane) }
    try await owner.sql("ALTER TABLE agents RENAME TO others")
    await #expect(throws: SweepRefusal.noTable("agents")) { try await dryRun("agents-stale", on: plane) }
  }

  @Test func aLockedTableIsNotWaitedForForLong() async throws {
    let plane = try await planeWithAgents()
    let settings = try plane.settings()
    let holder = try await onLoop {
      try await PostgresConnection.connect(
        settings[.databaseURL], by: LoopClock.system.now.advanced(by: .seconds(5)), on: .system)
    }
    try await onLoop {
      // A statement that holds its lock until its session ends.
      let lock = "DO $$ BEGIN LOCK TABLE agents; PERFORM pg_sleep(60); END $$"
      async let held = holder.query(PostgresStatement(lock), by: LoopClock.system.now.advanced(by: .seconds(60)))
      try await eventually("the table is locked") {
        try plane.sqlAtOnce(
          "SELECT count(*) FROM pg_locks WHERE relation = 'agents'::regclass AND granted AND mode LIKE 'AccessEx%'"
        ).contains("1")
      }
      let start = ContinuousClock.now
      await #expect(throws: PostgresError.self) { try await self.dryRun("agents-stale", on: plane) }
      #expect(start.duration(to: .now) < .seconds(10))
      holder.close()
      _ = try? await held
    }
  }

  @Test func theProgramPrintsATableOrJSON() async throws {
    let plane = try await planeWithAgents()
    let environment = ["DATABASE_URL": plane.url, "REDIS_URL": "not read"]
    let text = try await WorkerProcess.start(["sweep", "agents-stale", "--dry-run"], environment: environment)
    #expect(try await text.waitForExit() == .exited(0), "\(text.everything)")
    let lines = text.output.split(separator: "\n")
    #expect(lines.count == 5 + 20 && lines[1] == "Nothing was changed. A run would update these rows of public.agents.")
    let json = try await WorkerProcess.start(
      ["sweep", "agents-stale", "--dry-run", "--json"], environment: environment)
    #expect(try await json.waitForExit() == .exited(0))
    let object = try #require(JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: [[String: Any]]])
    #expect(object["summary"]?.first?["due"] as? Int == 26 && object["first"]?.count == 20)
    let off = try await WorkerProcess.start(["sweep", "discover-scheduler", "--dry-run"], environment: environment)
    #expect(try await off.waitForExit() == .exited(1))
    #expect(off.log.first?["error"] == "SB_DISCOVER_TARGETS_JSON has no target")
  }

  @Test func theNamesAreThoseOfAllSweepers() {
    #expect(
      Sweepers.names == WorkerStage.sweepers + [
        "discover-scheduler", "discover-connections", "cross-team-fill-window-expired", "connections-stuck",
        "reveal-sessions-expired",
        "requests-expired", "queue-watch", "sessions-retention", "enrollment-tokens-retention",
        "reveal-sessions-retention", "jobs-retention", "secrets-missing-retention", "gitops-observations-retention",
      ])
  }
}
