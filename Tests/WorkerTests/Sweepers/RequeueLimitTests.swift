// SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS: a job that is stuck again and again is requeued so often, and then failed.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct RequeueLimitTests {
  private static func settings(_ count: Int) -> [String: String] {
    ["SB_WORKER_JOBS_RECOVERY_ACTION": "requeue", "SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "\(count)"]
  }

  private static func row(_ number: Int) -> String { String(format: "%032x", number) }

  // MARK: The counts

  @Test func aRowIsChangedSoOftenAndIsExhaustedAtTheNextChange() {
    var counts = AttemptCounts(limit: 2, nil)
    counts.changed("00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002,")
    counts.changed("00000000-0000-0000-0000-000000000001,")
    #expect(counts.exhaustedCount == 0 && counts.exhaustedRows == "{\(Self.row(1))}")
    var next = AttemptCounts(limit: 2, counts.text)
    #expect(next.counts == [Self.row(1): 2, Self.row(2): 1] && !next.isChanged)
    next.changed("00000000-0000-0000-0000-000000000001,")
    #expect(next.exhaustedCount == 1 && next.counts == [Self.row(2): 1] && next.isChanged)
    next.keep([])
    #expect(next.counts.isEmpty && next.text == "")
  }

  @Test func ofMoreRowsThanAreCountedThoseWithTheHighestCountsStay() {
    let rows = (0..<1_000).map(Self.row)
    let known = rows[500..<600].map { "\($0)=3" }.joined(separator: ",")
    var counts = AttemptCounts(limit: 5, known)
    counts.changed(rows.map { $0 + "," }.joined())
    #expect(counts.counts.count == AttemptCounts.rowLimit && counts.text.utf8.count < 10_000)
    #expect(rows[500..<600].allSatisfy { counts.counts[$0] == 4 })
  }

  @Test(arguments: [
    "", ",", "x", "=", String(repeating: "z", count: 32) + "=1", row(1), row(1) + "=", row(1) + "=0", row(1) + "=-1",
    row(1) + "=99999999999999999999", row(1) + "=1 OR true", "\u{FFFD}=1", row(1) + ":1",
  ])
  func aTextThatNoRunWroteCountsNothing(text: String) {
    #expect(AttemptCounts(limit: 1, text).counts.isEmpty)
    #expect(AttemptCounts(limit: 1, "\(text),\(Self.row(7))=2").counts[Self.row(7)] == 2)
  }

  @Test func theRecordKeepsThemBesideTheSlotsInWhichAllWasLocked() {
    var progress = SweepProgress("l2")
    progress.memory = .attempts("\(Self.row(1))=1")
    let again = SweepProgress(progress.text)
    #expect(again == progress && again.lockedSlots == 2 && again.pass == nil)
    #expect(SweepProgress("l0 1 2 3 4 5 6 7").attempts == nil)
  }

  /// With a brake's limit, too, and by whatever way the rows are found.
  @Test func everyChangeNotesWhichRowsItChanged() async throws {
    let servers = ["DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h"]
    let settings = try Settings.load(environment: servers.merging(Self.settings(1)) { $1 }).settings
    guard case .rows(let sweep) = Sweeper.jobsRecovery(settings).work else {
      Issue.record("jobs-recovery sweeps rows")
      return
    }
    try await onLoop {
      let table = TableStatements(
        sweep: sweep, table: "t", moments: MomentColumns(table: 1, names: "{}", types: ""), countsDue: true)
      let texts = [
        table.write, table.writeLimited, table.writePart, table.writeSkippingLocked, table.writeRows, table.writeWindow,
      ]
      for text in texts { #expect(text.contains("'sb.attempted'")) }
    }
  }

  // MARK: Jobs

  private static let status = "SELECT string_agg(status::text, ',' ORDER BY payload) FROM sync_jobs"

  /// What an agent does that takes every queued job, and dies.
  private static let claim = """
    UPDATE sync_jobs SET status = 'claimed', claim_expires_at = now() - interval '1 second' WHERE status = 'queued'
    """

  private static func insert(_ count: Int) -> String {
    """
    INSERT INTO sync_jobs (job_type, correlation_id, payload)
    SELECT 'sync', gen_random_uuid(), to_jsonb(n) FROM generate_series(1, \(count)) AS n
    """
  }

  private static let enumeration = """
    CREATE TYPE job_status AS ENUM ('queued', 'claimed', 'succeeded', 'failed', 'expired');
    DROP INDEX sync_jobs_queued;
    ALTER TABLE sync_jobs DROP CONSTRAINT sync_jobs_status_check, ALTER status DROP DEFAULT,
      ALTER status TYPE job_status USING status::job_status, ALTER status SET DEFAULT 'queued'
    """

  /// By pages, and by keys for a role that may not read whole rows; with statuses as texts and as an enumeration.
  @Test(arguments: [
    (DevelopmentSchema.eleven, "", "SELECT"), (.twentyEight, "", "SELECT"), (.thirtyEight, "", "SELECT"),
    (
      .thirtyEight,
      "SELECT (id, status, claim_expires_at), UPDATE (status, claimed_by, claim_expires_at) ON sync_jobs", "SELECT"
    ),
    (.thirtyEight, "", enumeration),
  ])
  func aJobIsRequeuedSoOftenAndThenFailed(migration: DevelopmentSchema, rights: String, change: String) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(change)
    try await plane.sql(Self.insert(2))
    let swept = rights.isEmpty ? plane : try await plane.limited(rights)
    let sweeper = Sweeper.jobsRecovery(try plane.settings(Self.settings(2)))
    var progress: String?
    for _ in 1...2 {
      try await plane.sql(Self.claim)
      let count = try await onLoop { [progress] in try await swept.sweep(sweeper, progress: progress) }
      #expect(count.changed == 2 && count.exhausted == 0)
      #expect(try await plane.sql(Self.status) == "queued,queued")
      progress = count.progress
    }
    // The second job's agent lives.
    try await plane.sql(Self.claim + ";UPDATE sync_jobs SET status = 'succeeded' WHERE payload = '2'")
    let count = try await onLoop { [progress] in try await swept.sweep(sweeper, progress: progress) }
    #expect(count.changed == 1 && count.exhausted == 1 && count.kept == 0)
    #expect(try await plane.sql(Self.status) == "failed,succeeded")
    // Neither comes back.
    #expect(count.progress == "l0 r")
  }

  @Test func aJobThatWasLockedIsCountedWhenItIsRequeued() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("\(Self.insert(3)); \(Self.claim)")
    let sweeper = Sweeper.jobsRecovery(try plane.settings(Self.settings(1)))
    try await onLoop {
      var progress: String?
      try await SweepRaceTests.transaction(plane, "SELECT FROM sync_jobs WHERE payload = '2' FOR UPDATE") { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 2 && count.skipped == 1)
        progress = count.progress
        try await commit()
      }
      try await plane.sql(Self.claim)
      let count = try await plane.sweep(sweeper, progress: progress)
      #expect(count.changed == 3 && count.exhausted == 2)
      #expect(try await plane.sql(Self.status) == "failed,queued,failed")
    }
  }

  /// Far more are stuck at once than are counted; the repeatedly stuck one is still failed.
  @Test func amongThousandsOfStuckJobsTheOneThatCirculatesIsFailed() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = Sweeper.jobsRecovery(try plane.settings(Self.settings(3)))
    try await plane.sql("\(Self.insert(1)); \(Self.claim)")
    var progress = try await onLoop { try await plane.sweep(sweeper) }.progress
    try await plane.sql(Self.insert(1_000))
    for round in 2...4 {
      try await plane.sql(Self.claim)
      let count = try await onLoop { [progress] in try await plane.sweep(sweeper, progress: progress) }
      #expect(count.changed == 1_001)
      #expect(count.exhausted == (round == 4 ? 1 : 0))
      progress = count.progress
      #expect((progress ?? "").utf8.count < 10_000)
    }
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'failed'") == "1")
  }

  @Test func aRunThatFailsLeavesTheCountsOfWhatItChanged() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("\(Self.insert(2)); \(Self.claim)")
    try await plane.sql("ALTER TABLE sync_jobs ADD CHECK (payload <> '2' OR status <> 'queued') NOT VALID")
    let sweeper = Sweeper.jobsRecovery(try plane.settings(Self.settings(1)))
    let progress = try await onLoop {
      let tally = RunTally()
      await #expect(throws: SweepRefusal.rows(1, [.sqlState("23514")])) {
        try await plane.sweep(sweeper, noting: tally)
      }
      return tally.count.progress
    }
    #expect(progress?.utf8.count == "l0 r".utf8.count + 34)
  }

  // MARK: The setting

  @Test(arguments: [
    (["SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "3"], "needs SB_WORKER_JOBS_RECOVERY_ACTION=requeue"),
    (
      ["SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "3", "SB_WORKER_JOBS_RECOVERY_ACTION": "expire"],
      "needs SB_WORKER_JOBS_RECOVERY_ACTION=requeue"
    ),
    (settings(0), "must be a whole number from 1 to 1000, or off"),
    (settings(1_001), "must be a whole number from 1 to 1000, or off"),
  ])
  func itIsRefusedWhereItWouldDoNothing(given: [String: String], rule: String) throws {
    let environment = given.merging(["DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h"]) { $1 }
    let faults = #expect(throws: ConfigurationFaults.self) { try Settings.load(environment: environment) }
    #expect(faults?.faults.map(\.variable) == ["SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS"])
    #expect(faults?.faults.first?.rule == rule)
  }

  @Test func offIsAcceptedWithAnyAction() throws {
    let plane = ControlPlane(url: "postgres://u@h/d", name: "d")
    #expect(try plane.settings(["SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "off"])[.jobsRecoveryMaxAttempts] == nil)
  }

  // MARK: A fleet

  private static let record = "secrets-bridge:schedule:{\(WorkerStage.lockKey("jobs-recovery"))}"

  @EventLoop
  private func eventually(_ status: String, on stage: WorkerStage, counts: String) async throws {
    try await TestSupport.eventually("the jobs are \(status), counted \(counts)", within: .seconds(20)) {
      let progress = try stage.redis.cli("HGET", Self.record, "progress")
      let counted = progress.split(separator: "=").dropFirst().map { $0.prefix { $0 != "," } }.joined(separator: ",")
      return try await stage.plane.sql(Self.status) == status && counted == counts
    }
  }

  @Test func aKilledReplicaLosesNoCountThatItReported() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    var settings = Self.settings(2).merging(["SB_WORKER_JOBS_RECOVERY_INTERVAL": "500ms"]) { $1 }
    for name in ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE"] {
      settings["SB_WORKER_\(name)_INTERVAL"] = "off"
    }
    try await stage.plane.sql("\(Self.insert(2)); \(Self.claim)")
    let first = try await stage.start(settings)
    try await onLoop { try await eventually("queued,queued", on: stage, counts: "1,1") }
    first.signal(SIGKILL)
    try await first.waitForExit()
    let second = try await stage.start(settings)
    // One job's agent lives this time.
    try await stage.plane.sql(Self.claim + ";UPDATE sync_jobs SET status = 'succeeded' WHERE payload = '2'")
    try await onLoop { try await eventually("queued,succeeded", on: stage, counts: "2") }
    second.signal(SIGKILL)
    try await second.waitForExit()
    let third = try await stage.start(settings)
    try await stage.plane.sql(Self.claim)
    try await onLoop { try await eventually("failed,succeeded", on: stage, counts: "") }
    #expect(try await third.stop() == .exited(0))
    let reported = third.log.filter { $0.message == "notification" && $0["component"] == "jobs-recovery" }
    #expect(reported.map { $0["title"] } == ["stuck jobs failed (requeued too often)"])
    #expect(reported.first?["detail"] == "requeued 2 times, and the claim's expiry has passed again")
    #expect(reported.first?.fields?["failed"] as? Int == 1)
  }
}
