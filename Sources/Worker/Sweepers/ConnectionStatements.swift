// The SQL of discovery by connection. Pure text.
// Invariants: a job's id is derived from its connection and the state of its last discovery, which every claim and
// every result changes; a connection is marked as running only if its job exists.

import Reactor

/// The statements for one pair of tables.
@EventLoop
package struct ConnectionStatements {
  /// The namespace of the jobs' ids, so that nothing else produces the same ones. Never changed.
  static let idNamespace = "secrets-bridge-worker discover connection"

  /// The names of provider_connections and sync_jobs for SQL.
  let connections: String
  let moments: MomentColumns
  let jobs: String
  /// Whether a connection gets another job while one is queued.
  let pilesUp: Bool
  /// How long after its limit a running discovery without a result stops blocking the next one.
  let patience: Duration

  /// Parameters: how many connections to return, and how many to skip. Answers id and last_discover_at (µs; null:
  /// never) of due connections, the longest overdue first.
  package var due: String {
    CatalogSQL.qualified(
      """
      SELECT connection.id::text, \(MomentKey.key(of: "connection.last_discover_at"))
        FROM \(connections) AS connection
       WHERE \(moments.isUnchanged) AND \(isDue)
       ORDER BY \(Self.order) LIMIT $1::bigint OFFSET $2::bigint
      """)
  }

  /// Parameter: ids of connections. Inserts a job for each that is due and not locked, and passes these connections'
  /// ids to `mark`. Answers how many there are, and how many of their jobs are new.
  ///
  /// The job's id needs no unique index: the connection's row is locked, and an earlier statement took the guard's
  /// advisory lock.
  package var insert: String {
    CatalogSQL.qualified(
      """
      WITH due AS MATERIALIZED (
        SELECT connection.id, connection.cluster_name, connection.type, connection.scope,
               connection.last_discover_at, connection.last_discover_started_at
          FROM \(connections) AS connection
         WHERE \(GuardStatements.filter) AND \(moments.isUnchanged) AND (connection.id = ANY ($1::uuid[]))
           AND \(isDue)
         ORDER BY \(Self.order)
           FOR UPDATE SKIP LOCKED),
      job AS MATERIALIZED (
        SELECT connection.id AS connection_id, named.id AS id,
               jsonb_build_object('cluster_name', connection.cluster_name) AS agent_scope,
               jsonb_build_object('connection_id', connection.id, 'target_provider_type', connection.type,
                                  'target_provider_config', connection.scope,
                                  'cluster_name', connection.cluster_name) AS payload
          FROM due AS connection CROSS JOIN LATERAL (SELECT \(Self.jobID) AS id) AS named),
      fresh AS MATERIALIZED (
        SELECT id, agent_scope, payload FROM job
         WHERE NOT EXISTS (
                 SELECT FROM \(jobs) AS earlier
                  WHERE (earlier.correlation_id = job.id) AND (earlier.job_type = 'discover'))),
      inserted AS (
        INSERT INTO \(jobs) (id, job_type, status, correlation_id, agent_scope, payload)
        SELECT id, 'discover', 'queued', id, agent_scope, payload FROM fresh
            ON CONFLICT DO NOTHING)
      SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM fresh),
             set_config('sb.claimed', coalesce((SELECT array_agg(connection_id)::text FROM job), '{}'), true)
      """)
  }

  /// Marks the connections of `insert` as running, in the same transaction. Answers how many of their jobs exist, and
  /// how many connections were marked.
  package var mark: String {
    CatalogSQL.qualified(
      """
      WITH enqueued AS MATERIALIZED (
        SELECT connection.id
          FROM \(connections) AS connection CROSS JOIN LATERAL (SELECT \(Self.jobID) AS id) AS named
         WHERE \(GuardStatements.filter) AND (connection.id = ANY (current_setting('sb.claimed')::uuid[]))
           AND EXISTS (
                 SELECT FROM \(jobs) AS job
                  WHERE (job.correlation_id = named.id) AND (job.job_type = 'discover'))),
      marked AS (
        UPDATE \(connections) AS connection
           SET last_discover_status = 'running', last_discover_started_at = clock_timestamp(),
               last_discover_error = NULL
         WHERE (connection.id = ANY (ARRAY(SELECT id FROM enqueued)))
        RETURNING 1)
      SELECT (SELECT count(*) FROM enqueued), (SELECT count(*) FROM marked)
      """)
  }

  /// Parameter: a JSON array of pairs of a cluster and a type. Answers the indexes, from 1, of pairs that a connection
  /// with discovery also has.
  package static func covered(by connections: String) -> String {
    CatalogSQL.qualified(
      """
      SELECT configured.number
        FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS configured (target, number)
       WHERE EXISTS (
               SELECT FROM \(connections) AS connection
                WHERE connection.discover_enabled AND (connection.status = 'active')
                  AND (connection.cluster_name = (configured.target ->> 0))
                  AND (connection.type = (configured.target ->> 1)))
       ORDER BY configured.number
      """)
  }

  /// Parameter: the OID of sync_jobs. Answers whether a trigger could discard new jobs, and the unique indexes, except
  /// that of the id, on which `insert` could have skipped them.
  static let obstacles = CatalogSQL.qualified(
    """
    WITH RECURSIVE \(CatalogSQL.tree(from: "SELECT $1::oid AS oid"))
    SELECT EXISTS (
             SELECT FROM tree JOIN "pg_catalog"."pg_trigger" AS trigger ON (trigger.tgrelid = tree.oid)
              WHERE (trigger.tgenabled <> 'D') AND NOT trigger.tgisinternal AND ((trigger.tgtype & 4) <> 0)),
           (SELECT string_agg(index.relname, ', ' ORDER BY index.relname)
              FROM tree
              JOIN "pg_catalog"."pg_index" AS entry ON (entry.indrelid = tree.oid)
              JOIN "pg_catalog"."pg_class" AS index ON (index.oid = entry.indexrelid)
             WHERE (entry.indisunique OR entry.indisexclusion) AND entry.indislive
               AND NOT EXISTS (
                 SELECT FROM "pg_catalog"."pg_attribute" AS "column"
                  WHERE ("column".attrelid = entry.indrelid) AND ("column".attnum = entry.indkey[0])
                    AND ("column".attname = 'id') AND (entry.indnkeyatts = 1)))
    """)

  private static let order = "connection.last_discover_at NULLS FIRST, connection.id"

  /// A running discovery keeps its connection from being due until it times out.
  private var isDue: String {
    """
    (connection.status = 'active' AND connection.discover_enabled AND (connection.cluster_name <> '')
      AND (connection.last_discover_at IS NULL
        OR (connection.last_discover_at <= (now() - (connection.discover_interval_seconds * '1 second'::interval))))
      AND (connection.last_discover_status IS NULL OR (connection.last_discover_status <> 'running')
        OR connection.last_discover_started_at IS NULL
        OR (connection.last_discover_started_at
          < (now() - (\(DiscoveryLimit.interval) + '\(patience.milliseconds) ms'::interval))))\(hasNoQueuedJob))
    """
  }

  /// Reads the queued jobs once per statement, whatever their number and the planner's estimate. NOT EXISTS may read
  /// them once per connection.
  private var hasNoQueuedJob: String {
    if pilesUp { return "" }
    return """

        AND NOT (coalesce((
          SELECT jsonb_object_agg((earlier.payload ->> 'connection_id'), true) FROM \(jobs) AS earlier
           WHERE (earlier.status = 'queued') AND (earlier.job_type = 'discover')
             AND ((earlier.payload ->> 'connection_id') IS NOT NULL)), '{}'::jsonb) ? connection.id::text)
      """
  }

  /// A version 8 UUID (RFC 9562, section 5.8) of the connection and of its last discovery and last claim.
  ///
  /// A result changes last_discover_at and a claim last_discover_started_at, so each due time has a new id. If someone
  /// writes an old state of the row back, the id is that of the existing job.
  private static let jobID = """
    (SELECT concat(substr(digest, 1, 12), '8', substr(digest, 14, 3), '8', substr(digest, 18, 15))::uuid
       FROM (SELECT encode(sha256(convert_to(concat('\(idNamespace) ', connection.id, ' ',
               \(moment("connection.last_discover_at")), ' ', \(moment("connection.last_discover_started_at"))),
               'UTF8')), 'hex') AS digest) AS hashed)
    """

  /// A moment as text, whatever the session's settings.
  private static func moment(_ column: String) -> String {
    "CASE WHEN isfinite(\(column)) THEN \(GuardStatements.microseconds(column))::text"
      + " ELSE coalesce(\(column)::text, 'never') END"
  }
}
