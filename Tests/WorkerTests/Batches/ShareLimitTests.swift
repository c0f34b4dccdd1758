// The maximum share of rows that a run may flag, on a real PostgreSQL: which rows count, and what a refusal leaves.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct ShareLimitTests {
  private func sweeper(_ plane: ControlPlane, share: String = "50%") throws -> Sweeper {
    Sweeper.agentsStale(try plane.settings(["SB_WORKER_AGENTS_STALE_MAX_SHARE": share]))
  }

  /// So many agents of this status that were last seen so long ago, "now" for those that are well.
  private func add(
    _ count: Int, _ plane: ControlPlane, seen: String = "now() - interval '6 minutes'", status: String = "active"
  ) async throws {
    try await plane.sql(
      """
      INSERT INTO agents (name, status, secret_hash, last_seen_at)
      SELECT gen_random_uuid(), '\(status)', '', \(seen) FROM generate_series(1, \(count))
      """)
  }

  private func countStale(_ plane: ControlPlane) async throws -> Int? {
    Int(try await plane.sql("SELECT count(*) FROM agents WHERE status = 'stale'"))
  }

  private func refusal(_ silent: Int, of live: Int) -> SweepRefusal {
    .share(silent, of: live, warning: "agents look silent: is it the api?")
  }

  @Test func tooLargeAShareChangesNothingUntilItFalls() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(25, plane)
    try await add(5, plane, seen: "now()")
    let sweeper = try sweeper(plane)
    try await onLoop {
      let tally = RunTally()
      await #expect(throws: refusal(25, of: 30)) { try await plane.sweep(sweeper, noting: tally) }
      #expect(tally.count.changed == 0 && tally.count.refused == 25)
      #expect(refusal(25, of: 30).reason == "refused: 25 of 30 agents look silent: is it the api?")
      #expect(RunFailure(refusal(25, of: 30)).errorClass == "share")
      let stale = try await countStale(plane)
      #expect(stale == 0)
      try await plane.sql(
        "UPDATE agents SET last_seen_at = now() WHERE id IN (SELECT id FROM agents WHERE last_seen_at < now() LIMIT 14)"
      )
      #expect(try await plane.sweep(sweeper).changed == 11)
    }
  }

  @Test func aShareAtTheLimitAndTwentyRowsAreAllowed() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(20, plane)
    let sweeper = try sweeper(plane)
    try await onLoop {
      #expect(try await plane.sweep(sweeper).changed == 20)
      try await plane.sql("DELETE FROM agents")
      #expect(try await plane.sweep(sweeper).changed == 0)
      try await add(25, plane)
      try await add(25, plane, seen: "now()")
      #expect(try await plane.sweep(sweeper).changed == 25)
    }
  }

  @Test func withoutALimitAWholeFleetIsFlaggedAndNothingIsCounted() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(40, plane)
    let sweeper = try sweeper(plane, share: "100%")
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 40)
  }

  @Test func aFleetThatFallsSilentOverSeveralRunsIsNoticedAllTheSame() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(20, plane)
    try await add(40, plane, seen: "now()")
    let sweeper = try sweeper(plane)
    try await onLoop {
      #expect(try await plane.sweep(sweeper).changed == 20)
      try await plane.sql(
        """
        UPDATE agents SET last_seen_at = now() - interval '330 seconds' WHERE id IN
          (SELECT id FROM agents WHERE status = 'active' LIMIT 15)
        """)
      await #expect(throws: refusal(35, of: 60)) { try await plane.sweep(sweeper) }
      let stale = try await countStale(plane)
      #expect(stale == 20)
    }
  }

  @Test func agentsThatCannotBecomeStaleAndThoseFlaggedLongAgoDoNotCount() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(25, plane)
    try await add(100, plane, seen: "NULL")
    try await add(100, plane, status: "disabled")
    try await add(100, plane, seen: "now() - interval '11 minutes'", status: "stale")
    try await add(100, plane, seen: "now()", status: "enrolled")
    let sweeper = try sweeper(plane)
    try await onLoop {
      await #expect(throws: refusal(25, of: 25)) { try await plane.sweep(sweeper) }
      let stale = try await countStale(plane)
      #expect(stale == 100)
    }
  }

  @Test func whatAnOperatorAcceptsStaysAcceptedForTheRunsThatFollow() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(30, plane)
    try await add(5, plane, seen: "now()")
    let sweeper = try sweeper(plane)
    try await onLoop {
      let accepted = try await plane.sweep(sweeper, acceptsAnyShare: true)
      #expect(accepted.changed == 30)
      let progress = try #require(accepted.progress)
      #expect(SweepProgress(progress).acceptedCutoff == accepted.cutoffMicroseconds)
      // Of those that were accepted one is active again, and silent for as long; the other one is new.
      try await plane.sql(
        """
        UPDATE agents SET status = 'active' WHERE id IN (SELECT id FROM agents WHERE status = 'stale' LIMIT 1);
        INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('x', '', now() - interval '300001 milliseconds')
        """)
      await #expect(throws: refusal(31, of: 36)) { try await plane.sweep(sweeper) }
      let next = try await plane.sweep(sweeper, progress: progress)
      #expect(next.changed == 2)
      // The next outage is not accepted.
      try await add(40, plane, seen: "now() - interval '300000 milliseconds'")
      await #expect(throws: (any Error).self) { try await plane.sweep(sweeper, progress: progress) }
    }
  }

  @Test func theRowsOfAllPartitionsCountTogether() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(PartitionedAgents.byID)
    try await add(21, plane)
    let sweeper = try sweeper(plane)
    try await onLoop {
      await #expect(throws: refusal(21, of: 21)) { try await plane.sweep(sweeper) }
      let stale = try await countStale(plane)
      #expect(stale == 0)
    }
  }

  @Test func partsThatAreSweptOneByOneCountTogether() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      \(PartitionedAgents.byName)
      CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
      CREATE FOREIGN TABLE agents_archive PARTITION OF agents FOR VALUES IN ('2')
        SERVER files OPTIONS (filename '/dev/null');
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT (n % 2)::text, '', now() - interval '6 minutes' FROM generate_series(1, 30) AS n
      """)
    let sweeper = try sweeper(plane)
    try await onLoop {
      await #expect(throws: refusal(30, of: 30)) { try await plane.sweep(sweeper) }
      let stale = try await countStale(plane)
      #expect(stale == 0)
    }
  }

  @Test func aRoleThatReadsOnlySomeColumnsCountsToo() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(25, plane)
    let limited = try await plane.limited("SELECT (status, last_seen_at), UPDATE (status) ON agents")
    let sweeper = try sweeper(limited)
    try await onLoop {
      await #expect(throws: refusal(25, of: 25)) { try await limited.sweep(sweeper) }
      let accepted = try await limited.sweep(sweeper, acceptsAnyShare: true)
      #expect(accepted.changed == 25)
    }
  }

  @Test func whatCannotBeCountedInTimeIsNotChanged() async throws {
    let plane = try await ControlPlane.fresh()
    try await add(25, plane)
    let limited = try await plane.limited("SELECT, UPDATE ON agents")
    try await plane.sql(
      """
      ALTER TABLE agents ENABLE ROW LEVEL SECURITY;
      CREATE POLICY slow ON agents USING (pg_sleep(0.05)::text = '');
      ALTER ROLE \(limited.user) SET statement_timeout = '300ms'
      """)
    let sweeper = try sweeper(limited)
    try await onLoop {
      await #expect(throws: SweepRefusal.uncounted("agents")) {
        try await limited.sweep(sweeper, allowsRowSecurity: true)
      }
      let stale = try await countStale(plane)
      #expect(stale == 0)
    }
  }

  @Test func secretsHaveALimitOfTheirOwn() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO secrets (cluster_name, provider_type, secret_ref, last_seen_at)
      SELECT 'c', 'vault', n::text, now() - interval '25 hours' FROM generate_series(1, 30) AS n
      """)
    let sweeper = Sweeper.secretsStale(try plane.settings(["SB_WORKER_SECRETS_STALE_MAX_SHARE": "99%"]))
    try await onLoop {
      await #expect(
        throws: SweepRefusal.share(30, of: 30, warning: "secrets look missing: has discovery stopped?")
      ) { try await plane.sweep(sweeper) }
      let missing = try await plane.sql("SELECT count(*) FROM secrets WHERE status = 'missing'")
      #expect(missing == "0")
    }
  }

  @Test func anAcceptedCutoffIsPartOfTheProgress() {
    var progress = SweepProgress("l2 a1700000000000000")
    #expect(progress.lockedSlots == 2 && progress.acceptedCutoff == 1_700_000_000_000_000 && progress.pass == nil)
    #expect(progress.text == "l2 a1700000000000000")
    progress.lockedSlots = 0
    #expect(SweepProgress(progress.text) == progress)
    for text in ["l0 a", "l0 a-1", "l0 ax", "l0 a99999999999999999999"] {
      #expect(SweepProgress(text).acceptedCutoff == nil)
    }
    #expect(SweepProgress("l0 1 2 3 4 5 6 7").pass == "1 2 3 4 5 6 7")
  }
}
