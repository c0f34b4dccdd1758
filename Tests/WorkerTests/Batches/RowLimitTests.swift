// Runs with a row limit, on a real PostgreSQL, for each way of finding rows.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct RowLimitTests {
  private func limit(_ rows: Int) -> BrakeSettings {
    var settings = BrakeSettings()
    settings.maximumRows = rows
    return settings
  }

  /// Sweeps until nothing is left.
  ///
  /// - Returns: what each run changed.
  private func runs(
    _ plane: ControlPlane, _ sweeper: Sweeper, rows: Int, through user: ControlPlane? = nil
  ) async throws -> [Int] {
    let brakes = limit(rows)
    let user = user ?? plane
    return try await onLoop {
      var changes: [Int] = []
      var progress: String?
      while changes.count < 20 {
        let count = try await user.sweep(sweeper, progress: progress, brakes: brakes)
        progress = count.progress ?? progress
        changes.append(count.changed)
        // A run that ends by itself has not met its limit.
        #expect(count.isPartial ? count.changed >= rows : count.changed <= rows)
        if !count.isPartial { return changes }
      }
      return changes
    }
  }

  private static func fillAgents(_ plane: ControlPlane, _ count: Int) async throws {
    try await plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT n::text, '', now() - interval '1 hour' FROM generate_series(1, \(count)) AS n
      """)
  }

  @Test func rowsThatAnIndexFindsAreChangedInAsManyRunsAsTheLimitAsksFor() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.fillAgents(plane, 250)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    #expect(try await runs(plane, sweeper, rows: 100) == [100, 100, 50])
  }

  @Test func rowsOfPagesAreCountedOneByOne() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at)
      SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour' FROM generate_series(1, 2500)
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    #expect(try await runs(plane, sweeper, rows: 1_000) == [1_000, 1_000, 500])
  }

  @Test func consumedWrapsOfALargeTableAreReachedByTheRunsThatFollow() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(LargeTableTests.liveWraps);
      \(SweeperTests.wrap) SELECT 'consumed', '', '', '', 'k', '', 0, now() - interval '1 s', now(), 'someone'
        FROM generate_series(1, 250) AS n
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let changes = try await runs(plane, sweeper, rows: 100)
    #expect(changes.prefix(2) == [100, 100] && changes.reduce(0, +) == 250, "\(changes)")
  }

  @Test func partitionsAreLimitedTogether() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(PartitionedAgents.byName)
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT (n % 2)::text, '', now() - interval '6 minutes' FROM generate_series(1, 50) AS n
      """)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    // The same place in two partitions is two rows.
    let changes = try await runs(plane, sweeper, rows: 20)
    #expect(changes.reduce(0, +) == 50 && changes.allSatisfy { $0 <= 40 }, "\(changes)")
  }

  @Test func aRoleThatReadsOnlySomeColumnsIsLimitedToo() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT n::text, '', now() - interval '1 hour' - n * interval '1 s' FROM generate_series(1, 250) AS n
      """)
    let limited = try await plane.limited("SELECT (status, last_seen_at), UPDATE (status) ON agents")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    #expect(try await runs(plane, sweeper, rows: 100, through: limited) == [100, 100, 50])
  }

  @Test func rowsThatAreLockedBeforeTheyAreDeletedAreLimitedToo() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status) SELECT 'sync', gen_random_uuid(), 'failed'
        FROM generate_series(1, 250);
      ALTER TABLE sync_jobs DISABLE TRIGGER USER;
      UPDATE sync_jobs SET updated_at = now() - interval '9 days';
      ALTER TABLE sync_jobs ENABLE TRIGGER USER
      """)
    let settings = try plane.settings(["SB_WORKER_RETAIN_JOBS": "24h"])
    let sweeper = try #require(Sweepers.all(settings).first { $0.name == "jobs-retention" })
    #expect(try await runs(plane, sweeper, rows: 100) == [100, 100, 50])
  }

  /// A page has more rows than the lower limit.
  @Test(arguments: [10, 100]) func rowsThatATriggerKeepsDueAreCountedAsKept(limit: Int) async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at)
      SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour' FROM generate_series(1, 300);
      CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
      CREATE TRIGGER keep BEFORE UPDATE ON sync_jobs FOR EACH ROW EXECUTE FUNCTION keep()
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    let brakes = self.limit(limit)
    try await onLoop {
      let tally = RunTally()
      await #expect(throws: SweepRefusal.kept(300, table: "public.sync_jobs")) {
        try await plane.sweep(sweeper, noting: tally, brakes: brakes)
      }
      #expect(tally.count.changed == 0 && tally.count.skipped == 0 && tally.count.kept == 300)
    }
  }

  @Test func aRateSlowsARunDown() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.fillAgents(plane, 200)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    var brakes = BrakeSettings()
    brakes.pace = .rate(400)
    let settings = brakes
    try await onLoop {
      let begin = LoopClock.system.now
      let count = try await plane.sweep(sweeper, brakes: settings)
      #expect(count.changed == 200 && !count.isPartial)
      // 100 rows, a quarter of a second, and the others.
      #expect(begin.duration(to: LoopClock.system.now) >= .milliseconds(250))
    }
  }
}
