// How long the oldest due row had been due when a run began, by each way of finding rows.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct OldestDueTests {
  /// Wraps that expired `first`, `first` + 1, … seconds ago.
  private static func wraps(_ count: Int, from first: Int) -> String {
    """
    \(SweeperTests.wrap) SELECT 'k' || n, '', '', '', 'k', '', 0, now() - interval '1 s' * (\(first) + n), NULL, NULL
      FROM generate_series(0, \(count - 1)) AS n;
    """
  }

  private static func agents(_ count: Int, _ status: String, from first: Int) -> String {
    """
    INSERT INTO agents (name, status, secret_hash, last_seen_at)
    SELECT '\(status)' || n, '\(status)', '', now() - interval '1 s' * (\(first) + n)
      FROM generate_series(0, \(count - 1)) AS n;
    """
  }

  private static func expectAbout(_ seconds: Double, _ count: SweepCount) {
    // A test's rows can be some seconds old when the run begins.
    #expect((seconds...(seconds + 20)).contains(count.oldestDue.seconds), "\(count.oldestDue)")
  }

  @Test(arguments: [(3, 600), (1, 7_200), (1_500, 10)])
  func anIndexTellsTheOldestOfFewRowsAndOfManyMoreThanAScanReads(rows: Int, first: Int) async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.wraps(rows, from: first))
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let (swept, next) = try await onLoop { (try await plane.sweep(sweeper), try await plane.sweep(sweeper)) }
    #expect(swept.changed == rows)
    Self.expectAbout(Double(first + rows - 1), swept)
    #expect(next.oldestDue == .zero)
  }

  /// It counts from when it became due, which is later than its key by the sweep's age.
  @Test func theTimeThatARowIsLeftAloneIsNotCounted() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.agents(2, "active", from: 1_000))
    let sweeper = Sweeper.agentsStale(try plane.settings(["SB_WORKER_AGENTS_STALE_AFTER": "10m"]))
    Self.expectAbout(401, try await onLoop { try await plane.sweep(sweeper) })
  }

  /// The index's old end has only rows that are not due: the newest thousand tell what is known at least.
  @Test func rowsThatAreNotDueDoNotHideTheOldestOfTheScan() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.agents(200, "revoked", from: 90_000) + Self.agents(1_100, "active", from: 2_000))
    let sweeper = Sweeper.agentsStale(try plane.settings(["SB_WORKER_AGENTS_STALE_AFTER": "10m"]))
    let swept = try await onLoop { try await plane.sweep(sweeper) }
    #expect(swept.changed == 1_100)
    #expect((2_390...2_520).contains(swept.oldestDue.seconds), "\(swept.oldestDue)")
  }

  @Test func aRowThatWasAlwaysDueCountsFrom1970() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("\(SweeperTests.wrap) VALUES ('k', '', '', '', 'k', '', 0, '-infinity', NULL, NULL)")
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let swept = try await onLoop { try await plane.sweep(sweeper) }
    #expect(swept.changed == 1 && swept.oldestDue > .seconds(1_700_000_000), "\(swept.oldestDue)")
  }

  @Test func theOldestRevealSessionIsTheFirstOfTheFirstWindow() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, expires_at, wrap_ids)
      SELECT n, gen_random_uuid(), gen_random_uuid(), 60, now() - interval '1 s' * n, '{}'
        FROM generate_series(1, 1000) AS n
      """)
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings())
    let swept = try await onLoop { try await plane.sweep(sweeper) }
    #expect(swept.changed == 1_000)
    Self.expectAbout(1_000, swept)
  }

  @Test func aRoleThatReadsSomeColumnsKnowsTheFirstKey() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.agents(30, "active", from: 1_000))
    let least = try await plane.limited("SELECT (status, last_seen_at), UPDATE (status) ON agents")
    let sweeper = Sweeper.agentsStale(try plane.settings(["SB_WORKER_AGENTS_STALE_AFTER": "10m"]))
    let swept = try await onLoop { try await least.sweep(sweeper) }
    #expect(swept.changed == 30)
    Self.expectAbout(429, swept)
  }

  @Test func withoutAnIndexNothingIsTold() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("DROP INDEX agents_by_last_seen;" + Self.agents(30, "active", from: 1_000))
    let sweeper = Sweeper.agentsStale(try plane.settings(["SB_WORKER_AGENTS_STALE_AFTER": "10m"]))
    let swept = try await onLoop { try await plane.sweep(sweeper) }
    #expect(swept.changed == 30 && swept.oldestDue == .zero)
  }
}
