-- What migrations 12 to 28 add to the control plane's tables: discovery by connection, requests, users' sessions,
-- reveal sessions, GitOps, the audit trail, and indexes on agents.
-- Invariant: it contains everything that the worker's statements rely on. Loading it twice changes nothing.
-- Loaded after 11.sql.

SET client_min_messages = warning;

BEGIN;

CREATE INDEX IF NOT EXISTS agents_by_status ON agents (status);
CREATE INDEX IF NOT EXISTS agents_by_last_seen ON agents (last_seen_at);

-- Discovery targets: the successor of SB_DISCOVER_TARGETS_JSON.
ALTER TABLE provider_connections
  ADD COLUMN IF NOT EXISTS cluster_name TEXT,
  ADD COLUMN IF NOT EXISTS discover_enabled BOOLEAN NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS discover_interval_seconds INTEGER NOT NULL DEFAULT 300,
  ADD COLUMN IF NOT EXISTS last_discover_at TIMESTAMPTZ,
  ADD COLUMN IF NOT EXISTS last_discover_status TEXT,
  ADD COLUMN IF NOT EXISTS last_discover_error TEXT,
  ADD COLUMN IF NOT EXISTS last_discover_started_at TIMESTAMPTZ,
  ADD COLUMN IF NOT EXISTS last_discover_finished_at TIMESTAMPTZ,
  DROP CONSTRAINT IF EXISTS provider_connections_discover_interval,
  ADD CONSTRAINT provider_connections_discover_interval CHECK (discover_interval_seconds BETWEEN 60 AND 86400),
  DROP CONSTRAINT IF EXISTS provider_connections_last_discover_status,
  ADD CONSTRAINT provider_connections_last_discover_status
    CHECK (last_discover_status IN ('success', 'failure', 'running')),
  DROP CONSTRAINT IF EXISTS provider_connections_discovery_names_a_cluster,
  ADD CONSTRAINT provider_connections_discovery_names_a_cluster
    CHECK (NOT discover_enabled OR cluster_name IS NOT NULL);
CREATE INDEX IF NOT EXISTS provider_connections_by_last_discovery
  ON provider_connections (last_discover_at NULLS FIRST) WHERE discover_enabled;

-- How requests are approved. A pending request is to expire after request_ttl.
CREATE TABLE IF NOT EXISTS workflow_definitions (
  id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  name         TEXT NOT NULL UNIQUE,
  request_ttl  INTERVAL NOT NULL DEFAULT '14 days',
  created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- What users asked for. Someone else fills the values of a cross_team request in, until fill_expires_at.
CREATE TABLE IF NOT EXISTS access_requests (
  id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  requester_id     TEXT NOT NULL,
  type             TEXT NOT NULL CHECK (type IN ('read', 'update', 'rotate', 'patch', 'cross_team')),
  status           TEXT NOT NULL DEFAULT 'pending'
                   CHECK (status IN ('pending', 'approved', 'rejected', 'cancelled', 'executed', 'failed', 'expired')
                     OR (type = 'cross_team' AND status IN ('pending_values', 'pending_verification', 'refused'))),
  workflow_id      UUID REFERENCES workflow_definitions,
  fill_expires_at  TIMESTAMPTZ,
  job_id           UUID REFERENCES sync_jobs,
  created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at       TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS access_requests_awaiting_values ON access_requests (fill_expires_at)
  WHERE status = 'pending_values';

ALTER TABLE secret_wraps
  DROP CONSTRAINT IF EXISTS secret_wraps_request_id_fkey,
  ADD CONSTRAINT secret_wraps_request_id_fkey FOREIGN KEY (request_id) REFERENCES access_requests ON DELETE CASCADE;
ALTER TABLE sync_jobs
  DROP CONSTRAINT IF EXISTS sync_jobs_request_id_fkey,
  ADD CONSTRAINT sync_jobs_request_id_fkey FOREIGN KEY (request_id) REFERENCES access_requests;

-- Users' sessions: kept for ever, with personal data.
CREATE TABLE IF NOT EXISTS sessions (
  id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id          TEXT NOT NULL,
  token_hash       BYTEA NOT NULL UNIQUE,
  expires_at       TIMESTAMPTZ NOT NULL,
  idle_expires_at  TIMESTAMPTZ,
  revoked_at       TIMESTAMPTZ,
  ip               TEXT,
  user_agent       TEXT,
  created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
  updated_at       TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at);

-- A user looks at the values of one request. Reading a wrap's value checks only the wrap's own expiry.
CREATE TABLE IF NOT EXISTS reveal_sessions (
  id                 UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id            TEXT NOT NULL,
  project_id         UUID NOT NULL,
  environment_id     UUID NOT NULL,
  access_request_id  UUID REFERENCES access_requests,
  ttl_seconds        SMALLINT NOT NULL CHECK (ttl_seconds BETWEEN 10 AND 300),
  opened_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
  expires_at         TIMESTAMPTZ NOT NULL,
  expired_at         TIMESTAMPTZ,
  expired_reason     TEXT CHECK (expired_reason IN ('ttl', 'user_hide', 'unmount')),
  wrap_ids           UUID[] NOT NULL,
  created_at         TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS reveal_sessions_open ON reveal_sessions (expires_at) WHERE expired_at IS NULL;

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

-- The audit trail. It is append-only.
CREATE TABLE IF NOT EXISTS audit_events (
  id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  actor           TEXT NOT NULL,
  action          TEXT NOT NULL,
  resource        TEXT NOT NULL,
  status          TEXT NOT NULL CHECK (status IN ('success', 'failure', 'denied')),
  correlation_id  UUID NOT NULL,
  metadata        JSONB NOT NULL DEFAULT '{}',
  occurred_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE OR REPLACE TRIGGER access_requests_updated_at BEFORE UPDATE ON access_requests
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER gitops_observations_updated_at BEFORE UPDATE ON gitops_observations
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER argocd_endpoints_updated_at BEFORE UPDATE ON argocd_endpoints
  FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE OR REPLACE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

COMMIT;
