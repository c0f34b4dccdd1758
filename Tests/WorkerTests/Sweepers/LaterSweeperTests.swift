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
}
