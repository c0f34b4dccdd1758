// Rows of the control plane whose fate is known: those that are due and those that are not, by a second, a minute, or
// for ever. Invariant: a comparison names each row that is not what it should be, and each that was written needlessly.

import Reactor

@testable import Worker

/// The rows that the surroundings' tests sweep, and what becomes of each.
enum FixedRows {
  /// One row of one table.
  private struct Row {
    let label: String
    let state: String
    /// SQL for the moment that the sweeper looks at.
    let moment: String
    /// The state after a sweep; nil if unchanged.
    var becomes: String?
  }

  /// Rows of either kind beside those that have a label of their own: some pages of each table.
  private static let bulk = 60

  private static let gone = "gone"

  private static let wraps =
    pairs(["unconsumed", "consumed"]) { state in
      [
        Row(label: "due \(state) 1 s", state: state, moment: "now() - interval '1 s'", becomes: gone),
        Row(label: "due \(state) 2 d", state: state, moment: "now() - interval '2 d'", becomes: gone),
        Row(label: "due \(state) from the beginning", state: state, moment: "'-infinity'", becomes: gone),
        Row(label: "live \(state) 1 min", state: state, moment: "now() + interval '1 min'"),
        Row(label: "live \(state) 20 d", state: state, moment: "now() + interval '20 d'"),
        Row(label: "live \(state) for ever", state: state, moment: "'infinity'"),
      ]
    }
    + many { n in
      Row(
        label: "due \(n)", state: n % 3 == 0 ? "consumed" : "unconsumed", moment: "now() - interval '\(n * n) s'",
        becomes: gone)
    }
    + many { n in
      Row(
        label: "live \(n)", state: n % 3 == 0 ? "consumed" : "unconsumed", moment: "now() + interval '\(60 + n * n) s'")
    }

  private static let secrets = aged("24 h", from: "present", to: "missing", others: ["missing"])

  private static let agents =
    aged(
      "5 min", from: "active", to: "stale", others: ["enrolled", "stale", "error", "disabled", "revoked"])
    + [Row(label: "never seen", state: "active", moment: "NULL")]

  private static let jobs =
    aged("0", from: "claimed", to: "expired", others: ["queued", "succeeded", "failed", "expired"])
    + [
      Row(label: "claimed for ever", state: "claimed", moment: "NULL"),
      Row(label: "queued", state: "queued", moment: "NULL"),
    ]

  /// Rows of a sweeper that turns `state` into another one when its moment is `age` old.
  private static func aged(_ age: String, from state: String, to other: String, others: [String]) -> [Row] {
    let cutoff = "now() - interval '\(age)'"
    return [
      Row(label: "due 1 s", state: state, moment: "\(cutoff) - interval '1 s'", becomes: other),
      Row(label: "due 2 d", state: state, moment: "\(cutoff) - interval '2 d'", becomes: other),
      Row(label: "due from the beginning", state: state, moment: "'-infinity'", becomes: other),
      Row(label: "live 1 min", state: state, moment: "\(cutoff) + interval '1 min'"),
      Row(label: "live 20 d", state: state, moment: "\(cutoff) + interval '20 d'"),
      Row(label: "live for ever", state: state, moment: "'infinity'"),
    ]
      + others.map { Row(label: "old and \($0)", state: $0, moment: "\(cutoff) - interval '2 d'") }
      + many { Row(label: "due \($0)", state: state, moment: "\(cutoff) - interval '\($0 * $0) s'", becomes: other) }
      + many { Row(label: "live \($0)", state: state, moment: "\(cutoff) + interval '\(60 + $0 * $0) s'") }
  }

  private static func pairs(_ states: [String], _ rows: (String) -> [Row]) -> [Row] { states.flatMap(rows) }

  private static func many(_ row: (Int) -> Row) -> [Row] { (1...bulk).map(row) }

  // MARK: Loading

  /// What refers to others comes first.
  static let tables = ["secret_wraps", "secrets", "sync_jobs", "agents"]

  /// What puts all rows into the tables of `schema`, in place of what was there, in one transaction. The last one
  /// answers which transaction it was.
  ///
  /// - Parameter truncates: what is much faster where it is done again and again, for no dead rows stay behind. Rows
  ///   that refer to them, of requests and sessions, go too.
  static func load(into schema: String, truncates: Bool = false) -> [PostgresStatement] {
    let tables = tables.map { "\(schema).\($0)" }
    let truncation = "TRUNCATE \(tables.joined(separator: ", ")) CASCADE"
    let deletes = truncates ? [truncation] : tables.map { "DELETE FROM \($0)" }
    let inserts = [
      """
      INSERT INTO \(schema).secret_wraps (key_name, consumed_at, consumed_by_user, expires_at, encrypted_value, nonce,
        data_key_ciphertext, kms_key_id, content_hash, byte_length) VALUES
      """
        + list(wraps) { row in
          let isConsumed = row.state == "consumed"
          return "\(isConsumed ? "now()" : "NULL"), \(isConsumed ? "'someone'" : "NULL"), \(row.moment)"
            + ", '', '', '', 'k', '', 0"
        },
      "INSERT INTO \(schema).secrets (secret_ref, status, last_seen_at, cluster_name, provider_type) VALUES"
        + list(secrets) { "'\($0.state)', \($0.moment), 'c', 'vault'" },
      "INSERT INTO \(schema).agents (name, status, last_seen_at, secret_hash) VALUES"
        + list(agents) { "'\($0.state)', \($0.moment), ''" },
      "INSERT INTO \(schema).sync_jobs (payload, status, claim_expires_at, job_type, correlation_id) VALUES"
        + list(jobs, label: json) { "'\($0.state)', \($0.moment), 'sync', gen_random_uuid()" },
    ]
    return (deletes + inserts + ["SELECT pg_current_xact_id()::xid::text"]).map { PostgresStatement($0) }
  }

  private static func json(_ label: String) -> String { "'{\"label\": \"\(label)\"}'" }

  private static func list(
    _ rows: [Row], label: (String) -> String = { "'\($0)'" }, _ values: (Row) -> String
  ) -> String {
    rows.map { " (\(label($0.label)), \(values($0)))" }.joined(separator: ",")
  }

  // MARK: Comparing

  /// The targets that discovery enqueues, and what the tables' comparison expects of it.
  static let targets = """
    [{"name": "a", "cluster": "c1", "provider_type": "vault", "provider_config": {"ü": [0.1, 12345678901234567890]}},
     {"name": "b", "cluster": "c2", "provider_type": "aws-sm", "scope": {"prefix": "it's \\\\ \\"app\\""}}]
    """
  /// The same in the characters that every encoding of a database has.
  static let plainTargets = targets.replacing("ü", with: "u")

  static let discovered = 2

  /// How many rows each sweeper changes.
  static let due: [String: Int] = [
    "wraps-expired": count(wraps), "secrets-stale": count(secrets), "agents-stale": count(agents),
    "jobs-recovery": count(jobs), "discover-scheduler": discovered,
  ]

  private static func count(_ rows: [Row]) -> Int { rows.count { $0.becomes != nil } }

  /// Makes the table of what should be there after a sweep, once a database.
  static func wanted(targets: String) -> String {
    func rows(_ table: String, _ rows: [Row]) -> [String] {
      rows.filter { $0.becomes != gone }
        .map { "('\(table)', '\($0.label)', '\($0.becomes ?? $0.state)', \($0.becomes != nil))" }
    }
    let all =
      rows("secret_wraps", wraps) + rows("secrets", secrets) + rows("agents", agents) + rows("sync_jobs", jobs)
    return """
      DROP SCHEMA IF EXISTS wanted CASCADE;
      CREATE SCHEMA wanted;
      CREATE TABLE wanted.rows (relation text, label text, state text, is_touched boolean);
      INSERT INTO wanted.rows VALUES \(all.joined(separator: ","));
      INSERT INTO wanted.rows
      SELECT 'discovery', job::text, 'queued', true
        FROM jsonb_array_elements('\(targets.replacing("'", with: "''"))') AS target,
        jsonb_build_object('scope', jsonb_build_object('cluster_name', target->'cluster'), 'payload',
          jsonb_strip_nulls(jsonb_build_object('target_provider_type', target->'provider_type',
            'cluster_name', target->'cluster', 'scope', target->'scope'))
          || jsonb_build_object('target_provider_config', target->'provider_config')) AS job
      """
  }

  /// Answers the rows that are not what they should be, in words; null if there is none. Parameters: the transaction
  /// that loaded them, and whether rows that are due may have stayed as they were.
  static func difference(in schema: String) -> String {
    """
    WITH actual AS (
      SELECT relation, label, min(state) AS state, count(*) AS number, bool_or(loader <> $1) AS is_touched
        FROM (
          SELECT 'secret_wraps', key_name::text, CASE WHEN consumed_at IS NULL THEN 'unconsumed' ELSE 'consumed' END,
                 xmin::text
            FROM \(schema).secret_wraps
           UNION ALL SELECT 'secrets', secret_ref::text, status::text, xmin::text FROM \(schema).secrets
           UNION ALL SELECT 'agents', name::text, status::text, xmin::text FROM \(schema).agents
           UNION ALL SELECT CASE WHEN job_type::text = 'discover' THEN 'discovery' ELSE 'sync_jobs' END,
                 coalesce(payload->>'label', jsonb_build_object('scope', agent_scope, 'payload', payload)::text),
                 status::text, xmin::text FROM \(schema).sync_jobs
          ) AS row (relation, label, state, loader)
       GROUP BY relation, label)
    SELECT string_agg(concat(relation, ' "', label, '" is ', coalesce(actual.state, 'gone'), ' ', actual.number,
        ' times', CASE WHEN actual.is_touched THEN ', was written' END, ', and should be ',
        coalesce(wanted.state, 'gone')), '; ')
      FROM actual FULL JOIN wanted.rows AS wanted USING (relation, label)
     WHERE (actual.state IS DISTINCT FROM wanted.state OR actual.is_touched IS DISTINCT FROM wanted.is_touched
         OR actual.number <> 1)
       AND NOT ($2::boolean AND (coalesce(wanted.is_touched, false) OR label LIKE 'due%'))
    """
  }
}
