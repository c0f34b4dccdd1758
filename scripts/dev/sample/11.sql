-- Sample rows: for each of the first five sweepers some that are due and some that are not.
-- Invariant: every value is a plain fake. Loaded once, after schema/11.sql and all later migrations that are loaded, by
-- scripts/run and Tests/Measure.
-- The discover scheduler needs no rows: its targets are in SB_DISCOVER_TARGETS_JSON.

BEGIN;

-- agents-stale: 3 active and silent are due; a fresh one, one never seen and the other states are not.
INSERT INTO agents (name, status, secret_hash, last_seen_at, cluster_name, agent_version)
SELECT name, status, 'sample, no real hash'::bytea, now() - age, cluster, '0.0.0-sample'
FROM (VALUES
  ('silent-for-ten-minutes', 'active', interval '10 minutes', 'sample-east'),
  ('silent-for-two-hours', 'active', interval '2 hours', 'sample-west'),
  ('silent-for-a-week', 'active', interval '7 days', 'sample-west'),
  ('never-seen', 'active', NULL, 'sample-east'),
  ('enrolled-and-never-seen', 'enrolled', NULL, 'sample-east'),
  ('already-stale', 'stale', interval '1 day', 'sample-west'),
  ('revoked-long-ago', 'revoked', interval '90 days', 'sample-west')
) AS sample (name, status, age, cluster);
-- Seen an hour from now: it stays fresh for as long as a development session lasts.
INSERT INTO agents (name, status, secret_hash, last_seen_at, cluster_name, agent_version)
VALUES ('fresh', 'active', 'sample, no real hash', now() + interval '1 hour', 'sample-east', '0.0.0-sample');

-- wraps-expired: 40 unconsumed and 25 consumed ones that have expired are due; 30 live and 5 consumed ones are not.
INSERT INTO secret_wraps
  (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, issued_via, key_name,
   expires_at, consumed_at, consumed_by_agent, consumed_by_user)
SELECT 'sample, not a secret', 'sample-nonce', 'sample, no data key', 'sample-kms-key', 'sample, no real hash', 20,
  CASE number % 3 WHEN 0 THEN 'direct_reveal' ELSE 'request' END, 'SAMPLE_KEY_' || number,
  CASE WHEN expired THEN now() - interval '1 second' * number ELSE now() + interval '1 day' END,
  CASE WHEN consumed THEN now() - interval '1 hour' END,
  CASE WHEN consumed AND number % 2 = 0 THEN (SELECT id FROM agents WHERE name = 'fresh') END,
  CASE WHEN consumed AND number % 2 = 1 THEN 'sample.user@example.com' END
FROM
  (VALUES (true, false, 40), (true, true, 25), (false, false, 30), (false, true, 5)) AS kind (expired, consumed, rows),
  generate_series(1, kind.rows) AS number;

-- secrets-stale: 12 present and not seen for over a day are due; 50 fresh ones and 6 that are missing already are not.
INSERT INTO secrets (cluster_name, provider_type, secret_ref, labels, version, status, first_seen_at, last_seen_at)
SELECT 'sample-east', 'vault', kind.status || '/' || kind.age || '/' || number, '{"owner": "sample"}', '1', kind.status,
  now() - interval '30 days', now() - kind.age
FROM (VALUES
  ('present', interval '25 hours', 12),
  ('present', interval '10 minutes', 50),
  ('missing', interval '3 days', 6)
) AS kind (status, age, rows), generate_series(1, kind.rows) AS number;

-- jobs-recovery: 4 claimed and expired are due; claimed live, claimed without an expiry, queued and done ones are not.
-- queue-watch, where it is on: 3 of the queued ones have waited for ten minutes.
INSERT INTO sync_jobs
  (job_type, status, correlation_id, created_at, claimed_by, claim_expires_at, agent_scope, payload)
SELECT kind.type, kind.status, gen_random_uuid(),
  now() - CASE WHEN kind.status = 'queued' AND number <= 3 THEN interval '10 minutes' ELSE '0' END,
  CASE kind.status WHEN 'claimed' THEN (SELECT id FROM agents WHERE name = 'silent-for-two-hours') END,
  now() + kind.claim, '{"cluster_name": "sample-west"}', '{"note": "sample"}'
FROM (VALUES
  ('sync', 'claimed', interval '-1 minute', 3),
  ('patch', 'claimed', interval '-2 hours', 1),
  ('verify', 'claimed', interval '1 day', 2),
  ('sync', 'claimed', NULL, 1),
  ('sync', 'queued', NULL, 5),
  ('read', 'succeeded', NULL, 8),
  ('delete', 'failed', NULL, 1)
) AS kind (type, status, claim, rows), generate_series(1, kind.rows) AS number;

INSERT INTO provider_connections (name, type, auth_method, scope)
VALUES
  ('sample-vault', 'vault', 'kubernetes', '{"address": "https://vault.example.com"}'),
  ('sample-gcp', 'gcp-sm', 'workload-identity', '{"project": "sample"}'),
  ('sample-aws', 'aws-sm', 'irsa', '{"region": "eu-central-1"}');

COMMIT;

-- The planner and the worker's own estimates see the rows at once.
ANALYZE agents, secret_wraps, secrets, sync_jobs, provider_connections;
