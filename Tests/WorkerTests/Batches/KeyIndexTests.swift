// Which of a table's indexes find due rows, whatever their shape, and which path a run takes.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct KeyIndexTests {
  @Test(arguments: [
    ("", true), ("(consumed_at IS NULL)", true), ("(consumed_at IS NOT NULL)", false),
    ("((consumed_at IS NULL) AND (request_id IS NULL))", false), ("(status = 'active'::text)", true),
    ("((status = 'active'::text) AND (consumed_at IS NULL))", true), ("(lower(status) = 'active'::text)", false),
    ("((consumed_at IS NULL) OR (status = 'active'::text))", false),
  ])
  func anIndexServesAConditionThatHasEachPartOfItsPredicate(predicate: String, serves: Bool) {
    let condition = "consumed_at IS NULL AND status = 'active' AND expires_at <= :cutoff"
    #expect(KeyIndexes(predicates: predicate, sum: 1).serve(condition) == serves)
    #expect(KeyIndexes(predicates: "(never IS NULL)\n\(predicate)", sum: 1).serve(condition) == serves)
    #expect(!KeyIndexes(predicates: nil, sum: 0).serve(condition))
  }

  /// What a run over agents, wraps and reveal sessions does by the table's indexes.
  @Test(arguments: [
    ("agents", "", true), ("agents", "DROP INDEX agents_by_last_seen", false),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents (last_seen_at DESC)", true),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents (last_seen_at NULLS FIRST)", false),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents (last_seen_at DESC NULLS LAST)", false),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents (status, last_seen_at)", false),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents (last_seen_at, status)", true),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents USING brin (last_seen_at)", false),
    ("agents", "DROP INDEX agents_by_last_seen; CREATE INDEX ON agents (last_seen_at) WHERE status = 'stale'", false),
    ("agents", "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'agents_by_last_seen'::regclass", false),
    ("agents", "UPDATE pg_index SET indisready = false WHERE indexrelid = 'agents_by_last_seen'::regclass", false),
  ])
  func aRunUsesAnIndexOnlyIfItLeadsToDueRowsInOrder(table: String, change: String, isUsed: Bool) async throws {
    let plane = try await ControlPlane.fresh()
    if !change.isEmpty { try await plane.sql(change) }
    let sweeper = Sweeper.agentsStale(try plane.settings())
    try await plane.sql(Self.agents)
    let survey = try await onLoop {
      let pool = try plane.pool(connections: 1)
      let memory = TableMemory()
      let count = try await plane.sweep(sweeper, through: pool, knowing: memory)
      #expect(count.changed == 5)
      await pool.close()
      return memory.survey
    }
    #expect(survey?.indexes.serve("last_seen_at < :cutoff") == isUsed)
  }

  private static let agents = """
    INSERT INTO agents (name, secret_hash, last_seen_at)
    SELECT 'a' || n, '', now() - CASE WHEN n <= 5 THEN interval '1 hour' ELSE '0' END FROM generate_series(1, 50) AS n
    """

  /// With an index of all wraps a large table needs no full pass: a consumed one is found at once.
  @Test func consumedWrapsAreFoundByAnIndexThatHasThem() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(LargeTableTests.liveWraps)
    let expired = "\(SweeperTests.wrap) VALUES ('old', '', '', '', 'k', '', 0, now() - interval '1 s', now(), 'x')"
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let memory = try await onLoop { TableMemory() }
    try await onLoop {
      let pool = try plane.pool(connections: 1)
      let first = try await plane.sweep(sweeper, through: pool, knowing: memory)
      try await plane.sql(expired)
      // Nothing leads to it but the next full pass.
      let second = try await plane.sweep(sweeper, through: pool, progress: first.progress, knowing: memory)
      #expect(second.changed == 0)
      try await plane.sql("CREATE INDEX all_wraps ON secret_wraps (expires_at)")
      let third = try await plane.sweep(sweeper, through: pool, progress: first.progress, knowing: memory)
      #expect(third.changed == 1)
      try await plane.sql("DROP INDEX all_wraps")
      // This run's first batch sees the change.
      let fourth = try await plane.sweep(sweeper, through: pool, progress: first.progress, knowing: memory)
      #expect(fourth.changed == 0)
      try await plane.sql(expired)
      let fifth = try await plane.sweep(sweeper, through: pool, progress: first.progress, knowing: memory)
      #expect(fifth.changed == 0)
      await pool.close()
    }
  }
}
