-- Millions of rows for measurements: psql -v wraps=2000000 -v secrets=0 -v agents=0 -v jobs=0 -v due=50 -f rows.sql
-- Loaded into an empty database after the schema. `due` percent of each table's rows are due, spread evenly over its
-- pages. Every second wrap is consumed, due or not. With -v reveals=1000, so many reveal sessions with three unread
-- wraps each are added, whose table the schema must have.
-- Invariant: the same numbers make the same rows, and the tables are vacuumed and analyzed at the end.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
-- 999983 is prime, so due rows follow no pattern of pages.
CREATE OR REPLACE FUNCTION pg_temp.is_due(number BIGINT, percent NUMERIC) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE
  RETURN (number * 7919 % 999983) % 1000 < percent * 10;

INSERT INTO secret_wraps
  (environment_id, issued_via, key_name, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash,
   byte_length, expires_at, consumed_at, consumed_by_user)
SELECT ('00000000-0000-0000-0000-' || lpad((number % 50)::text, 12, '0'))::uuid,
  CASE number % 3 WHEN 0 THEN 'direct_reveal' ELSE 'request' END, 'KEY_' || number,
  decode(repeat(md5(number::text), 4), 'hex'), decode(left(md5(number::text), 24), 'hex'),
  decode(repeat(md5(number::text), 4), 'hex'), 'alias/wraps', decode(repeat(md5(number::text), 2), 'hex'), 48,
  CASE WHEN pg_temp.is_due(number, :due) THEN now() - interval '1 ms' * number
       ELSE now() + interval '1 day' + interval '1 ms' * number END,
  CASE WHEN number / 7 % 2 = 0 THEN now() - interval '2 days' END,
  CASE WHEN number / 7 % 2 = 0 THEN 'someone@example.com' END
FROM generate_series(1, :wraps) AS number;

INSERT INTO secrets (cluster_name, provider_type, secret_ref, labels, version, checksum, first_seen_at, last_seen_at)
SELECT 'cluster-' || number % 20, 'vault', 'teams/' || number % 1000 || '/secret-' || number,
  jsonb_build_object('team', 'team-' || number % 1000, 'stage', 'stage-' || number % 3), '1', md5(number::text),
  now() - interval '30 days',
  CASE WHEN pg_temp.is_due(number, :due) THEN now() - interval '2 days' - interval '1 ms' * number
       ELSE now() + interval '1 day' END
FROM generate_series(1, :secrets) AS number;

INSERT INTO agents (name, scope, secret_hash, cluster_name, agent_version, last_seen_at)
SELECT 'agent-' || number, jsonb_build_object('cluster_name', 'cluster-' || number % 1000),
  decode(repeat(md5(number::text), 2), 'hex'), 'cluster-' || number % 1000, '1.0.0',
  CASE WHEN pg_temp.is_due(number, :due) THEN now() - interval '1 hour' - interval '1 ms' * number
       ELSE now() + interval '1 day' END
FROM generate_series(1, :agents) AS number;

INSERT INTO sync_jobs (job_type, status, correlation_id, claim_expires_at, agent_scope, payload)
SELECT 'sync', 'claimed', gen_random_uuid(),
  CASE WHEN pg_temp.is_due(number, :due) THEN now() - interval '1 hour' ELSE now() + interval '1 day' END,
  jsonb_build_object('cluster_name', 'cluster-' || number % 1000), jsonb_build_object('note', md5(number::text))
FROM generate_series(1, :jobs) AS number;

\if :{?reveals}
\else
\set reveals 0
\endif
SELECT :reveals > 0 AS has_reveals \gset
\if :has_reveals
INSERT INTO secret_wraps
  (id, issued_via, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
SELECT md5(number || ' ' || wrap)::uuid, 'direct_reveal', decode(repeat(md5(number::text), 4), 'hex'),
  decode(left(md5(number::text), 24), 'hex'), decode(repeat(md5(number::text), 4), 'hex'), 'alias/wraps',
  decode(repeat(md5(number::text), 2), 'hex'), 48, now() + interval '1 day' + interval '1 ms' * number
FROM generate_series(1, :reveals) AS number, generate_series(1, 3) AS wrap;

INSERT INTO reveal_sessions
  (user_id, project_id, environment_id, ttl_seconds, opened_at, expires_at, wrap_ids)
SELECT 'someone@example.com', md5((number % 50)::text)::uuid, md5((number % 5)::text)::uuid, 60,
  now() - interval '1 day',
  CASE WHEN pg_temp.is_due(number, :due) THEN now() - interval '1 ms' * number
       ELSE now() + interval '1 day' + interval '1 ms' * number END,
  ARRAY[md5(number || ' 1')::uuid, md5(number || ' 2')::uuid, md5(number || ' 3')::uuid]
FROM generate_series(1, :reveals) AS number;
VACUUM (ANALYZE) reveal_sessions;
\endif

VACUUM (ANALYZE) secret_wraps, secrets, agents, sync_jobs;
CHECKPOINT;
