-- Sample rows of the tables and columns that schema/28.sql adds: for each sweeper some that are due and some that are
-- not. Invariant: every value is a plain fake. Loaded once, after sample/11.sql.

BEGIN;

-- Discovery by connection: sample-vault has never been discovered and is due. sample-gcp has been running without a
-- result for a day, which is more than connections-stuck allows; its discovery was turned off meanwhile.
UPDATE provider_connections SET cluster_name = 'sample-east', discover_enabled = true WHERE name = 'sample-vault';
UPDATE provider_connections
   SET cluster_name = 'sample-west', discover_enabled = false, last_discover_status = 'running',
       last_discover_started_at = now() - interval '1 day', last_discover_at = now() - interval '1 day'
 WHERE name = 'sample-gcp';

INSERT INTO workflow_definitions (name, request_ttl) VALUES ('sample-slow', '14 days'), ('sample-fast', '1 hour');

-- requests-expired: 3 pending for longer than their workflow allows are due.
INSERT INTO access_requests (requester_id, type, status, workflow_id, created_at)
SELECT 'sample.user@example.com', kind.type, kind.status, workflow.id, now() - kind.age
FROM (VALUES
  ('read', 'pending', 'sample-slow', interval '15 days', 1),
  ('update', 'pending', 'sample-fast', interval '2 hours', 2),
  ('read', 'pending', 'sample-slow', interval '2 hours', 4),
  ('read', 'executed', 'sample-slow', interval '90 days', 5)
) AS kind (type, status, workflow, age, rows)
JOIN workflow_definitions AS workflow ON workflow.name = kind.workflow, generate_series(1, kind.rows);

-- cross-team-fill-window-expired: 2 that nobody filled in in time are due; an open one and a filled one are not.
INSERT INTO access_requests (requester_id, type, status, fill_expires_at)
SELECT 'sample.user@example.com', 'cross_team', kind.status, now() + kind.window
FROM (VALUES
  ('pending_values', interval '-1 hour', 2),
  ('pending_values', interval '1 day', 1),
  ('pending_verification', interval '-1 hour', 1)
) AS kind (status, "window", rows), generate_series(1, kind.rows);

-- reveal-sessions-expired: 3 have run out, with 2 unread wraps each; one is open, one was closed by its user.
WITH shown AS (
  INSERT INTO secret_wraps
    (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, key_name, expires_at)
  SELECT 'sample, not a secret', 'sample-nonce', 'sample, no data key', 'sample-kms-key', 'sample, no real hash', 20,
    'SAMPLE_SHOWN_' || number, now() + interval '1 hour'
  FROM generate_series(1, 10) AS number
  RETURNING id, key_name),
numbered AS (SELECT id, (row_number() OVER (ORDER BY key_name) - 1) / 2 AS session FROM shown)
INSERT INTO reveal_sessions
  (user_id, project_id, environment_id, ttl_seconds, opened_at, expires_at, expired_at, expired_reason, wrap_ids)
SELECT 'sample.user@example.com', gen_random_uuid(), gen_random_uuid(), 60, now() - interval '10 minutes',
  now() + CASE session WHEN 3 THEN interval '1 hour' ELSE interval '-9 minutes' END,
  CASE session WHEN 4 THEN now() - interval '40 days' END, CASE session WHEN 4 THEN 'user_hide' END, array_agg(id)
FROM numbered GROUP BY session;

-- Retention, where it is on: one user's session ended 40 days ago and one an hour ago, and one is open.
INSERT INTO sessions (user_id, token_hash, created_at, expires_at, idle_expires_at, revoked_at, ip, user_agent)
SELECT 'sample.user@example.com', convert_to('sample, no real hash ' || name, 'UTF8'), now() - interval '90 days',
  now() + expiry, now() + idle, now() + revoked, '192.0.2.1', 'sample'
FROM (VALUES
  ('expired', interval '-40 days', interval '-41 days', NULL::interval),
  ('revoked', interval '1 day', interval '1 hour', interval '-1 hour'),
  ('open', interval '1 day', interval '1 hour', NULL)
) AS kind (name, expiry, idle, revoked);

-- The same for jobs: 5 ended 40 days ago.
INSERT INTO sync_jobs (job_type, status, correlation_id, created_at, updated_at)
SELECT 'sync', 'succeeded', gen_random_uuid(), now() - interval '40 days', now() - interval '40 days'
FROM generate_series(1, 5);

INSERT INTO argocd_endpoints
  (name, base_url, token_ciphertext, token_data_key_ciphertext, token_nonce, token_kms_key_id)
VALUES ('sample-argocd', 'https://argocd.example.com', 'sample, no token', 'sample, no data key', 'sample-nonce',
  'sample-kms-key');
INSERT INTO gitops_observations (request_id, argocd_endpoint_id, application_name, polling_state, terminal_at)
SELECT request.id, endpoint.id, 'sample-' || kind.state, kind.state, now() - kind.age
FROM (VALUES ('applied', interval '40 days'), ('failed', interval '1 hour'), ('queued', NULL)) AS kind (state, age),
  argocd_endpoints AS endpoint,
  (SELECT id FROM access_requests WHERE status = 'executed' ORDER BY id LIMIT 1) AS request;

INSERT INTO audit_events (actor, action, resource, status, correlation_id)
VALUES ('sample.user@example.com', 'request.created', 'access_request:sample', 'success', gen_random_uuid());

COMMIT;

ANALYZE provider_connections, workflow_definitions, access_requests, secret_wraps, reveal_sessions, sessions, sync_jobs,
  argocd_endpoints, gitops_observations, audit_events;
