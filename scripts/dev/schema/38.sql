-- What migrations 29 to 38 add to the control plane's tables: agents' enrollment tokens, and projects' secrets.
-- Invariant: it contains everything that the worker's statements rely on. Loading it twice changes nothing.
-- Loaded after 28.sql.

SET client_min_messages = warning;

BEGIN;

-- A new agent enrolls with such a token, once: kept for ever.
CREATE TABLE IF NOT EXISTS agent_enrollment_tokens (
  id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  token_hash   BYTEA NOT NULL UNIQUE,
  expires_at   TIMESTAMPTZ NOT NULL,
  consumed_at  TIMESTAMPTZ,
  revoked_at   TIMESTAMPTZ,
  created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS agent_enrollment_tokens_by_expiry ON agent_enrollment_tokens (expires_at);
CREATE INDEX IF NOT EXISTS agent_enrollment_tokens_by_consumption ON agent_enrollment_tokens (consumed_at);
CREATE INDEX IF NOT EXISTS agent_enrollment_tokens_by_revocation ON agent_enrollment_tokens (revoked_at);

-- Which secrets a project uses. The worker knows it by its foreign key alone.
CREATE TABLE IF NOT EXISTS project_secrets (
  id          UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  project_id  UUID NOT NULL,
  secret_id   UUID NOT NULL REFERENCES secrets ON DELETE CASCADE,
  created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
  UNIQUE (project_id, secret_id)
);
CREATE INDEX IF NOT EXISTS project_secrets_by_secret ON project_secrets (secret_id);

COMMIT;
