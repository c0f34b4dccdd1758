-- What secrets-bridge-worker needs of PostgreSQL for these sweepers, and nothing else. Printed by
-- `secrets-bridge-worker grants ROLE`, which other settings print other grants for. To be run in the control
-- plane's database as the owner of its tables, with their schema first in the search path; again after a
-- migration. Swept tables are read as a whole, by the place of their rows: the columns alone would do, slowly.
BEGIN;
DO $grants$ BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', current_schema(), '"secrets_bridge_worker"');
END $grants$;

-- wraps-expired: Deletes secret wraps past their expiry, consumed or not.
GRANT SELECT, DELETE ON secret_wraps TO "secrets_bridge_worker";

-- secrets-stale: Marks present secrets missing that no discovery has seen for long.
GRANT SELECT, UPDATE (status) ON secrets TO "secrets_bridge_worker";

-- agents-stale: Marks active agents stale whose last heartbeat is too old.
GRANT SELECT, UPDATE (status) ON agents TO "secrets_bridge_worker";

-- jobs-recovery: Expires jobs whose claim ran out, or puts them back in the queue.
GRANT SELECT, UPDATE (status) ON sync_jobs TO "secrets_bridge_worker";

-- discover-connections: Queues one discover job for each provider connection that is due.
DO $grants$ BEGIN
  IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('provider_connections')
          AND NOT attisdropped AND attname IN ('cluster_name', 'discover_enabled', 'discover_interval_seconds', 'last_discover_at', 'last_discover_status', 'last_discover_error', 'last_discover_started_at')) = 7 THEN
    GRANT SELECT (id, type, scope, status, cluster_name, discover_enabled, discover_interval_seconds, last_discover_at, last_discover_status, last_discover_started_at), UPDATE (last_discover_status, last_discover_started_at, last_discover_error) ON provider_connections TO "secrets_bridge_worker";
    GRANT SELECT (job_type, status, correlation_id, payload), INSERT (id, job_type, status, correlation_id, agent_scope, payload) ON sync_jobs TO "secrets_bridge_worker";
  END IF;
END $grants$;

-- cross-team-fill-window-expired: Expires cross-team requests whose values were not filled in in time.
DO $grants$ BEGIN
  IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('access_requests')
          AND NOT attisdropped AND attname IN ('type', 'status', 'fill_expires_at')) = 3 THEN
    GRANT SELECT, UPDATE (status) ON access_requests TO "secrets_bridge_worker";
  END IF;
END $grants$;

-- connections-stuck: Marks discoveries of connections failed that have brought no result in time.
DO $grants$ BEGIN
  IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('provider_connections')
          AND NOT attisdropped AND attname IN ('discover_interval_seconds', 'last_discover_status', 'last_discover_error', 'last_discover_started_at', 'last_discover_finished_at')) = 5 THEN
    GRANT SELECT, UPDATE (last_discover_status, last_discover_finished_at, last_discover_error) ON provider_connections TO "secrets_bridge_worker";
  END IF;
END $grants$;

-- reveal-sessions-expired: Ends reveal sessions past their expiry, and with each its unconsumed wraps.
DO $grants$ BEGIN
  IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('reveal_sessions')
          AND NOT attisdropped AND attname IN ('id', 'expires_at', 'expired_at', 'expired_reason', 'wrap_ids')) = 5 THEN
    GRANT SELECT, UPDATE (expired_at, expired_reason) ON reveal_sessions TO "secrets_bridge_worker";
    GRANT SELECT (id, consumed_at, expires_at), UPDATE (expires_at) ON secret_wraps TO "secrets_bridge_worker";
  END IF;
END $grants$;

-- Optional, as a superuser: status and check show what the sessions of other roles do that hold up a sweep, and
-- SB_WORKER_MAX_REPLICATION_LAG sees how far standbys are behind.
-- GRANT pg_read_all_stats TO "secrets_bridge_worker";

COMMIT;
