// What a run costs a server that has nothing due: pages read of a table that is too large to be read in every run.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct NothingDueTests {
  /// The most pages that such a run reads of its table and its indexes: the first 64 three times where no index serves.
  private static let pageLimit = 220
  /// One on each page. The cost with nothing due does not follow from how many more there are.
  private static let rows = 1_500

  struct Case: Sendable, CustomTestStringConvertible {
    let sweeper: @Sendable (Settings) -> Sweeper
    let settings: [String: String]
    let table: String
    let columns: String
    let values: String
    /// What the rows refer to.
    var before = ""
    /// Whether no index of the control plane's leads to due rows: each run reads the table, once.
    var readsTable = false
    var testDescription: String { "\(table), \(columns)" }
  }

  private static let later = "now() + n * interval '1 second'"

  static let cases = [
    Case(
      sweeper: { .revealSessionsExpired($0) }, settings: [:], table: "reveal_sessions",
      columns: "user_id, project_id, environment_id, ttl_seconds, wrap_ids, expires_at",
      values: "repeat('u', 1000), gen_random_uuid(), gen_random_uuid(), 60, '{}', \(later)"),
    Case(
      sweeper: { .crossTeamFillWindowExpired($0) }, settings: [:], table: "access_requests",
      columns: "requester_id, type, status, fill_expires_at",
      values: "repeat('u', 1000), 'cross_team', 'pending_values', \(later)"),
    Case(
      sweeper: { .requestsExpired($0) }, settings: ["SB_WORKER_REQUESTS_EXPIRED_INTERVAL": "1m"],
      table: "access_requests", columns: "requester_id, type, workflow_id",
      values: "repeat('u', 1000), 'read', (SELECT id FROM workflow_definitions)",
      before: "INSERT INTO workflow_definitions (name, request_ttl) VALUES ('w', '14 days');", readsTable: true),
    // Running, and not for too long.
    Case(
      sweeper: { .connectionsStuck($0) }, settings: [:], table: "provider_connections",
      columns: "name, type, auth_method, description, last_discover_status, last_discover_started_at",
      values: "n, 'vault', 'token', repeat('u', 1000), 'running', \(later)",
      readsTable: true),
    Case(
      sweeper: { .sessionsRetention($0) }, settings: ["SB_WORKER_RETAIN_SESSIONS": "720h"], table: "sessions",
      columns: "user_id, token_hash, expires_at", values: "repeat('u', 1000), n::text::bytea, \(later)"),
    Case(
      sweeper: { .enrollmentTokensRetention($0) }, settings: ["SB_WORKER_RETAIN_ENROLLMENT_TOKENS": "720h"],
      table: "agent_enrollment_tokens", columns: "token_hash, expires_at",
      values: "(n || repeat('u', 1000))::bytea, \(later)"),
    Case(
      sweeper: { .revealSessionsRetention($0) }, settings: ["SB_WORKER_RETAIN_REVEAL_SESSIONS": "720h"],
      table: "reveal_sessions",
      columns: "user_id, project_id, environment_id, ttl_seconds, wrap_ids, expires_at, expired_at",
      values: "repeat('u', 1000), gen_random_uuid(), gen_random_uuid(), 60, '{}', \(later), now()"),
    Case(
      sweeper: { .jobsRetention($0) }, settings: ["SB_WORKER_RETAIN_JOBS": "720h"], table: "sync_jobs",
      columns: "job_type, status, correlation_id, payload",
      values: "'sync', 'succeeded', gen_random_uuid(), to_jsonb(repeat('u', 1000))"),
    Case(
      sweeper: { .secretsMissingRetention($0) }, settings: ["SB_WORKER_RETAIN_SECRETS_MISSING": "720h"],
      table: "secrets", columns: "cluster_name, provider_type, secret_ref, status, checksum",
      values: "'c', 'vault', n::text, 'missing', repeat('u', 1000)"),
    Case(
      sweeper: { .gitopsObservationsRetention($0) }, settings: ["SB_WORKER_RETAIN_GITOPS_OBSERVATIONS": "720h"],
      table: "gitops_observations",
      columns: "request_id, argocd_endpoint_id, application_name, polling_state, terminal_at",
      values: "gen_random_uuid(), gen_random_uuid(), repeat('u', 1000), 'applied', now()"),
  ]

  /// Pages that all sessions together have read so far.
  private static func pagesRead(of table: String) -> String {
    """
    SELECT heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0) FROM pg_statio_user_tables
     WHERE relname = '\(table)'
    """
  }

  @Test(arguments: cases)
  func aRunWithNothingDueReadsAHandfulOfPages(item: Case) async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      ALTER TABLE \(item.table) DISABLE TRIGGER ALL;
      ALTER TABLE \(item.table) SET (fillfactor = 10, autovacuum_enabled = false);
      \(item.before)
      INSERT INTO \(item.table) (\(item.columns)) SELECT \(item.values) FROM generate_series(1, \(Self.rows)) AS n;
      ANALYZE \(item.table)
      """)
    let sweeper = item.sweeper(try plane.settings(item.settings))
    let pages = try #require(
      Int(try await plane.sql("SELECT pg_relation_size('\(item.table)') / current_setting('block_size')::int")))
    try #require(pages > 2 * FullPass.smallTablePages, "\(pages)")
    // The first run makes the pass, where the sweeper has one.
    let first = try await onLoop { try await plane.sweep(sweeper) }
    #expect(first.found == 0)
    let before = try #require(Int(try await plane.settled(Self.pagesRead(of: item.table))))
    #expect(try await onLoop { try await plane.sweep(sweeper, progress: first.progress) }.found == 0)
    let read = try #require(Int(try await plane.settled(Self.pagesRead(of: item.table)))) - before
    print("\(sweeper.name): \(read) of \(pages) pages")
    #expect(read <= Self.pageLimit + (item.readsTable ? pages : 0), "\(sweeper.name)")
  }
}

extension ControlPlane {
  /// The answer of a query about statistics. Sessions tell what they did when they end.
  func settled(_ query: String) async throws -> String {
    try await onLoop {
      try await eventually("no session is left") {
        try await sql(
          """
          SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
          """) == "0"
      }
    }
    return try await sql(query)
  }
}
