// Each sweeper that a later schema allows, row by row: what it changes, and what it leaves.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct LaterSweeperTests {
  /// The migrations that have what the later sweepers need.
  private static let migrations = [DevelopmentSchema.twentyEight, .thirtyEight]

  @Test(arguments: migrations)
  func aCrossTeamRequestExpiresWhenItsFillWindowHasPassed(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      INSERT INTO access_requests (requester_id, type, status, fill_expires_at) VALUES
        ('due', 'cross_team', 'pending_values', now() - interval '1 second'),
        ('boundary', 'cross_team', 'pending_values', now()),
        ('open', 'cross_team', 'pending_values', now() + interval '1 hour'),
        ('no window', 'cross_team', 'pending_values', NULL),
        ('filled', 'cross_team', 'pending_verification', now() - interval '1 hour'),
        ('read', 'read', 'pending', now() - interval '1 hour')
      """)
    let sweeper = Sweeper.crossTeamFillWindowExpired(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 2)
    #expect(
      try await plane.sql(
        "SELECT string_agg(requester_id, ',' ORDER BY requester_id) FROM access_requests WHERE status = 'expired'")
        == "boundary,due")
  }

  /// How long ago each connection's discovery began, its interval in seconds and its status.
  private static let discoveries = """
    ('short', '11 minutes', 60, 'running'), ('at ten minutes', '9 minutes', 60, 'running'),
    ('long', '2 hours 1 minute', 3600, 'running'), ('in time', '1 hour 59 minutes', 3600, 'running'),
    ('done', '3 days', 60, 'success'), ('failed', '3 days', 60, 'failure'), ('never', NULL, 60, NULL)
    """

  @Test(arguments: migrations)
  func aDiscoveryWithoutAResultIsGivenUpAfterTwiceItsIntervalAndTenMinutesAtLeast(
    migration: DevelopmentSchema
  ) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, cluster_name, discover_enabled, last_discover_at,
        last_discover_started_at, discover_interval_seconds, last_discover_status)
      SELECT name, 'vault', 'token', 'c', true, now() - interval '4 days', now() - age::interval, seconds, status
        FROM (VALUES \(Self.discoveries)) AS discovery (name, age, seconds, status)
      """)
    let sweeper = Sweeper.connectionsStuck(try plane.settings())
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 2)
    #expect(
      try await plane.sql(
        """
        SELECT name, last_discover_error, last_discover_at < now() - interval '1 day' FROM provider_connections
         WHERE last_discover_status = 'failure' AND last_discover_finished_at > now() - interval '1 minute'
         ORDER BY name
        """) == "long|no result within 7200 s|t\nshort|no result within 600 s|t")
    #expect(
      try await plane.sql(
        "SELECT string_agg(name, ',' ORDER BY name) FROM provider_connections WHERE last_discover_status = 'running'")
        == "at ten minutes,in time")
  }

  @Test func aResultCommittedWhileTheSweepWaitsForTheConnectionWins() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, last_discover_started_at, last_discover_status)
      VALUES ('a', 'vault', 'token', now() - interval '1 day', 'running')
      """)
    let sweeper = Sweeper.connectionsStuck(try plane.settings())
    try await onLoop {
      let result = "UPDATE provider_connections SET last_discover_status = 'success', last_discover_at = now()"
      try await SweepRaceTests.transaction(plane, result) { commit in
        async let swept = plane.sweep(sweeper)
        try await eventually("the sweep waits for the row") {
          try await plane.sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") != "0"
        }
        try await commit()
        #expect(try await swept.changed == 0)
      }
    }
    #expect(try await plane.sql("SELECT last_discover_status FROM provider_connections") == "success")
  }
}
