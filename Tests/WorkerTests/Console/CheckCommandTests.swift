// What the verb check finds on real servers, and that what it says to run mends it.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct CheckCommandTests {
  /// The rights of a role that the sweepers need, and no others.
  private static let rights = [
    "SELECT, DELETE ON secret_wraps", "SELECT, UPDATE (status) ON secrets", "SELECT, UPDATE (status) ON agents",
    "SELECT, UPDATE (status) ON sync_jobs", "SELECT, UPDATE (status) ON access_requests",
    """
    SELECT, UPDATE (last_discover_status, last_discover_error, last_discover_started_at, last_discover_finished_at)
      ON provider_connections
    """, "INSERT ON sync_jobs",
    "SELECT, UPDATE (expired_at, expired_reason) ON reveal_sessions", "UPDATE (expires_at) ON secret_wraps",
  ]

  private func check(
    _ database: String, redis: String? = nil, _ more: [String: String] = [:], sends: Bool = false
  ) async throws -> CheckReport {
    let environment = ["DATABASE_URL": database, "REDIS_URL": redis ?? PrivateRedis.shared.url].merging(more) { $1 }
    return try await onLoop {
      await DeploymentCheck(
        context: CommandContext(
          readEnvironment: { environment }, clock: .system, log: LogOutput.standardError(.system), isTerminal: false),
        sends: sends
      ).report()
    }
  }

  private func limited(_ rights: [String] = rights, query: String = "") async throws -> ControlPlane {
    try await ControlPlane.fresh().limited(rights, query: query)
  }

  /// The texts of one verdict, each with its remedy.
  private func found(_ verdict: CheckFinding.Verdict, in report: CheckReport) -> [String] {
    report.sections.flatMap(\.findings).filter { $0.verdict == verdict }.map {
      $0.text + ($0.remedy.map { " RUN \($0)" } ?? "")
    }
  }

  /// Expects this finding and no other fault or warning.
  private func expectOnly(_ verdict: CheckFinding.Verdict, _ text: String, in report: CheckReport) {
    let all = found(.fault, in: report) + found(.warning, in: report)
    #expect(found(verdict, in: report) == all && all.count == 1, "\(report.text(as: .text, isColoured: false))")
    #expect(all.first?.contains(text) == true, "\(all)")
    #expect(report.exitStatus == (verdict == .fault ? 1 : 2))
  }

  @Test func aSetupThatIsWellHasNeitherFaultsNorWarningsAndNothingIsWritten() async throws {
    let plane = try await limited()
    let redis = try PrivateRedis()
    let report = try await check(plane.url, redis: redis.url)
    #expect(report.exitStatus == 0, "\(report.text(as: .text, isColoured: false))")
    #expect(
      report.sections.map(\.name) == [
        "settings", "PostgreSQL", "wraps-expired", "secrets-stale", "agents-stale", "jobs-recovery",
        "discover-connections", "cross-team-fill-window-expired", "connections-stuck", "reveal-sessions-expired",
        "Redis", "clocks", "sinks",
      ])
    #expect(try redis.cli("DBSIZE").contains("0"))
    let process = try await WorkerProcess.start(
      ["check"], environment: ["DATABASE_URL": plane.url, "REDIS_URL": redis.url])
    #expect(try await process.waitForExit() == .exited(0))
    #expect(process.output.hasSuffix("0 faults, 0 warnings\n") && process.log.isEmpty)
  }

  // MARK: Tables

  @Test func whatItSaysToGrantIsWhatIsMissing() async throws {
    let plane = try await limited([
      "SELECT (expires_at) ON secret_wraps", "SELECT (status, last_seen_at), UPDATE (status) ON secrets, agents",
    ])
    let targets = #"[{"name": "a", "cluster": "b", "provider_type": "c"}]"#
    let before = try await check(plane.url, ["SB_DISCOVER_TARGETS_JSON": targets])
    let faults = found(.fault, in: before)
    let role = "\"\(plane.user)\""
    #expect(
      faults.first == "the role lacks SELECT (consumed_at), DELETE on public.secret_wraps RUN "
        + #"GRANT SELECT ("consumed_at"), DELETE ON "public"."secret_wraps" TO \#(role);"#)
    #expect(faults.count == 9 && before.exitStatus == 1, "\(faults)")
    for finding in before.sections.flatMap(\.findings) { if let run = finding.remedy { try await plane.sql(run) } }
    let after = try await check(plane.url, ["SB_DISCOVER_TARGETS_JSON": targets])
    #expect(after.exitStatus == 0, "\(after.text(as: .text, isColoured: false))")
    let settings = try plane.settings(["SB_DISCOVER_TARGETS_JSON": targets])
    try await onLoop {
      for sweeper in Sweepers.all(settings) { _ = try await plane.sweep(sweeper) }
    }
  }

  @Test func aMissingTableSchemaOrColumnIsNamed() async throws {
    let plane = try await limited()
    try await plane.sql("ALTER TABLE agents DROP COLUMN last_seen_at")
    expectOnly(.fault, "public.agents has no column last_seen_at", in: try await check(plane.url))
    try await plane.sql(
      "ALTER TABLE agents ADD last_seen_at timestamptz; CREATE SCHEMA hidden; ALTER TABLE agents SET SCHEMA hidden")
    let hidden = try await check(plane.url)
    #expect(
      found(.fault, in: hidden).contains { $0.hasSuffix("RUN GRANT USAGE ON SCHEMA \"hidden\" TO \"\(plane.user)\";") },
      "\(found(.fault, in: hidden))")
    try await plane.sql("GRANT USAGE ON SCHEMA hidden TO \(plane.user)")
    let elsewhere = try await check(plane.url)
    #expect(found(.fault, in: elsewhere).first?.contains("SET search_path = \"hidden\";") == true)
  }

  @Test func rowSecurityAndTriggersAreNamed() async throws {
    let plane = try await limited()
    try await plane.sql("ALTER TABLE secrets ENABLE ROW LEVEL SECURITY")
    let report = try await check(plane.url)
    expectOnly(.fault, "row security is in force for this role on public.secrets", in: report)
    try await plane.sql(#"ALTER ROLE "\#(plane.user)" BYPASSRLS"#)
    try await plane.sql(
      """
      CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER keeper BEFORE DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION keep()
      """)
    expectOnly(
      .warning, "trigger keeper on public.secret_wraps runs before each change", in: try await check(plane.url))
  }

  @Test func aRuleIsNamed() async throws {
    let plane = try await limited()
    try await plane.sql("CREATE RULE keeper AS ON UPDATE TO secrets DO ALSO NOTHING")
    expectOnly(.warning, "rule keeper on public.secrets may rewrite", in: try await check(plane.url))
  }

  @Test func aSessionThatLocksATableIsNamedAndTheOtherTablesAreChecked() async throws {
    let plane = try await limited()
    let holder = Task.detached { try await plane.owner("BEGIN; LOCK TABLE agents; SELECT pg_sleep(60)") }
    defer { holder.cancel() }
    try await onLoop {
      try await eventually("the table is locked") {
        try plane.holderOfAgents() != nil
      }
    }
    let process = try #require(try plane.holderOfAgents())
    let blind = try await check(plane.url)
    #expect(
      found(.warning, in: blind) == [
        "session \(process) of user postgres holds AccessExclusiveLock on agents; the role may not see for how long "
          + "RUN GRANT pg_read_all_stats TO \"\(plane.user)\";"
      ])
    #expect(found(.fault, in: blind).count == 1 && found(.fault, in: blind)[0].hasPrefix("agents: "))
    try await plane.sql("GRANT pg_read_all_stats TO \(plane.user)")
    let report = try await check(plane.url)
    let warning = try #require(found(.warning, in: report).first)
    #expect(warning.contains("holds AccessExclusiveLock on agents in a transaction that began"))
    #expect(warning.hasSuffix("RUN SELECT pg_terminate_backend(\(process));"))
    #expect(report.sections.first { $0.name == "secrets-stale" }?.findings.allSatisfy { $0.verdict == .ok } == true)
    try await plane.sql("SELECT pg_terminate_backend(\(process))")
    await #expect(throws: (any Error).self) { try await holder.value }
    #expect(try await check(plane.url).exitStatus == 0)
  }

  @Test func aTransactionThatHoldsRowsForLongIsNamedWhereTheRoleMaySeeIt() async throws {
    let plane = try await limited()
    let holder = Task.detached { try await plane.owner("BEGIN; UPDATE agents SET scope = scope; SELECT pg_sleep(60)") }
    defer { holder.cancel() }
    let settings = try plane.settings()
    let find = { @EventLoop (age: Duration) in
      let connection = try await PostgresConnection.connect(
        settings[.databaseURL], by: LoopClock.system.now.advanced(by: .seconds(5)), on: .system)
      defer { connection.close() }
      let agents = try #require(Sweepers.all(settings).first { $0.name == "agents-stale" })
      let check = TableCheck(
        needs: SweepNeeds(agents.work), role: plane.user, database: plane.name, allowsRowSecurity: false,
        longTransaction: age)
      let session = ReadOnlySession(
        connection: connection, clock: .system, deadline: LoopClock.system.now.advanced(by: .seconds(5)),
        answerLimit: .seconds(5))
      return try await check.findings(in: session).filter { $0.text.hasPrefix("session ") }
    }
    try await onLoop {
      try await eventually("rows are held") { try await find(.zero).count == 1 }
      let blind = try #require(try await find(.seconds(30)).first)
      #expect(
        blind.verdict == .ok && blind.text.hasSuffix("RowExclusiveLock on agents; the role may not see for how long"))
      try plane.sqlAsOwner("GRANT pg_read_all_stats TO \(plane.user)")
      #expect(try await find(.seconds(30)) == [])
      let seen = try #require(try await find(.zero).first)
      #expect(seen.verdict == .warning && seen.remedy?.hasPrefix("SELECT pg_terminate_backend(") == true)
      try plane.sqlAsOwner(try #require(seen.remedy))
    }
    await #expect(throws: (any Error).self) { try await holder.value }
  }

  @Test func aLargeTableWithoutItsIndexIsAWarning() async throws {
    let plane = try await limited()
    try await plane.sql(
      """
      DROP INDEX IF EXISTS agents_last_seen_at_idx;
      INSERT INTO agents (name, secret_hash, last_seen_at, scope)
        SELECT i::text, repeat('x', 500)::bytea, now(), '{}' FROM generate_series(1, 20000) AS i;
      DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'agents'::regclass
          AND pg_get_indexdef(indexrelid) LIKE '%last_seen_at%' LOOP EXECUTE 'DROP INDEX ' || name; END LOOP; END $$
      """)
    expectOnly(.warning, "no index on last_seen_at", in: try await check(plane.url))
  }

  // MARK: PostgreSQL

  @Test func aTimeoutOfTheRoleIsAWarningWithItsReset() async throws {
    let plane = try await limited()
    try await plane.sql("ALTER ROLE \(plane.user) SET statement_timeout = '300ms'")
    let remedy = #"RUN ALTER ROLE "\#(plane.user)" RESET statement_timeout;"#
    let report = try await check(plane.url)
    expectOnly(.warning, remedy, in: report)
    #expect(found(.warning, in: report).first?.hasPrefix("statement_timeout is 300 ms, set for role") == true)
    try await plane.sql(#"ALTER ROLE "\#(plane.user)" RESET statement_timeout"#)
    #expect(try await check(plane.url + "?statement_timeout=200").exitStatus == 2)
  }

  @Test func aPoolerIsNamed() async throws {
    let plane = try await limited()
    let server = try await PrivatePostgres.shared
    let pooler = try await PrivatePgBouncer.start(to: server, mode: .transaction, users: [plane.user])
    let report = try await check(pooler.url(user: plane.user, database: plane.name))
    #expect(found(.ok, in: report).contains { $0.hasPrefix("connected through a pooler") })
    #expect(report.exitStatus == 0, "\(report.text(as: .text, isColoured: false))")
    await pooler.stop()
  }

  @Test func aRoleThatMayNotSeeStandbysIsAWarningWhereSweepsWaitForThem() async throws {
    let plane = try await limited()
    let limit = ["SB_WORKER_MAX_REPLICATION_LAG": "10s"]
    let before = try await check(plane.url, limit)
    expectOnly(.warning, "the role may not see how far standbys are behind", in: before)
    for finding in before.sections.flatMap(\.findings) { if let run = finding.remedy { try await plane.sql(run) } }
    #expect(try await check(plane.url, limit).exitStatus == 0)
  }

  @Test func aStandbyIsAFaultUnlessAnotherHostIsThePrimary() async throws {
    let server = try await PrivatePostgres.start()
    _ = try await server.psql(try ControlPlane.schema(), database: "postgres")
    try await server.demote()
    expectOnly(.fault, "the server is a standby", in: try await check(server.url()))
    let primary = try await PrivatePostgres.start()
    _ = try await primary.psql(try ControlPlane.schema(), database: "postgres")
    let both = "postgresql://postgres@127.0.0.1:\(server.port),127.0.0.1:\(primary.port)/postgres"
    let report = try await check(both)
    #expect(report.exitStatus == 0, "\(report.text(as: .text, isColoured: false))")
    await primary.stop()
    await server.stop()
  }

  @Test(arguments: [
    (Endpoint.Certificate.expired, "certificate refused: certificate has expired: renew the server's certificate"),
    (.otherHost, "certificate refused: hostname mismatch: use a host name in the URL that the certificate bears"),
    (.good, "it expires in 1 day: renew it"),
  ])
  func aCertificateIsJudged(certificate: Endpoint.Certificate, text: String) async throws {
    let authority = try await TestAuthority.shared()
    let files = authority.files(of: certificate)
    if geteuid() == 0, let account = getpwnam("postgres") {
      chown(files.key, account.pointee.pw_uid, account.pointee.pw_gid)
    }
    let server = try await PrivatePostgres.start(settings: [
      "ssl=on", "ssl_cert_file=\(files.certificate)", "ssl_key_file=\(files.key)",
    ])
    _ = try await server.psql(try ControlPlane.schema(), database: "postgres")
    let verified = try await check(
      server.url(query: "sslmode=verify-full&sslrootcert=\(authority.certificateFile)"))
    #expect((found(.fault, in: verified) + found(.warning, in: verified)).contains { $0.contains(text) })
    // Not verified: all of it is said, and the tables are looked at.
    let unverified = try await check(server.url(query: "sslmode=require"))
    let said = found(.fault, in: unverified) + found(.warning, in: unverified)
    #expect(said.contains { $0.hasPrefix("the certificate is not verified") })
    #expect(said.contains { $0.hasPrefix("the certificate is not for the host") } == (certificate == .otherHost))
    #expect(said.contains { $0.contains("it expired") } == (certificate == .expired))
    #expect(unverified.sections.contains { $0.name == "agents-stale" && $0.findings.allSatisfy { $0.verdict == .ok } })
    await server.stop()
  }

  // MARK: Redis

  @Test(arguments: [true, false])
  func aRightThatIsMissingInRedisIsNamedWithItsACL(hasDryRun: Bool) async throws {
    let plane = try await limited()
    let redis = try PrivateRedis()
    let base = ["ACL", "SETUSER", "worker", "on", ">hunter2", "~secrets-bridge:lock:*", "~secrets-bridge:schedule:*"]
    try redis.cli(base + ["+@all", "-hset"] + (hasDryRun ? [] : ["-acl|dryrun"]))
    let url = "redis://worker:hunter2@127.0.0.1:\(redis.port)"
    let report = try await check(plane.url, redis: url)
    let faults = found(.fault, in: report)
    #expect(faults.contains("user worker may not run HSET RUN ACL SETUSER worker +hset"), "\(faults)")
    #expect(
      faults.contains(
        "user worker may not use keys secrets-bridge:history:* RUN ACL SETUSER worker ~secrets-bridge:history:*"))
    #expect(faults.count == 2 && !report.text(as: .json, isColoured: false).contains("hunter2"))
    #expect(try redis.cli("DBSIZE").contains("0"))
    for finding in report.sections.flatMap(\.findings) {
      if let run = finding.remedy { try redis.cli(run.split(separator: " ").map(String.init)) }
    }
    #expect(try await check(plane.url, redis: url).exitStatus == 0)
    // The worker finds the same: it is ready now.
    try await onLoop {
      let client = RedisClient(
        try RedisConfiguration(url: url), healthCheck: CoordinationScripts.healthCheck(namespace: "secrets-bridge"),
        clock: .system)
      await withTaskGroup { group in
        group.addTask { await client.run() }
        let limit = LoopClock.system.now.advanced(by: .seconds(5))
        await #expect(throws: Never.self) { try await client.waitUntilReady(by: limit) }
        group.cancelAll()
      }
    }
  }

  @Test func aReplicaAndAnEvictionPolicyAreFaults() async throws {
    let plane = try await limited()
    let redis = try PrivateRedis(settings: ["maxmemory 100mb", "maxmemory-policy allkeys-lru"])
    let evicting = try await check(plane.url, redis: redis.url)
    expectOnly(
      .fault, "maxmemory-policy is allkeys-lru: a full server may drop locks and records RUN CONFIG SET", in: evicting)
    let replica = try PrivateRedis(settings: ["replicaof 127.0.0.1 \(redis.port)"])
    expectOnly(.fault, "the server is a read-only replica", in: try await check(plane.url, redis: replica.url))
  }

  // MARK: All parts

  @Test func aServerThatHangsKeepsNoOtherPartFromBeingChecked() async throws {
    let redis = try PrivateRedis()
    let plane = try await limited()
    redis.pause()
    let start = ContinuousClock.now
    let report = try await check(plane.url, redis: redis.url, ["REDIS_DIAL_TIMEOUT": "1s"])
    redis.resume()
    #expect(ContinuousClock.now - start < .seconds(10))
    expectOnly(.fault, "timed out", in: report)
    let server = try await PrivatePostgres.start()
    server.pause()
    let frozen = try await check(server.url(), ["DATABASE_CONNECT_TIMEOUT": "1s"])
    server.resume()
    #expect(found(.fault, in: frozen).contains { $0.hasSuffix("timed out connecting") }, "\(found(.fault, in: frozen))")
    #expect(found(.ok, in: frozen).contains { $0.hasPrefix("user default has all rights") })
    await server.stop()
    let away = try await check("postgres://worker:hunter2@127.0.0.1:1/d", ["SB_WORKER_LEASE": "1h"])
    #expect(found(.fault, in: away).map { $0.prefix(15) }.contains("SB_WORKER_LEASE"))
    #expect(found(.fault, in: away).contains("postgresql://worker@127.0.0.1:1/d: connection refused"))
    #expect(found(.ok, in: away).contains { $0.hasPrefix("Redis 7") || $0.hasPrefix("Redis ") })
    #expect(!away.text(as: .text, isColoured: false).contains("hunter2"))
  }

  @Test func sinksAreTriedOnlyWhenAsked() async throws {
    let endpoint = try await Endpoint.start(.http)
    let plane = try await limited()
    let sink = ["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook")]
    #expect(try await check(plane.url, sink).exitStatus == 0)
    #expect(endpoint.received.isEmpty)
    #expect(try await check(plane.url, sink, sends: true).exitStatus == 0)
    #expect(endpoint.received.count == 1)
    try endpoint.behave("status 404")
    expectOnly(.fault, "webhook: rejected, status 404", in: try await check(plane.url, sink, sends: true))
  }

  @Test func theTextIsColouredOnlyWhenAsked() {
    let report = CheckReport(sections: [
      CheckSection(name: "Redis", findings: [.ok("a"), .warning("b"), .fault("c", run: "ACL SETUSER x +get")])
    ])
    #expect(
      report.text(as: .text, isColoured: false)
        == "Redis\n  ok       a\n  warning  b\n  fault    c\n           run: ACL SETUSER x +get\n1 fault, 1 warning\n")
    #expect(report.text(as: .text, isColoured: true).contains("  \u{1B}[31mfault\u{1B}[0m    c\n"))
    #expect(report.text(as: .json, isColoured: true).contains(#""run":"ACL SETUSER x +get"}]"#))
  }

  /// `script` runs the program on its own terminal.
  @Test(arguments: [[:], ["NO_COLOR": "1"], ["TERM": "dumb"]] as [[String: String]])
  func aTerminalSeesColourUnlessTheEnvironmentSaysNo(environment: [String: String]) async throws {
    let process = try await WorkerProcess.start(
      ["-qec", "'\(WorkerProcess.executable)' check", "/dev/null"],
      environment: ["TERM": "xterm", "SHELL": "/bin/sh"].merging(environment) { $1 }, executable: "/usr/bin/script")
    #expect(try await process.waitForExit() == .exited(1))
    #expect(process.output.contains("not checked: DATABASE_URL is missing or invalid"))
    #expect(process.output.contains("\u{1B}[31mfault") == environment.isEmpty, "\(process.output)")
  }

  // MARK: What is needed

  @Test func everyCommandOfTheScriptsIsAskedFor() async throws {
    let outage = try await onLoop { OutageClaim.script.source }
    let uses = RedisRights.uses
    for source in [
      CoordinationScripts.take.source, CoordinationScripts.renew.source, CoordinationScripts.release.source,
      CoordinationScripts.complete.source, outage,
    ] {
      for use in RedisRights.uses(in: source) {
        #expect(uses.contains { $0.command == use.command }, "\(use.command)")
        #expect(RedisRights.example(of: use.command, key: use.key.map { "\($0)" }) != nil, "\(use.command)")
      }
    }
    #expect(uses.contains(.init(command: "LPUSH", key: 3)) && uses.contains(.init(command: "TIME", key: nil)))
  }
}

extension ControlPlane {
  /// Runs SQL as the superuser in a separate session, and waits for its end.
  fileprivate func owner(_ text: String) async throws {
    try await PrivatePostgres.shared.psql(text, database: name)
  }

  /// The same from within the loop, which waits for it.
  fileprivate func sqlAsOwner(_ text: String) throws {
    let owner = url.replacingOccurrences(of: "\(user)@", with: "\(PrivatePostgres.user)@")
    _ = try PrivatePostgres.psqlAtOnce(text, through: owner)
  }

  /// The session that has locked the agents of this database; nil if there is none.
  fileprivate func holderOfAgents() throws -> String? {
    let text = try sqlAtOnce(
      """
      SELECT pid FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
       WHERE c.relname = 'agents' AND l.mode = 'AccessExclusiveLock' AND l.granted
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      """
    ).trimmingCharacters(in: .whitespacesAndNewlines)
    return text.isEmpty ? nil : text
  }
}
