// Each sweeper that needs a later schema, row by row: what it changes and what it leaves.

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

  @Test func whereAskedToADiscoveryGivenUpLeavesALineInTheAuditTrail() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, last_discover_started_at, last_discover_status)
      VALUES ('a', 'vault', 'token', now() - interval '1 day', 'running')
      """)
    let sweeper = Sweeper.connectionsStuck(try plane.settings(["SB_WORKER_AUDIT_EVENTS": "true"]))
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
    #expect(
      try await plane.sql(
        """
        SELECT actor, action, event.status, resource = 'provider_connection:' || connection.id,
          event.metadata = jsonb_build_object('connection_id', connection.id, 'status', 'failure', 'has_error', true)
        FROM audit_events AS event, provider_connections AS connection
        """) == "worker|provider_connection.discover_finished|failure|t|t")
  }

  // MARK: requests-expired

  private static let on = ["SB_WORKER_REQUESTS_EXPIRED_INTERVAL": "1m"]

  @Test(arguments: migrations)
  func aPendingRequestExpiresAfterItsWorkflowsTime(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      ALTER TABLE workflow_definitions ALTER COLUMN request_ttl DROP NOT NULL;
      INSERT INTO workflow_definitions (name, request_ttl) VALUES
        ('slow', '14 days'), ('fast', '1 hour'), ('month', '1 month'), ('none', NULL), ('huge', '170000000 years'),
        ('below zero', '-170000000 years');
      INSERT INTO access_requests (requester_id, type, status, workflow_id, created_at)
      SELECT kind.name, kind.type, kind.status, workflow.id, created
      FROM (VALUES
        ('due', 'read', 'pending', 'slow', now() - interval '15 days'),
        ('boundary', 'read', 'pending', 'fast', now() - interval '1 hour'),
        ('other type', 'cross_team', 'pending', 'fast', now() - interval '2 hours'),
        ('a month', 'update', 'pending', 'month', now() - interval '32 days'),
        ('below zero', 'read', 'pending', 'below zero', now()),
        ('younger', 'read', 'pending', 'fast', now() - interval '59 minutes'),
        ('slow', 'read', 'pending', 'slow', now() - interval '13 days'),
        ('no month', 'read', 'pending', 'month', now() - interval '27 days'),
        ('no time', 'read', 'pending', 'none', now() - interval '9 years'),
        ('huge', 'read', 'pending', 'huge', now() - interval '9 years'),
        ('executed', 'read', 'executed', 'fast', now() - interval '9 years')
      ) AS kind (name, type, status, workflow, created)
      JOIN workflow_definitions AS workflow ON workflow.name = kind.workflow;
      INSERT INTO access_requests (requester_id, type, created_at)
      VALUES ('no workflow', 'read', now() - interval '9 years')
      """)
    let sweeper = Sweeper.requestsExpired(try plane.settings(Self.on))
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 5)
    #expect(
      try await plane.sql(
        "SELECT string_agg(requester_id, ',' ORDER BY requester_id) FROM access_requests WHERE status = 'expired'")
        == "a month,below zero,boundary,due,other type")
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 0)
    #expect(try await plane.sql("SELECT count(*) FROM audit_events") == "0")
  }

  /// Days and months are UTC's. In Berlin the day at whose end the clocks went back has 25 hours.
  @Test func aWorkflowsTimeIsTheSameInEveryTimeZone() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO workflow_definitions (name, request_ttl)
        SELECT 'w', (now() - '2025-10-25 22:00Z') - interval '30 min';
      INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
      SELECT 'r', 'read', id, '2025-10-25 22:00Z' FROM workflow_definitions
      """)
    try await plane.set("TimeZone", "Europe/Berlin")
    let sweeper = Sweeper.requestsExpired(try plane.settings(Self.on))
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
  }

  /// The shortcut by the least time finds each request that its own workflow's time makes due, whatever a month has.
  @Test func requestsExpireAsTheirOwnWorkflowSaysWhateverTheLeastTime() async throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SeededRandom(seed: seed)
    let plane = try await ControlPlane.fresh()
    for _ in 0..<12 {
      let (months, days) = (Int.random(in: -3...30, using: &random), Int.random(in: -100...100, using: &random))
      let time = "\(months) months \(days) days \(Int.random(in: 0..<86_400, using: &random)) seconds"
      let lengths = try await plane.sql(
        """
        DELETE FROM access_requests;
        DELETE FROM workflow_definitions;
        INSERT INTO workflow_definitions (name, request_ttl) VALUES ('w', greatest('\(time)', '0 seconds'::interval));
        INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
        SELECT 'r', 'read', id, now() - request_ttl + n * interval '3 hours' + interval '1 minute'
        FROM workflow_definitions, generate_series(-80, 80) AS n;
        SELECT count(*) FROM access_requests AS request JOIN workflow_definitions AS workflow
            ON workflow.id = request.workflow_id
         WHERE (request.created_at AT TIME ZONE 'UTC' + request_ttl) AT TIME ZONE 'UTC' <= now()
           AND request.created_at <= now()
        """)
      let sweeper = Sweeper.requestsExpired(try plane.settings(Self.on))
      let changed = try await onLoop { try await plane.sweep(sweeper) }.changed
      #expect("\(changed)" == lengths, "\(time), seed \(seed)")
    }
  }

  /// Looking up a workflow takes most of the time that a pending request costs.
  @Test func aRunWithNothingDueLooksUpHardlyAnyWorkflow() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO workflow_definitions (name, request_ttl) VALUES ('short', '14 days'), ('long', '1 year');
      INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
      SELECT 'r', 'read', id, now() - interval '13 days' FROM workflow_definitions, generate_series(1, 1000);
      ANALYZE access_requests, workflow_definitions
      """)
    let sweeper = Sweeper.requestsExpired(try plane.settings(Self.on))
    let scans = "SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'workflow_definitions'"
    let before = try #require(Int(try await plane.settled(scans)))
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 0)
    #expect(try #require(Int(try await plane.settled(scans))) - before < 20)
  }

  @Test func whereAskedToEachExpiredRequestLeavesALineInTheAuditTrail() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO workflow_definitions (name, request_ttl) VALUES ('fast', '1 hour');
      INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
      SELECT 'r' || number, 'read', id, now() - interval '40 minutes' * number
      FROM workflow_definitions, generate_series(1, 5) AS number
      """)
    let settings = try plane.settings(Self.on.merging(["SB_WORKER_AUDIT_EVENTS": "true"]) { $1 })
    #expect(try await onLoop { try await plane.sweep(Sweeper.requestsExpired(settings)) }.changed == 4)
    let expected = try await plane.sql(
      "SELECT string_agg('access_request:' || id, ',' ORDER BY id) FROM access_requests WHERE status = 'expired'")
    #expect(
      try await plane.sql(
        """
        SELECT string_agg(resource, ',' ORDER BY resource), count(DISTINCT correlation_id), min(actor), max(actor),
          min(action), max(status) FROM audit_events
        """) == "\(expected)|4|worker|worker|request.expired|success")
    // Without the right to insert, nothing expires: a change that the trail lacks would be worse than a late one.
    try await plane.sql("UPDATE access_requests SET status = 'pending'")
    let limited = try await plane.limited(
      "SELECT, UPDATE (status) ON access_requests", "SELECT (id, request_ttl) ON workflow_definitions")
    await #expect(throws: PostgresError.self) {
      try await onLoop { try await limited.sweep(Sweeper.requestsExpired(settings)) }
    }
    #expect(try await plane.sql("SELECT count(*) FROM access_requests WHERE status = 'expired'") == "0")
  }

  // MARK: Surroundings

  /// Rows whose moments and intervals PostgreSQL can hold, and cannot add up.
  @Test func rowsAtTheEndsOfTheirTypesKeepNoOthersFromBeingChanged() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      ALTER TABLE provider_connections DROP CONSTRAINT provider_connections_discover_interval;
      INSERT INTO provider_connections (name, type, auth_method, cluster_name, discover_enabled, last_discover_at,
        last_discover_started_at, discover_interval_seconds, last_discover_status) VALUES
        ('far', 'vault', 'token', 'c', true, '294276-12-31 20:00Z', NULL, 86400, NULL),
        ('long', 'vault', 'token', 'c', true, now(), now(), 2147483647, 'running'),
        ('stuck', 'vault', 'token', 'c', true, now(), now() - interval '1 day', 60, 'running'),
        ('due', 'vault', 'token', 'c', true, '0044-03-15 BC', NULL, 60, NULL);
      INSERT INTO workflow_definitions (name, request_ttl) VALUES ('w', '9000 years');
      INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
      SELECT created, 'read', id, created::timestamptz FROM workflow_definitions,
        unnest('{294276-12-31 20:00Z,infinity,-infinity,4000-01-01 00:00Z BC}'::text[]) AS created
      """)
    let settings = try plane.settings(Self.on)
    #expect(try await onLoop { try await plane.sweep(.discoverConnections(settings)) }.changed == 1)
    #expect(try await onLoop { try await plane.sweep(.connectionsStuck(settings)) }.changed == 1)
    #expect(
      try await plane.sql(
        "SELECT string_agg(concat(name, ' ', last_discover_status), ',' ORDER BY name) FROM provider_connections")
        == "due running,far ,long running,stuck failure")
    #expect(try await onLoop { try await plane.sweep(.requestsExpired(settings)) }.changed == 2)
  }

  @Test func workflowsThatRowSecurityHidesAreRefused() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO workflow_definitions (name, request_ttl) VALUES ('w', '1 hour');
      INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
      SELECT 'due', 'read', id, now() - interval '1 day' FROM workflow_definitions;
      ALTER TABLE workflow_definitions ENABLE ROW LEVEL SECURITY
      """)
    let limited = try await plane.limited("SELECT, UPDATE ON access_requests", "SELECT ON workflow_definitions")
    let sweeper = Sweeper.requestsExpired(try plane.settings(Self.on))
    try await onLoop {
      let refusal = await #expect(throws: SweepRefusal.self) { try await limited.sweep(sweeper) }
      #expect(refusal == .rowSecurity("public.workflow_definitions"))
      let allowed = try await limited.sweep(sweeper, allowsRowSecurity: true)
      #expect(allowed.changed == 0)
    }
  }

  @Test func aRuleOnTheAuditTrailIsNamed() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, last_discover_started_at, last_discover_status)
      VALUES ('a', 'vault', 'token', now() - interval '1 day', 'running');
      CREATE RULE discard AS ON INSERT TO audit_events DO INSTEAD NOTHING
      """)
    let sweeper = Sweeper.connectionsStuck(try plane.settings(["SB_WORKER_AUDIT_EVENTS": "true"]))
    try await onLoop {
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper) }
      #expect(refusal == .rule("public.provider_connections or public.audit_events"))
    }
  }

  @Test func aStatusMayBeAnEnumeration() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, status, correlation_id, updated_at)
      SELECT 'sync', status, gen_random_uuid(), now() - interval '30 days'
        FROM unnest('{queued,claimed,succeeded,failed,expired}'::text[]) AS status;
      CREATE TYPE job_status AS ENUM ('queued', 'claimed', 'succeeded', 'failed', 'expired');
      DROP INDEX sync_jobs_queued;
      ALTER TABLE sync_jobs DROP CONSTRAINT sync_jobs_status_check, ALTER status DROP DEFAULT,
        ALTER status TYPE job_status USING status::job_status
      """)
    let sweeper = Sweeper.jobsRetention(try plane.settings(["SB_WORKER_RETAIN_JOBS": "720h"]))
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 3)
  }
}
