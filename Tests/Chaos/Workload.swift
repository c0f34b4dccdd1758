// What the control plane's other parts do meanwhile: rows come, agents beat, jobs are claimed, secrets are found again.
// Invariant: each kind of row exists that a sweeper has to change, and each that it must leave alone.

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

  /// One tick's changes: a few rows of each kind, some of them due at once, some in a moment, some not for long.
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
    WITH done AS (
      UPDATE sync_jobs SET status = 'succeeded'
       WHERE job_type = 'discover' AND status = 'queued' AND payload ? 'connection_id' AND random() < 0.5
      RETURNING (payload->>'connection_id')::uuid AS id)
    UPDATE provider_connections AS connection
       SET last_discover_status = 'success', last_discover_at = clock_timestamp() - interval '58500 ms'
      FROM done WHERE connection.id = done.id;
    """

  /// Connections whose discovery is done soon and due again a moment later: see `tick`.
  static let connections = """
    INSERT INTO provider_connections (name, type, auth_method, scope, discover_enabled, cluster_name,
      discover_interval_seconds)
    SELECT 'connection ' || n, 'vault', 'token', '{"token": "\(Planted.mark)scope"}', true, 'c', 60
      FROM generate_series(1, 12) AS n;
    """

  /// How many rows a load has. Each takes 5 ms, though a batch at most a second: the sweep takes longer than the lease.
  static let loadRows = 800
  /// How long the sweep of a load takes at most, where nothing is broken.
  static let loadTime = Duration.seconds(8)

  /// The same for a role that may not read where rows lie. Its batches are of so many keys, not of so many pages, and
  /// the first one is cut off after a second.
  static let keyedLoadRows = 1_000

  /// Due rows whose sweep takes longer than a lease: four fill a page, so many batches are needed.
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
    default:
      ("\(wrap) VALUES ('poison', '', '', '', 'kms', '', 1, now() - interval '1 s', NULL, NULL)", "key_name = 'poison'")
    }
  }

  /// Gives the space of loads that were swept back, or ever more empty pages would lie before the next one.
  static let tidy = "VACUUM secret_wraps, agents"

  /// Ticks until it is cancelled. A tick that PostgreSQL does not take, for a fault lies on it, is left out.
  static func run(on cluster: Cluster, schema: String = "public") async {
    for number in 1... {
      do {
        try await cluster.sql(number.isMultiple(of: 8) ? tidy : tick, schema: schema)
      } catch {
        // The next one comes anyway.
      }
      do { try await Task.sleep(for: period) } catch { return }
      if Task.isCancelled { return }
    }
  }

  /// Puts a load into a table, also where a fault lies on PostgreSQL at first.
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
