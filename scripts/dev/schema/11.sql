-- The control plane's tables at its 11th migration, the oldest that the worker supports. The api owns the real schema;
-- this one is for development and tests only. 28.sql and 38.sql contain what later migrations add.
-- Invariant: it contains everything that the first five sweepers rely on. Loading it twice changes nothing.
-- Loaded into an empty database by scripts/run, Tests/Measure and the tests.

SET client_min_messages = warning;

BEGIN;

-- Agents execute jobs inside a target cluster. A heartbeat sets last_seen_at and makes a stale agent active again.
CREATE TABLE IF NOT EXISTS agents (
  id                UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  name              TEXT NOT NULL UNIQUE,
  scope             JSONB NOT NULL DEFAULT '{}',
  status            TEXT NOT NULL DEFAULT 'active'
                    CHECK (status IN ('enrolled', 'active', 'stale', 'error', 'disabled', 'revoked')),
  secret_hash       BYTEA NOT NULL,
  last_seen_at      TIMESTAMPTZ,
  cluster_name      TEXT,
  agent_version     TEXT,
  protocol_version  TEXT,
  created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Envelope-encrypted values in flight: single use, short-lived. The only table without updated_at.
CREATE TABLE IF NOT EXISTS secret_wraps (
  id                   UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  request_id           UUID,
  environment_id       UUID,
  issued_via           TEXT NOT NULL DEFAULT 'request' CHECK (issued_via IN ('request', 'direct_reveal')),
  key_name             TEXT,
  encrypted_value      BYTEA NOT NULL,
  nonce                BYTEA NOT NULL,
  data_key_ciphertext  BYTEA NOT NULL,
  kms_key_id           TEXT NOT NULL,
  algorithm            TEXT NOT NULL DEFAULT 'AES-256-GCM',
  content_hash         BYTEA NOT NULL,
  byte_length          INTEGER NOT NULL CHECK (byte_length >= 0),
  expires_at           TIMESTAMPTZ NOT NULL,
  consumed_at          TIMESTAMPTZ,
  consumed_by_agent    UUID REFERENCES agents ON DELETE SET NULL,
  consumed_by_user     TEXT,
  created_at           TIMESTAMPTZ NOT NULL DEFAULT now(),
  CONSTRAINT secret_wraps_consumed_by_exactly_one
    CHECK (num_nonnulls(consumed_by_agent, consumed_by_user) = CASE WHEN consumed_at IS NULL THEN 0 ELSE 1 END)
);
CREATE INDEX IF NOT EXISTS secret_wraps_by_request ON secret_wraps (request_id) WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS secret_wraps_one_key_a_request ON secret_wraps (request_id, key_name)
  WHERE request_id IS NOT NULL AND key_name IS NOT NULL;
-- Only unconsumed rows: no index covers the expiry of consumed ones.
CREATE INDEX IF NOT EXISTS secret_wraps_by_expiry ON secret_wraps (expires_at) WHERE consumed_at IS NULL;
CREATE INDEX IF NOT EXISTS secret_wraps_by_environment ON secret_wraps (environment_id);
CREATE INDEX IF NOT EXISTS secret_wraps_by_way_of_issue ON secret_wraps (issued_via);

-- The catalogue of discovered secrets, metadata only. A later discovery sets a row back to present.
CREATE TABLE IF NOT EXISTS secrets (
  id                 UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  cluster_name       TEXT NOT NULL,
  provider_type      TEXT NOT NULL,
  secret_ref         TEXT NOT NULL,
  provider_config    JSONB NOT NULL DEFAULT '{}',
  labels             JSONB NOT NULL DEFAULT '{}',
  version            TEXT,
  checksum           TEXT,
  created_at_source  TIMESTAMPTZ,
  updated_at_source  TIMESTAMPTZ,
  status             TEXT NOT NULL DEFAULT 'present' CHECK (status IN ('present', 'missing')),
  first_seen_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
  last_seen_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
  created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
  UNIQUE (cluster_name, provider_type, secret_ref)
);
CREATE INDEX IF NOT EXISTS secrets_by_last_seen ON secrets (last_seen_at);
CREATE INDEX IF NOT EXISTS secrets_by_cluster ON secrets (cluster_name);
CREATE INDEX IF NOT EXISTS secrets_by_label ON secrets USING gin (labels);

-- The agents' job queue. Agents claim queued rows, and claimed rows whose claim has expired, oldest first.
CREATE TABLE IF NOT EXISTS sync_jobs (
  id                UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_scope       JSONB NOT NULL DEFAULT '{}',
  job_type          TEXT NOT NULL CHECK (job_type IN ('sync', 'discover', 'verify', 'delete', 'patch', 'read')),
  status            TEXT NOT NULL DEFAULT 'queued'
                    CHECK (status IN ('queued', 'claimed', 'succeeded', 'failed', 'expired')),
  correlation_id    UUID NOT NULL,
  claimed_by        UUID REFERENCES agents ON DELETE SET NULL,
  claim_expires_at  TIMESTAMPTZ,
  request_id        UUID,
  payload           JSONB NOT NULL DEFAULT '{}',
  created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS sync_jobs_queued ON sync_jobs (status, created_at) WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS sync_jobs_by_correlation ON sync_jobs (correlation_id);

-- Connections to providers. Discovery uses them from a later migration on.
CREATE TABLE IF NOT EXISTS provider_connections (
  id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  name         TEXT NOT NULL UNIQUE,
  type         TEXT NOT NULL CHECK (type IN ('aws-sm', 'vault', 'gcp-sm', 'azure-kv', 'kubernetes')),
  auth_method  TEXT NOT NULL,
  scope        JSONB NOT NULL DEFAULT '{}',
  status       TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
  description  TEXT,
  created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER agents_updated_at BEFORE UPDATE ON agents
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER sync_jobs_updated_at BEFORE UPDATE ON sync_jobs
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER secrets_updated_at BEFORE UPDATE ON secrets
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER provider_connections_updated_at BEFORE UPDATE ON provider_connections
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMIT;
