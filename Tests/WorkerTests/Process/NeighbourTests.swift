// Workers as processes beside others on one PostgreSQL: of another control plane, of another namespace, read-only.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite struct NeighbourTests {
  /// In slots that pass meanwhile nothing is taken, and nothing fails; the sweeps go on where they were.
  @Test func sweepsWaitWhileTheDatabaseIsReadOnlyAndAreNoFailures() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start()
    let database = stage.plane.name
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("wraps-expired", "success") > 1 }
      try await PrivatePostgres.shared.psql(
        """
        ALTER DATABASE \(database) SET default_transaction_read_only = on;
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '\(database)'
        """)
      try await eventually("it says why") {
        try await worker.get("/readyz").body.contains(#""postgres":"the database is read-only""#)
      }
      try await stage.plane.sql("SET default_transaction_read_only = off; SELECT 1")
      let (failures, swept) = (
        try await worker.runs("wraps-expired", "failure"), try await worker.runs("wraps-expired", "success")
      )
      // Four slots: enough for a run that would fail.
      let end = LoopClock.system.now.advanced(by: .seconds(2))
      try await eventually("slots pass") { LoopClock.system.now >= end }
      #expect(try await worker.runs("wraps-expired", "failure") == failures)
      #expect(try await worker.runs("wraps-expired", "success") == swept)
      #expect(try stage.locks().isEmpty)
      try await PrivatePostgres.shared.psql("ALTER DATABASE \(database) RESET default_transaction_read_only")
      try await eventually("it sweeps again") { try await worker.runs("wraps-expired", "success") > swept + 1 }
      #expect(try await worker.runs("wraps-expired", "failure") == failures)
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(
      worker.log.count { $0.message == "PostgreSQL is unavailable" && $0["error"] == "the database is read-only" } == 1)
  }

  @Test func runOnceAgainstAReadOnlyDatabaseFails() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await PrivatePostgres.shared.psql("ALTER DATABASE \(stage.plane.name) SET default_transaction_read_only = on")
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--force"], environment: stage.environment.merging(["LOG_LEVEL": "info"]) { $1 })
    #expect(try await worker.waitForExit() == .exited(1))
    #expect(worker.everything.contains("the database is read-only"))
  }

  /// By a typo, or with another Redis: both believe to be alone. Their runs never overlap, and who meets the other says
  /// so.
  @Test func twoWorkersOfDifferentNamespacesOnTheSameTablesNoticeEachOther() async throws {
    let stage = try await WorkerStage.set()
    let settings = ["SB_WORKER_AGENTS_STALE_INTERVAL": "100ms", "SB_WORKER_WRAPS_EXPIRED_INTERVAL": "100ms"]
    let first = try await stage.start(settings)
    let second = try await stage.start(settings.merging(["REDIS_NAMESPACE": "typo"]) { $1 })
    let text = "another worker sweeps these tables with another REDIS_NAMESPACE or Redis"
    // Both have rows to sweep in every slot, so that a run takes as long as it does in earnest.
    try await stage.plane.sql(
      """
      CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END $$;
      CREATE TRIGGER dawdle AFTER UPDATE ON agents FOR EACH STATEMENT EXECUTE FUNCTION dawdle()
      """)
    try await onLoop {
      try await eventually("one of them says so", within: .seconds(30)) {
        first.everything.contains(text) || second.everything.contains(text)
      }
    }
    #expect(try await first.stop() == .exited(0))
    #expect(try await second.stop() == .exited(0))
  }

  @Test func twoControlPlanesInOneDatabaseWithOneRoleDoNotDisturbEachOther() async throws {
    let stage = try await WorkerStage.set()
    let schema = try ControlPlane.schema()
    try await stage.plane.sql("CREATE SCHEMA second; SET search_path = second; \(schema)")
    // The second one's sweeps are slow.
    try await stage.plane.sql(
      """
      CREATE FUNCTION second.dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
      CREATE TRIGGER dawdle AFTER UPDATE ON second.agents FOR EACH STATEMENT EXECUTE FUNCTION second.dawdle()
      """)
    let url = try await stage.environment["DATABASE_URL"]!
    let first = try await stage.start()
    let second = try await stage.start(["DATABASE_URL": url + "?search_path=second", "REDIS_NAMESPACE": "second"])
    try await stage.plane.sql(
      """
      INSERT INTO public.agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day');
      INSERT INTO second.agents (name, secret_hash, last_seen_at) VALUES ('b', '', now() - interval '1 day')
      """)
    try await onLoop {
      for worker in [first, second] {
        try await eventually("it has swept", within: .seconds(20)) {
          try await worker.runs("agents-stale", "success") > 5
        }
        #expect(try await worker.runs("agents-stale", "failure") == 0)
      }
    }
    #expect(
      try await stage.plane.sql("SELECT status FROM public.agents UNION ALL SELECT status FROM second.agents")
        == "stale\nstale")
    for worker in [first, second] {
      #expect(try await worker.stop() == .exited(0))
      #expect(!worker.everything.contains("57P01") && !worker.everything.contains("ended the session"))
    }
  }
}
