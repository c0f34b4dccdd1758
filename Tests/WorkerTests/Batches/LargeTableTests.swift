// Sweeps of large tables on a real PostgreSQL: which rows the index finds, which the pages, and what is left to the
// next full pass. Large is a matter of pages: a low fillfactor makes them of few rows.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct LargeTableTests {
  /// More pages than a table may have that is read whole every time.
  static let largePages = FullPass.smallTablePages + 500

  /// One live wrap on each of so many pages, which has no room for another one then.
  static let liveWraps = """
    ALTER TABLE secret_wraps SET (fillfactor = 10);
    \(SweeperTests.wrap) SELECT 'live', repeat('x', 700)::bytea, '', '', 'k', '', 0, now() + interval '1 hour', NULL,
      NULL FROM generate_series(1, \(largePages))
    """

  /// Live wraps, and then some that have expired: consumed and not.
  private func fillWraps(_ plane: ControlPlane, consumed: Int, unconsumed: Int) async throws {
    try await plane.sql(
      """
      \(Self.liveWraps)
      """)
    try await expire(plane, consumed: consumed, unconsumed: unconsumed)
  }

  private func expire(_ plane: ControlPlane, consumed: Int, unconsumed: Int) async throws {
    try await plane.sql(
      """
      \(SweeperTests.wrap) SELECT 'consumed', '', '', '', 'k', '', 0, now() - n * interval '1 s', now(), 'someone'
        FROM generate_series(1, \(consumed)) AS n;
      \(SweeperTests.wrap) SELECT 'unconsumed', '', '', '', 'k', '', 0, now() - n * interval '1 s', NULL, NULL
        FROM generate_series(1, \(unconsumed)) AS n
      """)
  }

  private func left(_ plane: ControlPlane) async throws -> String {
    try await plane.sql(
      """
      SELECT count(*) FILTER (WHERE key_name = 'consumed'), count(*) FILTER (WHERE key_name = 'unconsumed'),
        count(*) FILTER (WHERE key_name = 'live') FROM secret_wraps
      """)
  }

  @Test func consumedWrapsOfALargeTableWaitForTheFullPassAndUnconsumedOnesDoNot() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillWraps(plane, consumed: 3, unconsumed: 5)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let impatient = Sweeper.wrapsExpired(try plane.settings(["SB_WORKER_WRAPS_FULL_SWEEP": "1m"]))
    try await onLoop {
      // Nothing is known: a pass is made at once.
      let first = try await plane.sweep(sweeper)
      #expect(first.changed == 8)
      #expect(first.progress != nil)
      try await self.expire(plane, consumed: 3, unconsumed: 5)
      let second = try await plane.sweep(sweeper, progress: first.progress)
      #expect(second.changed == 5)
      #expect(try await self.left(plane) == "3|0|\(Self.largePages)")
      // A minute's promise leaves no slot out.
      let third = try await plane.sweep(impatient, progress: second.progress ?? first.progress)
      #expect(third.changed == 3)
      #expect(try await self.left(plane) == "0|0|\(Self.largePages)")
    }
  }

  @Test func aTableThatWasRewrittenSinceIsReadWholeAtOnce() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillWraps(plane, consumed: 0, unconsumed: 0)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let first = try await plane.sweep(sweeper)
      try await self.expire(plane, consumed: 2, unconsumed: 0)
      try await plane.sql("VACUUM FULL secret_wraps")
      let second = try await plane.sweep(sweeper, progress: first.progress)
      #expect(second.changed == 2)
    }
  }

  /// A server that loses what it had not flushed must not be told to have been read: what an early end leaves as
  /// progress is what the disk has.
  @Test func aRunThatEndsEarlyLeavesItsPlaceAndTheNextOneGoesOnThere() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillWraps(plane, consumed: 0, unconsumed: 0)
    try await plane.sql(
      """
      CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
          IF OLD.key_name = 'poison' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
          RETURN OLD;
        END $$;
      CREATE TRIGGER end_session BEFORE DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION end_session();
      \(SweeperTests.wrap) VALUES ('poison', '', '', '', 'k', '', 0, now() - interval '1 s', now(), 'someone')
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let tally = RunTally()
      _ = await #expect(throws: PostgresError.self) { try await plane.sweep(sweeper, noting: tally) }
      let place = try #require(Self.pass(tally.count.progress))
      #expect(place.began > 0 && place.endedPassBegan == 0)
      try await plane.sql("DROP TRIGGER end_session ON secret_wraps")
      let next = try await plane.sweep(sweeper, progress: tally.count.progress)
      #expect(next.changed == 1)
      let ended = try #require(Self.pass(next.progress))
      #expect(ended.endedPassBegan == place.began && ended.began == 0)
    }
  }

  /// Foreign parts have no pages, so that the other parts are swept one by one: each has a full pass of its own.
  @Test func eachPartBesideAForeignOneHasItsOwnFullPass() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      ALTER TABLE secret_wraps RENAME TO old_wraps;
      CREATE TABLE secret_wraps (LIKE old_wraps INCLUDING DEFAULTS) PARTITION BY LIST (key_name);
      CREATE TABLE live_wraps PARTITION OF secret_wraps FOR VALUES IN ('live') WITH (fillfactor = 10);
      CREATE TABLE other_wraps PARTITION OF secret_wraps FOR VALUES IN ('consumed', 'unconsumed', 'other')
        WITH (fillfactor = 10);
      CREATE INDEX ON secret_wraps (expires_at) WHERE consumed_at IS NULL;
      CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
      CREATE FOREIGN TABLE wraps_archive PARTITION OF secret_wraps FOR VALUES IN ('archive')
        SERVER files OPTIONS (filename '/dev/null');
      \(SweeperTests.wrap) SELECT CASE WHEN n > \(Self.largePages) THEN 'other' ELSE 'live' END,
        repeat('x', 700)::bytea, '', '', 'k', '', 0, now() + interval '1 hour', NULL, NULL
        FROM generate_series(1, \(Self.largePages + 200)) AS n
      """)
    try await expire(plane, consumed: 3, unconsumed: 5)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let memory = TableMemory()
    try await onLoop {
      let pool = try plane.pool()
      for expected in ["0|0", "3|0"] {
        let refusal = await #expect(throws: SweepRefusal.self) {
          try await plane.sweep(sweeper, through: pool, knowing: memory)
        }
        #expect(refusal == .foreignParts("public.wraps_archive"))
        #expect(memory.passes.count == 2)
        let left = try await self.left(plane)
        #expect(left == "\(expected)|\(Self.largePages)")
        // The next pass is not due yet.
        try await self.expire(plane, consumed: 3, unconsumed: 5)
      }
      await pool.close()
    }
  }

  /// More due rows than the index is good for, on pages before and after each other.
  @Test func manyExpiredWrapsAreSweptByPagesInOneRun() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillWraps(plane, consumed: 4_000, unconsumed: 4_000)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let recent = FullPass.Record(file: try await self.file(plane), endedPassBegan: try await self.now(plane) - 1_000)
      let count = try await plane.sweep(sweeper, progress: recent.text)
      #expect(count.changed == 8_000)
      #expect(try await self.left(plane) == "0|0|\(Self.largePages)")
    }
  }

  private static func pass(_ progress: String?) -> FullPass.Record? {
    SweepProgress(progress).pass.flatMap { FullPass.Record($0) }
  }

  private func file(_ plane: ControlPlane) async throws -> Int {
    Int(try await plane.sql("SELECT pg_relation_filenode('secret_wraps')")) ?? 0
  }

  private func now(_ plane: ControlPlane) async throws -> Int64 {
    Int64(try await plane.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")) ?? 0
  }

  /// Among thousands that are stale for long, one that has just fallen silent, one in their midst, and the oldest.
  @Test func dueAgentsAmongManyThatAreStaleForLongAreFound() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO agents (name, status, secret_hash, last_seen_at)
      SELECT 'a' || n, CASE WHEN n IN (1, 2500, 5000) THEN 'active' ELSE 'stale' END, '',
        now() - interval '1 hour' - n * interval '1 s' FROM generate_series(1, 5000) AS n;
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT 'alive' || n, '', now() FROM generate_series(1, 5000) AS n
      """)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      let first = try await plane.sweep(sweeper)
      #expect(first.changed == 3)
      #expect(try await plane.sweep(sweeper).changed == 0)
      #expect(try await plane.sql("SELECT count(*) FROM agents WHERE status = 'active'") == "5000")
    }
  }

  @Test(arguments: [1, 999, 1_000, 1_001, 2_500])
  func everyDueSecretIsFoundHoweverManyThereAre(due: Int) async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO secrets (cluster_name, provider_type, secret_ref, last_seen_at)
      SELECT 'c', 'vault', n::text, now() - CASE WHEN n <= \(due) THEN interval '2 days' ELSE interval '0' END
        FROM generate_series(1, 5000) AS n
      """)
    let sweeper = Sweeper.secretsStale(try plane.settings())
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.changed == due)
    #expect(try await plane.sql("SELECT count(*) FROM secrets WHERE status = 'missing'") == "\(due)")
  }

  /// Jobs have no index that leads to due ones: past the first pages a look at the whole table says where they begin.
  @Test func aDueJobAtTheEndOfALargeTableIsFoundAndSoIsThatThereIsNone() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      ALTER TABLE sync_jobs SET (fillfactor = 10);
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
      SELECT 'sync', gen_random_uuid(), 'claimed', now() + interval '1 hour', to_jsonb(repeat('x', 500))
        FROM generate_series(1, 1300) AS n
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      #expect(try await plane.sweep(sweeper).changed == 0)
      try await plane.sql(
        "UPDATE sync_jobs SET claim_expires_at = now() WHERE ctid = (SELECT max(ctid) FROM sync_jobs)")
      #expect(try await plane.sweep(sweeper).changed == 1)
      #expect(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'claimed'") == "1299")
    }
  }

  /// Starting a parallel worker takes longer than a batch. Only the look at a whole table may have one.
  @Test func batchesStartNoParallelWorkersHoweverCheapTheyAreSaidToBe() async throws {
    let server = try await PrivatePostgres.start(settings: ["log_min_messages=debug1"])
    let database = try await server.freshDatabase()
    let plane = ControlPlane(url: database, name: "fresh_1")
    _ = try await server.psql(try ControlPlane.schema(), through: database)
    _ = try await server.psql(
      """
      DO $$ DECLARE setting text; BEGIN
        FOR setting IN SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') LOOP
          EXECUTE format('ALTER DATABASE fresh_1 SET %I = on', setting);
        END LOOP;
      END $$;
      ALTER TABLE sync_jobs SET (fillfactor = 10);
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
      SELECT 'sync', gen_random_uuid(), 'claimed',
        now() + CASE WHEN n % 2 = 0 OR n > 1300 THEN interval '-1 hour' ELSE interval '1 hour' END,
        to_jsonb(repeat('x', 500)) FROM generate_series(1, 2000) AS n
      """, through: database)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    let changed = try await onLoop { try await plane.sweep(sweeper).changed }
    #expect(changed == 1_350)
    let started = try server.log().split(separator: "\n").filter { $0.contains("starting background worker") }
      .filter { $0.contains("parallel worker") }
    #expect(started.count <= 3, "\(started.count) parallel workers for one run")
    await server.stop()
  }

  /// So many on each page that ranges are written in parts: one row that stays locked costs one row.
  @Test func ofPagesFullOfExpiredWrapsTheLockedOneIsLeft() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(SweeperTests.wrap) SELECT 'k' || n, '', '', '', 'k', '', 0, now() - interval '1 s', now(), 'someone'
        FROM generate_series(1, 40000) AS n;
      \(SweeperTests.wrap) SELECT 'live', '', '', '', 'k', '', 0, now() + interval '1 hour', NULL, NULL
        FROM generate_series(1, 1000) AS n
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let lock = "SELECT FROM secret_wraps WHERE key_name = 'k35000' FOR UPDATE"
      try await SweepRaceTests.transaction(plane, lock) { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 39_999)
        #expect(count.skipped == 1)
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).changed == 1)
      #expect(try await self.left(plane) == "0|0|1000")
    }
  }
}
