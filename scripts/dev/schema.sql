-- The control plane's tables as the worker finds them: columns, checks, indexes, triggers. The api owns the real
-- schema; this one is for development and tests only.
-- Invariant: it contains everything that the worker's statements rely on. Loading it twice changes nothing.
-- Loaded into an empty database by scripts/run, Tests/Measure and the tests.

SET client_min_messages = warning;

BEGIN;

-- Requests by users. The worker never reads it; it exists for the foreign keys that reference it.
CREATE TABLE IF NOT EXISTS access_requests (
  id          UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

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
CREATE INDEX IF NOT EXISTS agents_by_status ON agents (status);
CREATE INDEX IF NOT EXISTS agents_by_last_seen ON agents (last_seen_at);

-- Envelope-encrypted values in flight: single use, short-lived. The only table without updated_at.
CREATE TABLE IF NOT EXISTS secret_wraps (
  id                   UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  request_id           UUID REFERENCES access_requests ON DELETE CASCADE,
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
  request_id        UUID REFERENCES access_requests,
  payload           JSONB NOT NULL DEFAULT '{}',
  created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS sync_jobs_queued ON sync_jobs (status, created_at) WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS sync_jobs_by_correlation ON sync_jobs (correlation_id);

-- Discovery targets: the successor of SB_DISCOVER_TARGETS_JSON.
CREATE TABLE IF NOT EXISTS provider_connections (
  id                         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  name                       TEXT NOT NULL UNIQUE,
  type                       TEXT NOT NULL CHECK (type IN ('aws-sm', 'vault', 'gcp-sm', 'azure-kv', 'kubernetes')),
  auth_method                TEXT NOT NULL,
  scope                      JSONB NOT NULL DEFAULT '{}',
  status                     TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
  cluster_name               TEXT,
  description                TEXT,
  discover_enabled           BOOLEAN NOT NULL DEFAULT false,
  discover_interval_seconds  INTEGER NOT NULL DEFAULT 300 CHECK (discover_interval_seconds BETWEEN 60 AND 86400),
  last_discover_at           TIMESTAMPTZ,
  last_discover_status       TEXT CHECK (last_discover_status IN ('success', 'failure', 'running')),
  last_discover_error        TEXT,
  last_discover_started_at   TIMESTAMPTZ,
  last_discover_finished_at  TIMESTAMPTZ,
  created_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
  CONSTRAINT provider_connections_discovery_names_a_cluster
    CHECK (NOT discover_enabled OR cluster_name IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS provider_connections_by_last_discovery
  ON provider_connections (last_discover_at NULLS FIRST) WHERE discover_enabled;

-- Optional, off by default: Argo CD's status of an application after a change.
CREATE TABLE IF NOT EXISTS argocd_endpoints (
  id                         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  name                       TEXT NOT NULL,
  environment_id             UUID,
  base_url                   TEXT NOT NULL,
  token_ciphertext           BYTEA NOT NULL,
  token_data_key_ciphertext  BYTEA NOT NULL,
  token_nonce                BYTEA NOT NULL,
  token_kms_key_id           TEXT NOT NULL,
  tls_ca_pem                 TEXT,
  tls_server_name            TEXT,
  enabled                    BOOLEAN NOT NULL DEFAULT true,
  last_health_at             TIMESTAMPTZ,
  last_health_error          TEXT,
  deleted_at                 TIMESTAMPTZ,
  created_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at                 TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS gitops_observations (
  id                     UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  request_id             UUID NOT NULL REFERENCES access_requests ON DELETE CASCADE,
  argocd_endpoint_id     UUID NOT NULL REFERENCES argocd_endpoints,
  application_name       TEXT NOT NULL,
  application_namespace  TEXT,
  polling_state          TEXT NOT NULL DEFAULT 'queued'
                         CHECK (polling_state IN ('queued', 'active', 'applied', 'applied_unverified', 'failed')),
  observed_state         JSONB NOT NULL DEFAULT '{}',
  last_polled_at         TIMESTAMPTZ,
  polls_count            INTEGER NOT NULL DEFAULT 0,
  last_error             TEXT,
  timeout_at             TIMESTAMPTZ,
  terminal_at            TIMESTAMPTZ,
  created_at             TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at             TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Append-only, and never written by the worker.
CREATE TABLE IF NOT EXISTS audit_events (
  id          UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  actor       TEXT NOT NULL,
  action      TEXT NOT NULL,
  details     JSONB NOT NULL DEFAULT '{}',
  created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE OR REPLACE TRIGGER agents_updated_at BEFORE UPDATE ON agents
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER sync_jobs_updated_at BEFORE UPDATE ON sync_jobs
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER secrets_updated_at BEFORE UPDATE ON secrets
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER provider_connections_updated_at BEFORE UPDATE ON provider_connections
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER gitops_observations_updated_at BEFORE UPDATE ON gitops_observations
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER argocd_endpoints_updated_at BEFORE UPDATE ON argocd_endpoints
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE OR REPLACE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

COMMIT;
