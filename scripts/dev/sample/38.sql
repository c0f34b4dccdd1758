-- Sample rows of the tables that schema/38.sql adds: for retention, where it is on, some due and some not.
-- Invariant: every value is a plain fake. Loaded once, after sample/28.sql.

BEGIN;

INSERT INTO agent_enrollment_tokens (token_hash, expires_at, consumed_at, revoked_at)
SELECT convert_to('sample, no real hash ' || name, 'UTF8'), now() + expiry, now() + consumed, now() + revoked
FROM (VALUES
  ('expired', interval '-40 days', NULL::interval, NULL::interval),
  ('consumed', interval '1 day', interval '-40 days', NULL),
  ('revoked', interval '1 day', NULL, interval '-1 hour'),
  ('open', interval '1 day', NULL, NULL)
) AS kind (name, expiry, consumed, revoked);

-- Of 3 secrets that have been missing for 40 days a project uses one.
INSERT INTO secrets (cluster_name, provider_type, secret_ref, status, first_seen_at, last_seen_at, updated_at)
SELECT 'sample-east', 'vault', 'gone/' || number, 'missing', now() - interval '90 days', now() - interval '41 days',
  now() - interval '40 days'
FROM generate_series(1, 3) AS number;
INSERT INTO project_secrets (project_id, secret_id)
SELECT gen_random_uuid(), id FROM secrets WHERE secret_ref = 'gone/1';

COMMIT;

ANALYZE secrets, agent_enrollment_tokens, project_secrets;
