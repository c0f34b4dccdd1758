// The verb grants: a role with these grants can run every sweeper, on every schema, and check finds nothing missing.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct GrantsCommandTests {
  /// Turns every sweeper on.
  private static let everything = [
    "SB_DISCOVER_TARGETS_JSON": #"[{"name": "a", "cluster": "b", "provider_type": "c"}]"#,
    "SB_WORKER_REQUESTS_EXPIRED_INTERVAL": "1m", "SB_WORKER_QUEUE_ALERT_AFTER": "1ms", "SB_WORKER_AUDIT_EVENTS": "true",
    "SB_WORKER_RETAIN_SESSIONS": "720h", "SB_WORKER_RETAIN_ENROLLMENT_TOKENS": "720h",
    "SB_WORKER_RETAIN_REVEAL_SESSIONS": "720h", "SB_WORKER_RETAIN_JOBS": "720h",
    "SB_WORKER_RETAIN_SECRETS_MISSING": "720h", "SB_WORKER_RETAIN_GITOPS_OBSERVATIONS": "720h",
  ]

  private func role(on plane: ControlPlane, _ settings: Settings) async throws -> ControlPlane {
    let limited = try await plane.limited("CONNECT ON DATABASE \(plane.name)")
    try await plane.sql(GrantScript(Sweepers.all(settings), role: limited.user).text)
    return limited
  }

  @Test func theFileInDeployIsWhatTheVerbPrintsForTheDefaults() throws {
    let settings = try #require(Settings.defaults(SettingRow.sweepers))
    let file = try Repository.text("deploy/least-privilege.sql")
    #expect(
      file == GrantScript(Sweepers.all(settings), role: "secrets_bridge_worker").text,
      "write it again: secrets-bridge-worker grants secrets_bridge_worker > deploy/least-privilege.sql")
  }

  @Test func nothingIsOffThatThisSuiteDoesNotTurnOn() throws {
    let plane = ControlPlane(url: "postgres://u@h/d", name: "d")
    #expect(Sweepers.absent(try plane.settings(Self.everything)).isEmpty)
  }

  @Test(arguments: DevelopmentSchema.allCases)
  func aRoleWithTheseGrantsRunsEverySweeperOnSampleRows(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(try migration.sampleRows)
    let settings = try plane.settings(Self.everything)
    let limited = try await role(on: plane, settings)
    for sweeper in Sweepers.all(settings) {
      let isThere = try await onLoop {
        let pool = try limited.pool(connections: 1)
        let look = SchemaCheck([sweeper], pool: pool, clock: .system)
        let missing = sweeper.requires.isEmpty ? nil : try await look.missing(for: sweeper.name, maximumAge: .zero)
        await pool.close()
        return missing == nil
      }
      #expect(isThere || migration != .newest, "\(sweeper.name)")
      guard isThere else { continue }
      let count = try await onLoop { try await limited.sweep(sweeper) }
      // At the oldest migrations some tables have no row that is due.
      let hasSome = count.changed > 0 || !count.waits.isEmpty
      #expect(hasSome || migration != .newest, "\(sweeper.name) found nothing to do")
      #expect(count.kept == 0 && count.refused == 0 && count.skipped == 0, "\(sweeper.name)")
    }
  }

  /// Retention deletes from each part of a table by itself.
  @Test func aRoleWithTheseGrantsDeletesFromEachPartOfATable() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      CREATE TABLE jobs_of_old () INHERITS (sync_jobs); CREATE TABLE jobs_of_older () INHERITS (jobs_of_old);
      INSERT INTO jobs_of_older (job_type, status, correlation_id, updated_at)
        VALUES ('sync', 'failed', gen_random_uuid(), now() - interval '40 days')
      """)
    let settings = try plane.settings(Self.everything)
    let limited = try await role(on: plane, settings)
    let count = try await onLoop { try await limited.sweep(.jobsRetention(settings)) }
    #expect(count.changed == 1)
  }

  @Test func whatIsGrantedIsWhatCheckLooksForAndNoMore() async throws {
    let plane = try await ControlPlane.fresh()
    let settings = try plane.settings(Self.everything)
    let limited = try await role(on: plane, settings)
    let environment = Self.everything.merging(["DATABASE_URL": limited.url, "REDIS_URL": PrivateRedis.shared.url]) {
      $1
    }
    let report = try await onLoop {
      await DeploymentCheck(
        context: CommandContext(
          readEnvironment: { environment }, clock: .system, log: LogOutput.standardError(.system), isTerminal: false),
        sends: false
      ).report()
    }
    let faults = report.sections.flatMap(\.findings).filter { $0.verdict == .fault }
    #expect(faults.isEmpty, "\(faults.map(\.text))")
    // No privilege on a table that no sweeper uses, and no write privilege where it only reads.
    #expect(
      try await plane.sql(
        """
        SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
          AND (has_any_column_privilege('\(limited.user)', oid, 'INSERT')
            AND relname NOT IN ('sync_jobs', 'audit_events')
            OR has_table_privilege('\(limited.user)', oid, 'TRUNCATE')
            OR has_any_column_privilege('\(limited.user)', oid, 'SELECT')
            AND relname IN ('audit_events', 'argocd_endpoints'))
        """) == "0")
  }

  @Test func aMissingRightOnAnotherTableIsNamedByCheck() async throws {
    let plane = try await ControlPlane.fresh()
    let settings = try plane.settings(Self.everything)
    let limited = try await role(on: plane, settings)
    let names = ["reveal-sessions-expired", "requests-expired", "secrets-missing-retention"]
    let sweepers = Sweepers.all(settings).filter { names.contains($0.name) }
    try await plane.sql(
      "REVOKE INSERT (action) ON audit_events FROM \(limited.user); REVOKE ALL ON project_secrets FROM \(limited.user)")
    let texts = try await onLoop {
      let limit = LoopClock.system.now.advanced(by: .seconds(10))
      let connection = try await PostgresConnection.connect(
        try PostgresConfiguration(url: limited.url, applicationName: "test"), by: limit, on: .system)
      defer { connection.close() }
      let session = ReadOnlySession(
        connection: connection, clock: .system, deadline: limit, answerLimit: .seconds(5))
      var texts: [String] = []
      for sweeper in sweepers {
        let check = TableCheck(
          needs: SweepNeeds(sweeper.work), role: limited.user, database: plane.name, allowsRowSecurity: false)
        texts += try await check.findings(in: session).filter { $0.verdict == .fault }.map(\.text)
      }
      return texts
    }
    #expect(
      texts == [
        "the role lacks INSERT (action) on public.audit_events",
        "the role lacks INSERT (action) on public.audit_events",
        "the role lacks SELECT (secret_id) on public.project_secrets",
      ])
  }

  @Test func aRolesNameIsQuoted() throws {
    let settings = try #require(Settings.defaults(SettingRow.sweepers))
    let text = GrantScript(Sweepers.all(settings), role: #"o'ne "two""#).text
    #expect(text.contains(#"TO "o'ne ""two""";"#) && text.contains(#"'"o''ne ""two"""'"#))
  }
}
