// The five sweepers on customized databases: partitions, row security, few privileges, odd rows, triggers.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SweepSurroundingsTests {
  /// Ten wraps that have expired and ten that live for another ten minutes.
  static let wraps = """
    \(SweeperTests.wrap) SELECT 'due' || n, '', '', '', 'k', '', 0, now() - interval '1 s' * n, NULL, NULL
      FROM generate_series(1, 10) AS n;
    \(SweeperTests.wrap) SELECT 'live' || n, '', '', '', 'k', '', 0, now() + interval '10 min', NULL, NULL
      FROM generate_series(1, 10) AS n
    """

  static let jobs = """
    INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at)
    SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour' FROM generate_series(1, 80)
    """

  private static func left(_ plane: ControlPlane) async throws -> String {
    try await plane.sql(
      """
      SELECT count(*) FILTER (WHERE key_name LIKE 'due%'), count(*) FILTER (WHERE key_name LIKE 'live%')
        FROM secret_wraps
      """
    )
  }

  // MARK: Settings

  @Test func aDateStyleAndATimeZoneOfTheDatabaseDeleteNoLiveWrap() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.wraps)
    for (name, value) in [("datestyle", "SQL, DMY"), ("timezone", "Asia/Kolkata"), ("intervalstyle", "sql_standard")] {
      try await plane.set(name, value)
    }
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 10)
    #expect(try await Self.left(plane) == "0|10")
  }

  @Test func functionsOperatorsAndTypesOfAnotherRoleAreNotUsed() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.wraps)
    try await plane.sql(
      """
      CREATE SCHEMA trap;
      CREATE FUNCTION trap.boom() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
      CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT now() + interval '1 day' $$;
      CREATE FUNCTION trap.pg_relation_size(text, text) RETURNS bigint LANGUAGE sql AS
        $$ SELECT trap.boom()::int::bigint $$;
      CREATE FUNCTION trap.later(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
      CREATE OPERATOR trap.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.later);
      CREATE OPERATOR trap.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.later);
      CREATE DOMAIN trap.tid AS text CHECK (trap.boom());
      CREATE DOMAIN trap.text AS pg_catalog.text CHECK (trap.boom())
      """)
    try await plane.set("search_path", "trap, public, pg_catalog", isList: true)
    for sweeper in try Self.rowSweepers(plane) {
      _ = try await onLoop { try await plane.sweep(sweeper) }
    }
    #expect(try await plane.sql("SELECT count(*) FROM public.secret_wraps") == "10")
  }

  static func rowSweepers(_ plane: ControlPlane) throws -> [Sweeper] {
    Sweepers.all(try plane.settings(["SB_DISCOVER_TARGETS_JSON": SweeperTests.targets]))
  }

  /// Behind a pooler a temporary table of the session is another client's.
  @Test func aTemporaryTableOfTheSameNameIsPassedOver() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.wraps)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      let limit = LoopClock.system.now.advanced(by: .seconds(10))
      try await pool.withConnection(by: limit) {
        _ = try await $0.query(PostgresStatement("CREATE TEMP TABLE secret_wraps (expires_at timestamptz)"), by: limit)
      }
      #expect(try await plane.sweep(sweeper, through: pool).changed == 10)
      await pool.close()
    }
  }

  // MARK: Partitions

  static let partitioned = """
    ALTER TABLE sync_jobs RENAME TO old_jobs;
    CREATE TABLE sync_jobs (LIKE old_jobs INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
    CREATE TABLE jobs_last_year PARTITION OF sync_jobs FOR VALUES FROM ('2000-01-01') TO ('2025-01-01');
    CREATE TABLE jobs_this_year PARTITION OF sync_jobs FOR VALUES FROM ('2025-01-01') TO ('2999-01-01')
      PARTITION BY HASH (id);
    CREATE TABLE jobs_even PARTITION OF jobs_this_year FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE jobs_odd PARTITION OF jobs_this_year FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    ALTER TABLE jobs_odd SET (fillfactor = 10)
    """

  @Test func allPartitionsAreSwept() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.partitioned)
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, created_at, payload)
      SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour',
        CASE WHEN n % 3 = 0 THEN timestamptz '2024-06-01' ELSE now() END, to_jsonb(repeat('x', 500))
        FROM generate_series(1, 6000) AS n
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 6_000)
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'claimed'") == "0")
    #expect(try await onLoop { try await plane.sweep(sweeper) }.found == 0)
  }

  @Test func theChildrenOfATableAreSweptToo() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "CREATE TABLE more_jobs () INHERITS (sync_jobs); \(Self.jobs); INSERT INTO more_jobs SELECT * FROM sync_jobs")
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 160)
  }

  /// An index of each partition leads to due rows, and their places are one partition's only.
  @Test func partitionedAgentsAreFoundByTheIndex() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(PartitionedAgents.byID)
      CREATE INDEX ON agents (last_seen_at);
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT 'a' || n, '', now() - CASE WHEN n % 10 = 0 THEN interval '1 h' ELSE interval '0' END
        FROM generate_series(1, 5000) AS n
      """)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 500)
    #expect(try await plane.sql("SELECT count(*) FROM agents WHERE status = 'stale'") == "500")
  }

  @Test func aForeignPartitionIsNamedAndTheOthersAreSwept() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(Self.partitioned);
      CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
      CREATE FOREIGN TABLE jobs_archive PARTITION OF sync_jobs FOR VALUES FROM ('1990-01-01') TO ('2000-01-01')
        SERVER files OPTIONS (filename '/dev/null');
      \(Self.jobs)
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let tally = RunTally()
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
      #expect(refusal == .foreignParts("public.jobs_archive"))
      #expect(tally.count.changed == 80)
    }
  }

  @Test func aTableThatBecamePartitionedIsSeenByTheNextRun() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let pool = try plane.pool()
      let memory = TableMemory()
      #expect(try await plane.sweep(sweeper, through: pool, knowing: memory).found == 0)
      try await plane.sql("\(Self.partitioned); \(Self.jobs)")
      #expect(try await plane.sweep(sweeper, through: pool, knowing: memory).changed == 80)
      await pool.close()
    }
  }

  // MARK: Rights

  @Test func rowSecurityThatHidesRowsIsAFailureUnlessItIsAllowed() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(Self.wraps);
      ALTER TABLE secret_wraps ENABLE ROW LEVEL SECURITY;
      CREATE POLICY a_few ON secret_wraps USING (key_name IN ('due1', 'due2'));
      """)
    let limited = try await plane.limited("SELECT, DELETE ON secret_wraps")
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let refusal = await #expect(throws: SweepRefusal.self) { try await limited.sweep(sweeper) }
      #expect(refusal == .rowSecurity("public.secret_wraps"))
      let seen = try await limited.sweep(sweeper, allowsRowSecurity: true)
      #expect(seen.changed == 2)
      #expect(try await plane.sweep(sweeper).changed == 8)
    }
  }

  @Test func withoutTheRightToLockRowsALockedOneIsSkippedAndTheOthersGo() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.wraps)
    let limited = try await plane.limited("SELECT, DELETE ON secret_wraps")
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      try await SweepRaceTests.transaction(plane, "SELECT FROM secret_wraps WHERE key_name = 'due7' FOR UPDATE") {
        commit in
        let count = try await limited.sweep(sweeper)
        #expect(count.changed == 9 && count.skipped == 1)
        try await commit()
      }
      #expect(try await limited.sweep(sweeper).changed == 1)
    }
  }

  /// What suffices for the existing worker.
  @Test func rightsOnTheColumnsOfTheStatementSuffice() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT 'a' || n, '', CASE WHEN n = 1 THEN '-infinity' ELSE now() - n * interval '1 s' END
        FROM generate_series(1, 3000) AS n
      """)
    let limited = try await plane.limited("SELECT (status, last_seen_at), UPDATE (status) ON agents")
    let sweeper = Sweeper.agentsStale(try plane.settings(["SB_WORKER_AGENTS_STALE_AFTER": "5m"]))
    try await onLoop {
      let lock = "SELECT FROM agents WHERE name = 'a2000' FOR UPDATE"
      try await SweepRaceTests.transaction(plane, lock) { commit in
        let count = try await limited.sweep(sweeper)
        #expect(count.skipped == 1)
        #expect(try await plane.sql("SELECT count(*) FROM agents WHERE status = 'stale'") == "\(count.changed)")
        try await commit()
      }
      _ = try await limited.sweep(sweeper)
      #expect(
        try await plane.sql(
          "SELECT count(*) FROM agents WHERE status = 'active' AND last_seen_at < now() - interval '5 min'") == "0")
    }
  }

  @Test func aMissingRightNamesTheTableAndTheVerb() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.wraps)
    let limited = try await plane.limited("SELECT ON secret_wraps")
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let error = await #expect(throws: PostgresError.self) { try await limited.sweep(sweeper) }
      #expect(error?.sqlState == "42501")
    }
  }

  @Test func aTableThatIsNotThereIsNamed() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("ALTER TABLE agents RENAME TO others")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper) }
      #expect(refusal == .noTable("agents"))
    }
  }

  // MARK: Rows

  @Test func oneRowWhoseDeletionFailsKeepsNoOther() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(SweeperTests.wrap) SELECT 'due' || n, '', '', '', 'k', '', 0, now() - interval '1 s', NULL, NULL
        FROM generate_series(1, 3000) AS n;
      CREATE TABLE referring (wrap uuid REFERENCES secret_wraps);
      INSERT INTO referring SELECT id FROM secret_wraps WHERE key_name = 'due1234'
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      for expected in [2_999, 0] {
        let tally = RunTally()
        let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
        #expect(refusal == .rows(1, [.sqlState("23503")]))
        #expect(refusal?.reason == "1 row refused (23503)")
        #expect(tally.count.changed == expected)
      }
    }
    #expect(try await plane.sql("SELECT string_agg(key_name, ',') FROM secret_wraps") == "due1234")
  }

  @Test func aRowThatIsSlowByItselfMayTakeWhatIsLeftOfTheLease() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(SweeperTests.jobs)
      CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(1.3); RETURN NEW; END $$;
      CREATE TRIGGER dawdle BEFORE UPDATE ON sync_jobs FOR EACH ROW EXECUTE FUNCTION dawdle()
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
  }

  @Test func rowsThatATriggerKeepsAreCountedAndReportedAsAFailure() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(Self.wraps);
      CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.key_name IN ('due3', 'due4') THEN RETURN NULL; END IF; RETURN OLD; END $$;
      CREATE TRIGGER keep BEFORE DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION keep()
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let tally = RunTally()
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
      #expect(refusal == .kept(2, table: "public.secret_wraps"))
      #expect(tally.count.changed == 8)
    }
  }

  @Test func rowsThatStayLockedForThreeSlotsAreReported() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(SweeperTests.wrap) SELECT 'due' || n, '', '', '', 'k', '', 0, now() - interval '1 s', NULL, NULL
        FROM generate_series(1, 7) AS n
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      try await SweepRaceTests.transaction(plane, "SELECT FROM secret_wraps FOR UPDATE") { commit in
        var progress: String?
        for _ in 1...2 {
          let count = try await plane.sweep(sweeper, progress: progress)
          #expect(count.skipped == 7 && count.changed == 0 && count.isLocked)
          progress = count.progress
        }
        let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, progress: progress) }
        #expect(refusal == .locked(7, slots: 3))
        try await commit()
      }
      #expect(try await plane.sweep(sweeper, progress: "l3").progress == "l0")
    }
  }

  // MARK: Others

  @Test func aWorkerOfAnotherNamespaceOnTheSameTablesIsNamed() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = Sweeper.agentsStale(try plane.settings())
    let other = RunName(namespace: "other", origin: "test", sweeper: sweeper.name).text(epoch: 3)
    try await onLoop {
      let work = SweepRaceTests.takeLock(of: sweeper, as: other)
      try await SweepRaceTests.transaction(plane, work) { commit in
        let holder = try #require(try await SweepRaceTests.lockHolder(plane))
        let interruption = RunInterruption.foreignWorker(holder)
        await #expect(throws: interruption) { try await plane.sweep(sweeper) }
        #expect(RunFailure(interruption).reason.hasSuffix(": pid \(holder)"))
        // It was not ended.
        try await commit()
      }
    }
  }

  @Test func twoControlPlanesInOneDatabaseDoNotMeet() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("CREATE SCHEMA second; CREATE TABLE second.agents (LIKE public.agents)")
    try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    let other = RunName(namespace: "other", origin: "test", sweeper: sweeper.name).text(epoch: 3)
    try await onLoop {
      let work = SweepRaceTests.takeLock(of: sweeper, in: "second", as: other)
      try await SweepRaceTests.transaction(plane, work) { commit in
        #expect(try await plane.sweep(sweeper).changed == 1)
        try await commit()
      }
    }
  }

  @Test func aRoleThatTheSessionWasSwitchedToHidesNoPredecessor() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    let limited = try await plane.limited("SELECT, UPDATE ON agents")
    let role = try await plane.group(of: limited, "SELECT, UPDATE ON agents")
    try await plane.sql("ALTER ROLE \(limited.user) SET role = '\(role)'")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      let frozen = SweepRaceTests.takeLock(of: sweeper, as: ControlPlane.runName("agents-stale").text(epoch: 6))
      await #expect(throws: PostgresError.self) {
        try await SweepRaceTests.transaction(limited, frozen) { commit in
          #expect(try await limited.sweep(sweeper, epoch: 7).changed == 1)
          try await commit()
        }
      }
    }
  }

  @Test func whatOneTargetCannotBeStoredAsKeepsNoOtherTarget() async throws {
    let plane = try await ControlPlane.fresh(encoding: "LATIN1")
    let targets = """
      [{"name": "a", "cluster": "c1", "provider_type": "vault", "provider_config": {"note": "日本"}},
       {"name": "b", "cluster": "c2", "provider_type": "vault", "provider_config": {"note": "ü"}}]
      """
    let sweeper = Sweeper.discoverScheduler(try plane.settings(["SB_DISCOVER_TARGETS_JSON": targets]))
    try await onLoop {
      let tally = RunTally()
      let failure = await #expect(throws: Discovery.SomeFailed.self) { try await plane.sweep(sweeper, noting: tally) }
      #expect(failure?.reason.hasPrefix("target=a: ") ?? false)
      #expect(failure?.reason.contains("target=b") == false)
      #expect(tally.count.changed == 1)
    }
    #expect(try await plane.sql("SELECT ascii(payload->'target_provider_config'->>'note') FROM sync_jobs") == "252")
  }

  @Test func aForcedRunEnqueuesOnceMoreUnlessTheSlotsJobStillWaits() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = Sweeper.discoverScheduler(try plane.settings(["SB_DISCOVER_TARGETS_JSON": SweeperTests.targets]))
    try await onLoop {
      let pool = try plane.pool()
      #expect(try await plane.sweep(sweeper, through: pool, slot: 1_000, isForced: true).changed == 2)
      // Its job waits: a second one would change nothing.
      #expect(try await plane.sweep(sweeper, through: pool, epoch: 8, slot: 1_000, isForced: true).changed == 0)
      try await plane.sql("UPDATE sync_jobs SET status = 'succeeded'")
      #expect(try await plane.sweep(sweeper, through: pool, epoch: 9, slot: 1_000).changed == 0)
      #expect(try await plane.sweep(sweeper, through: pool, epoch: 10, slot: 1_000, isForced: true).changed == 2)
      await pool.close()
    }
  }
}
