// The columns and privileges that sweepers need, by their declarations.

import Testing

@testable import Worker

@Suite struct SweepNeedsTests {
  @Test func columnsAreReadOffTheSweepersDeclarations() throws {
    #expect(
      SQLColumns.read(in: "status = 'a b' AND lower(name) < :cutoff OR (note IS NULL)") == ["status", "name", "note"])
    #expect(SQLColumns.assigned(in: "a = NULL, b = greatest(c, d), e = 'f = g'") == ["a", "b", "e"])
    let settings = try Settings.load(
      environment: [
        "DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h", "SB_WORKER_JOBS_RECOVERY_ACTION": "requeue",
      ]
    ).settings
    let needs = Sweepers.all(settings).flatMap { SweepNeeds.all($0.work) }
    #expect(
      needs.map { TableCheck.list($0.needs, quoted: false) } == [
        "SELECT (expires_at, consumed_at), DELETE", "SELECT (status, last_seen_at), UPDATE (status)",
        "SELECT (status, last_seen_at), UPDATE (status)",
        "SELECT (status, claim_expires_at), UPDATE (status, claimed_by, claim_expires_at)",
        "SELECT (id, type, scope, status, cluster_name, discover_enabled, discover_interval_seconds, last_discover_at, "
          + "last_discover_status, last_discover_started_at), "
          + "UPDATE (last_discover_status, last_discover_started_at, last_discover_error)",
        "SELECT (job_type, status, correlation_id, payload), "
          + "INSERT (id, job_type, status, correlation_id, agent_scope, payload)",
        "SELECT (type, status, fill_expires_at), UPDATE (status)",
        "SELECT (last_discover_status, last_discover_started_at, discover_interval_seconds), "
          + "UPDATE (last_discover_status, last_discover_finished_at, last_discover_error)",
        "SELECT (expired_at, expires_at, id, wrap_ids), UPDATE (expired_at, expired_reason)",
        "SELECT (id, consumed_at, expires_at), UPDATE (expires_at)",
      ])
    let linked = Sweepers.all(settings).compactMap { SweepNeeds(linkedTo: $0.work) }
    #expect(
      linked.map { TableCheck.list($0.needs, quoted: false) } == [
        "SELECT (id, consumed_at, expires_at), UPDATE (expires_at)"
      ])
  }
}
