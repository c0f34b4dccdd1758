// Concurrent sweeps: rows that change or stay locked, large tables, lost leases, frozen predecessors.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SweepRaceTests {
  /// Opens a transaction that does `statement`, runs `meanwhile` beside it, and commits when that says so.
  @EventLoop
  static func transaction(
    _ plane: ControlPlane, _ statement: String,
    meanwhile:
      @escaping @EventLoop @Sendable (_ commit: @escaping @EventLoop @Sendable () async throws -> Void)
      async throws -> Void
  ) async throws {
    let pool = try plane.pool()
    let deadline = LoopClock.system.now.advanced(by: .seconds(20))
    try await pool.withConnection(by: deadline) { connection in
      _ = try await connection.query(PostgresStatement("BEGIN"), by: deadline)
      _ = try await connection.query(PostgresStatement(statement), by: deadline)
      try await meanwhile { _ = try await connection.query(PostgresStatement("COMMIT"), by: deadline) }
    }
    await pool.close()
  }

  /// Takes the advisory lock of a sweeper as the run of this name does.
  @EventLoop
  static func takeLock(of sweeper: Sweeper, in schema: String = "public", as name: String) -> String {
    let key = GuardedSession.advisoryKey(schema: schema, sweeper: sweeper.name)
    return """
      SELECT set_config('application_name', '\(name)', true),
        pg_advisory_xact_lock(\(GuardStatements.advisoryClass), \(key))
      """
  }

  /// The table has a trigger, which could keep rows as they are: it must not be blamed for a row that came meanwhile.
  /// With rights on columns alone the table is swept by keys.
  @Test(arguments: ["ALL ON sync_jobs", "SELECT (status, claim_expires_at), UPDATE (status) ON sync_jobs"])
  func aDueRowThatComesWithAnotherOnesChangeIsSweptAndNoTriggerIsBlamed(_ rights: String) async throws {
    let plane = try await ControlPlane.fresh()
    let role = try await plane.limited(rights)
    let insert = "INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at)"
    try await plane.sql("\(insert) VALUES ('sync', gen_random_uuid(), 'claimed', now() - interval '1 hour')")
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let change = """
        WITH claimed AS (UPDATE sync_jobs SET claim_expires_at = now() + interval '1 hour')
        \(insert) VALUES ('verify', gen_random_uuid(), 'claimed', now() - interval '1 hour')
        """
      try await Self.transaction(plane, change) { commit in
        async let swept = role.sweep(sweeper)
        try await eventually("the sweep waits for the row") {
          try await plane.sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") != "0"
        }
        try await commit()
        let count = try await swept
        #expect(count.changed == 1)
        #expect(count.kept == 0)
      }
      #expect(try await plane.sql("SELECT job_type FROM sync_jobs WHERE status = 'expired'") == "verify")
    }
  }

  @Test func aHeartbeatCommittedWhileTheSweepWaitsForTheRowWins() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      try await Self.transaction(plane, "UPDATE agents SET last_seen_at = now() WHERE name = 'a'") { commit in
        async let swept = plane.sweep(sweeper)
        try await eventually("the sweep waits for the row") {
          try await plane.sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") != "0"
        }
        try await commit()
        #expect(try await swept.changed == 0)
      }
    }
    #expect(try await plane.sql("SELECT status FROM agents") == "active")
  }

  @Test func aClaimCommittedWhileTheSweepWaitsForTheRowWins() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(SweeperTests.jobs)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let claim = "UPDATE sync_jobs SET claim_expires_at = now() + interval '5 min' WHERE payload = '\"stuck\"'"
      try await Self.transaction(plane, claim) { commit in
        async let swept = plane.sweep(sweeper)
        try await eventually("the sweep waits for the row") {
          try await plane.sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") != "0"
        }
        try await commit()
        #expect(try await swept.changed == 0)
      }
    }
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'expired'") == "0")
  }

  @Test func aRowThatStaysLockedIsSkippedAndCounted() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT 'a' || n, '', now() - interval '1 day' FROM generate_series(1, 10) AS n
      """)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      try await Self.transaction(plane, "SELECT FROM agents WHERE name = 'a5' FOR UPDATE") { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 9)
        #expect(count.skipped == 1)
        try await commit()
      }
    }
    #expect(try await plane.sql("SELECT name FROM agents WHERE status = 'active'") == "a5")
  }

  @Test func aTableLockEndsTheRunWithinItsLease() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      try await Self.transaction(plane, "LOCK TABLE agents IN ACCESS EXCLUSIVE MODE") { commit in
        let error = await #expect(throws: PostgresError.self) { try await plane.sweep(sweeper, lease: .seconds(3)) }
        #expect(
          error.map { RunFailure($0, on: sweeper.work.place(nil)).reason }
            == "lock not available (SQLSTATE 55P03): UPDATE on agents")
        try await commit()
      }
    }
  }

  @Test func aLockedTableOfJobsIsNamed() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = try #require(
      Sweepers.all(try plane.settings(["SB_DISCOVER_TARGETS_JSON": FixedRows.targets]))
        .first { $0.name == "discover-scheduler" })
    try await onLoop {
      try await Self.transaction(plane, "LOCK TABLE sync_jobs IN ACCESS EXCLUSIVE MODE") { commit in
        let error = await #expect(throws: (any Error).self) { try await plane.sweep(sweeper, lease: .seconds(3)) }
        #expect(
          error.map { RunFailure($0, on: sweeper.work.place(nil)).reason }
            == "lock not available (SQLSTATE 55P03): INSERT on sync_jobs")
        try await commit()
      }
    }
  }

  /// A table that only a trigger uses.
  @Test func aLockedRowBehindATriggerIsNamed() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day');
      CREATE TABLE totals (number int); INSERT INTO totals VALUES (0);
      CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE totals SET number = number + 1; RETURN NEW; END $$;
      CREATE TRIGGER count_up BEFORE UPDATE ON agents FOR EACH ROW EXECUTE FUNCTION count_up()
      """)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      try await Self.transaction(plane, "UPDATE totals SET number = 7") { commit in
        let error = await #expect(throws: PostgresError.self) { try await plane.sweep(sweeper, lease: .seconds(3)) }
        #expect(
          error.map { RunFailure($0, on: sweeper.work.place(nil)).reason }
            == "lock not available: relation totals (SQLSTATE 55P03): UPDATE on agents")
        try await commit()
      }
    }
  }

  @Test func aLargeTableIsSweptInManyBatchesAndCompletely() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(SweeperTests.wrap) SELECT 'k' || n, repeat('x', 300)::bytea, '', '', 'k', '', 0,
        now() + CASE WHEN n % 2 = 0 THEN interval '-1 hour' ELSE interval '1 hour' END, NULL, NULL
      FROM generate_series(1, 30000) AS n
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 15_000)
    #expect(try await plane.sql("SELECT count(*), min(expires_at) > now() FROM secret_wraps") == "15000|t")
  }

  @Test func whatEarlierBatchesChangedIsKnownWhereALaterOneFails() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
      SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour', to_jsonb(n || repeat(' ', 300))
        FROM generate_series(1, 5000) AS n;
      ALTER TABLE sync_jobs ADD CHECK (status <> 'expired' OR NOT payload::text LIKE '"5000 %')
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let tally = RunTally()
      let error = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
      #expect(error == .rows(1, [.sqlState("23514")]))
      #expect(tally.count.changed == 4_999)
      let expired = try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'expired'")
      #expect(expired == "\(tally.count.changed)")
    }
  }

  @Test func aServerThatTurnedReadOnlyIsLeftForAnotherConnection() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    let database = try await plane.sql("SELECT current_database()")
    try await PrivatePostgres.shared.psql("ALTER DATABASE \(database) SET default_transaction_read_only = on")
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      let error = await #expect(throws: PostgresError.self) { try await plane.sweep(sweeper, through: pool) }
      #expect(error?.isReadOnly == true)
      try await PrivatePostgres.shared.psql("ALTER DATABASE \(database) RESET default_transaction_read_only")
      #expect(try await plane.sweep(sweeper, through: pool).changed == 1)
      // The read-only one was never lent.
      #expect(pool.statistics.connectsTotal == 1 && pool.statistics.failedConnects == 1)
      await pool.close()
    }
  }

  @Test func aLeaseThatEndedWritesNothing() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    await #expect(throws: (any Error).self) {
      // Half a second of lease is all margin.
      try await onLoop { try await plane.sweep(sweeper, lease: .milliseconds(500)) }
    }
    #expect(try await plane.sql("SELECT status FROM agents") == "active")
  }

  @Test func aPredecessorsFrozenSessionIsTerminated() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      // What a run leaves that freezes between its guard and the end of its pipeline.
      let frozen = Self.takeLock(of: sweeper, as: ControlPlane.runName("agents-stale").text(epoch: 6))
      await #expect(throws: PostgresError.self) {
        try await Self.transaction(plane, frozen) { commit in
          #expect(try await plane.sweep(sweeper, epoch: 7).changed == 1)
          try await commit()
        }
      }
    }
    #expect(try await plane.sql("SELECT status FROM agents") == "stale")
  }

  /// The process on PostgreSQL that holds a sweeper's advisory lock.
  static func lockHolder(_ plane: ControlPlane) async throws -> Int32? {
    Int32(
      try await plane.sql(
        "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) "
          + "WHERE locktype = 'advisory' AND granted AND datname = current_database()"))
  }

  @Test func aSuccessorsSessionIsLeftAloneAndNamed() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await onLoop {
      let newer = Self.takeLock(of: sweeper, as: ControlPlane.runName("agents-stale").text(epoch: 8))
      try await Self.transaction(plane, newer) { commit in
        let holder = try #require(try await Self.lockHolder(plane))
        let interruption = RunInterruption.superseded(by: holder)
        await #expect(throws: interruption) { try await plane.sweep(sweeper, epoch: 7) }
        #expect(RunFailure(interruption).reason.hasSuffix("advisory lock: pid \(holder)"))
        try await commit()
      }
    }
  }
}
