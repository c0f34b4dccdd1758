// The rest of the control plane: it inserts rows, sends agent heartbeats, claims jobs, and rediscovers secrets.
// Invariant: it creates every kind of row that a sweeper must change, and every kind that it must leave alone.

import Foundation
import Reactor

/// The rows of the harness.
enum Workload {
  /// How often rows come.
  static let period = Duration.milliseconds(400)

  private static let wrap = """
    INSERT INTO secret_wraps (key_name, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash,
      byte_length, expires_at, consumed_at, consumed_by_user)
    """

  /// One tick's changes: a few rows of each kind, some due at once, some shortly, some much later.
  static let tick = """
    \(wrap) SELECT 'k', '\(Planted.mark)wrap'::bytea, '', '', 'kms', '', 1, now() + due, consumed, who
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', '-1 s', '1 h']::interval[],
        ARRAY[NULL, NULL, NULL, now(), now()], ARRAY[NULL, NULL, NULL, '\(Planted.mark)user', 'somebody'])
        AS wrap (due, consumed, who);
    INSERT INTO secrets (cluster_name, provider_type, secret_ref, provider_config, labels, last_seen_at)
      SELECT 'c', 'vault', gen_random_uuid()::text, '{"token": "\(Planted.mark)config"}', '{"a": "b"}',
        now() - interval '24 h' + due FROM unnest(ARRAY['-1 s', '1500 ms', '1 h']::interval[]) AS secret (due);
    UPDATE secrets SET status = 'present', last_seen_at = now()
      WHERE id = (SELECT id FROM secrets WHERE status = 'missing' LIMIT 1);
    INSERT INTO agents (name, secret_hash, status, last_seen_at)
      SELECT 'agent ' || gen_random_uuid(), '\(Planted.mark)hash'::bytea, status, now() - interval '5 min' + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', NULL, '-1 s']::interval[],
        ARRAY['active', 'active', 'active', 'active', 'revoked']) AS agent (due, status);
    UPDATE agents SET last_seen_at = now(), status = 'active'
      WHERE id IN (SELECT id FROM agents WHERE status IN ('active', 'stale') AND name LIKE 'agent%'
        ORDER BY random() LIMIT 3);
    INSERT INTO sync_jobs (job_type, status, correlation_id, claim_expires_at, payload)
      SELECT 'sync', status, gen_random_uuid(), now() + due, '{"value": "\(Planted.mark)payload"}'
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', NULL, NULL]::interval[],
        ARRAY['claimed', 'claimed', 'claimed', 'claimed', 'queued']) AS job (due, status);
    UPDATE sync_jobs SET claim_expires_at = now() + interval '1 h'
      WHERE id = (SELECT id FROM sync_jobs WHERE status = 'claimed' AND claim_expires_at < now()
        AND NOT payload ? 'poison' LIMIT 1 FOR UPDATE SKIP LOCKED);
    DELETE FROM agents WHERE name LIKE 'slow%' AND status = 'stale';
    \(shown)
    \(later)
    \(retained)
    WITH done AS (
      UPDATE sync_jobs SET status = 'succeeded'
       WHERE job_type = 'discover' AND status = 'queued' AND payload ? 'connection_id' AND random() < 0.5
      RETURNING (payload->>'connection_id')::uuid AS id)
    UPDATE provider_connections AS connection
       SET last_discover_status = 'success', last_discover_at = clock_timestamp() - interval '58500 ms'
      FROM done WHERE connection.id = done.id;
    """

  /// Reveal sessions with three wraps each, one of them consumed; and a read, as by the api, of the wraps of sessions
  /// that have just ended.
  private static let shown = """
    WITH wrap AS MATERIALIZED (
      SELECT gen_random_uuid() AS id, session, number FROM generate_series(1, 2) AS session,
        generate_series(1, 3) AS number),
    shown AS (
      INSERT INTO secret_wraps (id, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length,
        key_name, expires_at, consumed_at, consumed_by_user)
      SELECT id, '\(Planted.mark)shown'::bytea, '', '', 'kms', '', 1, 'shown', now() + interval '1 h',
        CASE WHEN number = 3 THEN now() END, CASE WHEN number = 3 THEN 'somebody' END FROM wrap)
    INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, expires_at, wrap_ids)
      SELECT '\(Planted.mark)user', gen_random_uuid(), gen_random_uuid(), 60,
        now() + CASE session WHEN 1 THEN interval '-1 s' ELSE interval '1500 ms' END, array_agg(id)
      FROM wrap GROUP BY session;
    INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, expires_at, wrap_ids)
      VALUES ('\(Planted.mark)user', gen_random_uuid(), gen_random_uuid(), 60, now() + interval '1 h', '{}');
    \(leaks);
    """

  /// Records readable wraps of sessions that have just ended.
  static let leaks = """
    INSERT INTO chaos.leaks (schema, wrap)
      SELECT current_schema(), wrap.id
        FROM reveal_sessions AS session CROSS JOIN unnest(session.wrap_ids) AS shown (id)
        JOIN secret_wraps AS wrap ON wrap.id = shown.id
       WHERE session.expired_at > now() - interval '10 s' AND session.expired_reason = 'ttl'
         AND wrap.consumed_at IS NULL AND wrap.expires_at > clock_timestamp()
    """

  /// Requests whose window or workflow has ended, requests without a workflow, and discoveries without a result.
  private static let later = """
    INSERT INTO access_requests (requester_id, type, status, fill_expires_at)
      SELECT '\(Planted.mark)user', 'cross_team', status, now() + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', '-1 s']::interval[],
        ARRAY['pending_values', 'pending_values', 'pending_values', 'pending_verification']) AS request (due, status);
    INSERT INTO access_requests (requester_id, type, workflow_id, created_at)
      SELECT '\(Planted.mark)user', 'read', (SELECT id FROM workflow_definitions WHERE name = workflow),
        now() - interval '1 h' + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '30 min', '-1 s']::interval[], ARRAY['hour', 'hour', 'hour', NULL])
        AS request (due, workflow);
    INSERT INTO provider_connections (name, type, auth_method, cluster_name, discover_interval_seconds,
      last_discover_status, last_discover_started_at)
      SELECT 'stuck ' || gen_random_uuid(), 'vault', 'token', 'c', 60, 'running', now() - interval '10 min' + due
      FROM unnest(ARRAY['-1 s', '1500 ms']::interval[]) AS connection (due);
    UPDATE sync_jobs SET status = 'succeeded' WHERE job_type = 'verify' AND status = 'queued' AND random() < 0.1;
    INSERT INTO sync_jobs (job_type, correlation_id) VALUES ('verify', gen_random_uuid());
    """

  /// Rows that ended a day ago, end shortly, or ended recently. Some of the jobs and secrets are referenced.
  private static let retained = """
    INSERT INTO sessions (user_id, token_hash, expires_at, revoked_at)
      SELECT '\(Planted.mark)user', gen_random_uuid()::text::bytea, now() + interval '1 h',
        now() - interval '24 h' + due FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', NULL]::interval[]) AS session (due);
    INSERT INTO agent_enrollment_tokens (token_hash, expires_at, consumed_at)
      SELECT gen_random_uuid()::text::bytea, now() + interval '1 h', now() - interval '24 h' + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', NULL]::interval[]) AS token (due);
    INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, opened_at, expires_at, expired_at,
      expired_reason, wrap_ids)
      SELECT '\(Planted.mark)user', gen_random_uuid(), gen_random_uuid(), 60, now() - interval '26 h',
        now() - interval '25 h', now() - interval '24 h' + due, 'user_hide', '{}'
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h']::interval[]) AS session (due);
    WITH job AS (
      INSERT INTO sync_jobs (job_type, status, correlation_id, updated_at)
      SELECT 'patch', status, gen_random_uuid(), now() - interval '24 h' + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', '-1 s', '-1 s']::interval[],
        ARRAY['succeeded', 'failed', 'expired', 'queued', 'succeeded']) AS job (due, status)
      RETURNING id, status)
    INSERT INTO access_requests (requester_id, type, status, job_id)
      SELECT '\(Planted.mark)user', 'patch', 'executed', id FROM job WHERE status = 'succeeded' LIMIT 1;
    WITH secret AS (
      INSERT INTO secrets (cluster_name, provider_type, secret_ref, status, last_seen_at, updated_at)
      SELECT 'c', 'vault', gen_random_uuid()::text, 'missing', now() - interval '49 h', now() - interval '24 h' + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', '-1 s']::interval[]) AS secret (due)
      RETURNING id)
    INSERT INTO project_secrets (project_id, secret_id) SELECT gen_random_uuid(), id FROM secret LIMIT 1;
    INSERT INTO gitops_observations (request_id, argocd_endpoint_id, application_name, polling_state, terminal_at)
      SELECT (SELECT id FROM access_requests LIMIT 1), (SELECT id FROM argocd_endpoints LIMIT 1), 'a', state,
        now() - interval '24 h' + due
      FROM unnest(ARRAY['-1 s', '1500 ms', '1 h', NULL]::interval[],
        ARRAY['applied', 'failed', 'applied_unverified', 'active']) AS observation (due, state);
    """

  /// What the ticks refer to: connections whose discovery ends soon and is due again shortly after, a workflow, an
  /// endpoint.
  static let beginning = """
    INSERT INTO provider_connections (name, type, auth_method, scope, discover_enabled, cluster_name,
      discover_interval_seconds)
    SELECT 'connection ' || n, 'vault', 'token', '{"token": "\(Planted.mark)scope"}', true, 'c', 60
      FROM generate_series(1, 12) AS n;
    INSERT INTO workflow_definitions (name, request_ttl) VALUES ('hour', '1 hour');
    INSERT INTO argocd_endpoints (name, base_url, token_ciphertext, token_data_key_ciphertext, token_nonce,
      token_kms_key_id) VALUES ('argocd', 'https://argocd.example.com', '\(Planted.mark)token', '', '', 'kms');
    """

  /// Rows of a load. Each takes 5 ms, and a batch at most one second: the sweep takes longer than the lease.
  static let loadRows = 800
  /// The longest sweep of a load without faults.
  static let loadTime = Duration.seconds(8)

  /// The same for a role that cannot read ctid. Its batches are limited by keys, not by pages, and the first one is cut
  /// off after a second.
  static let keyedLoadRows = 1_000

  /// Due rows whose sweep takes longer than a lease: four fill a page, so the sweep takes many batches.
  static func load(_ table: String, isKeyed: Bool = false) -> String {
    let (rows, size, spread) = isKeyed ? (keyedLoadRows, 100, "n * interval '1 ms'") : (loadRows, 1_800, "interval '0'")
    return table == "agents"
      ? """
      INSERT INTO agents (name, secret_hash, last_seen_at, agent_version)
        SELECT 'slow ' || gen_random_uuid(), '', now() - interval '1 h' - \(spread), repeat('x', \(size))
        FROM generate_series(1, \(rows)) AS n
      """
      : """
      \(wrap) SELECT 'slow', repeat('x', \(size))::bytea, '', '', 'kms', '', 1,
          now() - interval '1 s' - \(spread), NULL, NULL
        FROM generate_series(1, \(rows)) AS n
      """
  }

  /// A due row that no worker can change, and the condition that finds it.
  static func poison(_ table: String) -> (row: String, condition: String) {
    switch table {
    case "agents":
      (
        "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('poison', '', now() - interval '1 h')",
        "name = 'poison'"
      )
    case "secrets":
      (
        """
        INSERT INTO secrets (cluster_name, provider_type, secret_ref, last_seen_at)
          VALUES ('c', 'vault', 'poison', now() - interval '25 h')
        """, "secret_ref = 'poison'"
      )
    case "sync_jobs":
      (
        """
        INSERT INTO sync_jobs (job_type, status, correlation_id, claim_expires_at, payload)
          VALUES ('sync', 'claimed', gen_random_uuid(), now() - interval '1 h', '{"poison": true}')
        """, "payload ? 'poison'"
      )
    case "reveal_sessions":
      (
        """
        INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, expires_at, wrap_ids)
          VALUES ('poison', gen_random_uuid(), gen_random_uuid(), 60, now() - interval '1 h', '{}')
        """, "user_id = 'poison'"
      )
    case "access_requests":
      (
        """
        INSERT INTO access_requests (requester_id, type, status, fill_expires_at)
          VALUES ('poison', 'cross_team', 'pending_values', now() - interval '1 h')
        """, "requester_id = 'poison'"
      )
    default:
      ("\(wrap) VALUES ('poison', '', '', '', 'kms', '', 1, now() - interval '1 s', NULL, NULL)", "key_name = 'poison'")
    }
  }

  /// Frees the space of swept loads; otherwise more and more empty pages would precede the next one.
  static let tidy = "VACUUM secret_wraps, agents"

  /// Ticks until cancelled, skipping ticks that a faulted PostgreSQL does not accept.
  static func run(on cluster: Cluster, schema: String = "public") async {
    for number in 1... {
      do {
        try await cluster.sql(number.isMultiple(of: 8) ? tidy : tick, schema: schema)
      } catch {
        // The next attempt follows anyway.
      }
      do { try await Task.sleep(for: period) } catch { return }
      if Task.isCancelled { return }
    }
  }

  /// Inserts a load into a table, even if PostgreSQL is faulted at first.
  static func put(_ table: String, on cluster: Cluster) async throws {
    for _ in 0..<200 {
      do {
        try await cluster.sql(load(table, isKeyed: cluster.options.surroundings.role == .columns))
        return
      } catch {
        try await Task.sleep(for: .milliseconds(50))
      }
    }
    throw HarnessFault("a load could not be put into \(table)")
  }
}
