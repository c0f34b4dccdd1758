// Sweeps of rows that are slow to write, locked, or moved meanwhile, on a real PostgreSQL.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SlowRowsTests {
  /// Jobs on pages of few rows: `first` that are done, then `due` ones.
  private func fillJobs(_ plane: ControlPlane, done: Int, due: Int) async throws {
    try await plane.sql(
      """
      ALTER TABLE sync_jobs SET (fillfactor = 10);
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
      SELECT 'sync', gen_random_uuid(), CASE WHEN n <= \(done) THEN 'succeeded' ELSE 'claimed' END,
        now() - interval '1 hour', to_jsonb(n || repeat(' ', 150)) FROM generate_series(1, \(done + due)) AS n
      """)
  }

  /// A trigger that makes each row's change take so long.
  private func slowDown(_ plane: ControlPlane, milliseconds: Int) async throws {
    try await plane.sql(
      """
      CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(\(Double(milliseconds) / 1_000)); RETURN NEW; END $$;
      CREATE TRIGGER dawdle BEFORE UPDATE ON sync_jobs FOR EACH ROW EXECUTE FUNCTION dawdle()
      """)
  }

  /// Each transaction's time, as the rows that it wrote tell: updated_at is its beginning, finished_at the row's.
  private func longestTransaction(_ plane: ControlPlane) async throws -> Double {
    Double(
      try await plane.sql(
        "SELECT max(extract(epoch FROM finished_at - updated_at)) * 1000 FROM sync_jobs WHERE status = 'expired'")) ?? 0
  }

  @Test func pagesOfSlowRowsBehindManyWithoutAnyAreSweptInShortTransactions() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillJobs(plane, done: 3_000, due: 300)
    try await slowDown(plane, milliseconds: 5)
    try await plane.sql(
      """
      ALTER TABLE sync_jobs ADD COLUMN finished_at timestamptz;
      CREATE FUNCTION note_end() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.finished_at := clock_timestamp(); RETURN NEW; END $$;
      CREATE TRIGGER note_end BEFORE UPDATE ON sync_jobs FOR EACH ROW EXECUTE FUNCTION note_end()
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      // Nobody renews this lease: what takes longer than its 2.5 s fails.
      let count = try await plane.sweep(sweeper, lease: .seconds(6))
      #expect(count.changed == 300)
      #expect(try await self.longestTransaction(plane) < 150)
    }
  }

  /// 60 rows of 10 ms on a page: each transaction stops in mid-page, and the next one continues without a search.
  @Test func noTransactionSearchesForTheRowAtWhichAPageContinues() async throws {
    // Autovacuum's transactions would be counted, too.
    let server = try await PrivatePostgres.start(settings: ["autovacuum=off"])
    let plane = try await ControlPlane.fresh(on: server)
    try await fillJobs(plane, done: 0, due: 120)
    try await plane.sql("ALTER TABLE sync_jobs SET (fillfactor = 100)")
    try await plane.sql("VACUUM FULL sync_jobs")
    try await slowDown(plane, milliseconds: 10)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    let before = try await transactions(plane)
    let count = try await onLoop { try await plane.sweep(sweeper, lease: .seconds(60)) }
    #expect(count.changed == 120)
    let after = try await transactions(plane)
    // The last question of `before` was counted after it.
    let all = after.count - after.questions - before.count - 1
    let writing = Int(try await plane.sql("SELECT count(DISTINCT updated_at) FROM sync_jobs")) ?? 0
    #expect(writing >= 20 && all <= writing * 3 / 2, "\(all) transactions, \(writing) of them wrote")
    await server.stop()
  }

  /// The database's committed transactions, once all other sessions have ended and reported theirs, and how many
  /// questions that took, each of them a transaction, too.
  private func transactions(_ plane: ControlPlane) async throws -> (count: Int, questions: Int) {
    let others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    var questions = 1
    while try await plane.sql("SELECT count(*) \(others)") != "0" {
      questions += 1
      try #require(questions < 1_000, "the other sessions do not end")
    }
    let count = try await plane.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    return (Int(count) ?? 0, questions)
  }

  @Test func aJobThatStaysLockedIsSkippedAndTheOthersOfItsRangeAreNot() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillJobs(plane, done: 100, due: 500)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let lock = "SELECT FROM sync_jobs WHERE payload::text LIKE '\"350 %' FOR UPDATE"
      try await SweepRaceTests.transaction(plane, lock) { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 499)
        #expect(count.skipped == 1)
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).changed == 1)
    }
  }

  @Test func aWrapThatStaysLockedInASmallTableIsSkippedOnce() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(SweeperTests.wrap) SELECT 'k' || n, '', '', '', 'k', '', 0, now() - interval '1 s', NULL, NULL
        FROM generate_series(1, 20) AS n
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    try await onLoop {
      let lock = "SELECT FROM secret_wraps WHERE key_name = 'k7' FOR UPDATE"
      try await SweepRaceTests.transaction(plane, lock) { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 19)
        #expect(count.skipped == 1)
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).changed == 1)
    }
  }

  /// The row's new version lies on another page than the one that the sweep came to. Whether this run still gets it is
  /// PostgreSQL's affair; the next one does, and neither writes over what the other one wrote.
  @Test func aRowThatMovesToAnotherPageWhileTheSweepWaitsIsChangedByTheNextRunAtTheLatest() async throws {
    let plane = try await ControlPlane.fresh()
    try await fillJobs(plane, done: 0, due: 1)
    // The first page is full, and the row's new version does not fit on it.
    try await plane.sql(
      """
      ALTER TABLE sync_jobs SET (fillfactor = 100);
      INSERT INTO sync_jobs (job_type, correlation_id, payload)
      SELECT 'sync', gen_random_uuid(), to_jsonb(repeat('x', 150)) FROM generate_series(1, 200)
      """)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let move = "UPDATE sync_jobs SET agent_scope = to_jsonb(repeat('y', 1500)) WHERE status = 'claimed'"
      try await SweepRaceTests.transaction(plane, move) { commit in
        async let swept = plane.sweep(sweeper)
        try await eventually("the sweep waits for the row") {
          try await plane.sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") != "0"
        }
        try await commit()
        var changed = try await swept.changed
        if changed == 0 { changed = try await plane.sweep(sweeper).changed }
        #expect(changed == 1)
      }
      let row = "SELECT status, length(agent_scope::text) > 1500, ctid::text NOT LIKE '(0,%' FROM sync_jobs"
      #expect(try await plane.sql("\(row) WHERE claim_expires_at IS NOT NULL") == "expired|t|t")
    }
  }
}
