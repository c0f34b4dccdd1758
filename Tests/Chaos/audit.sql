-- What the chaos harness adds to its own database: every write of the workers is noted with its rows and its time,
-- sweeps can be made slow, and statements and rows can be made to fail. Never loaded anywhere else.
-- Invariants: a note is written in the transaction that it tells of, so it is there if, and only if, the write is; no
-- setting of the worker's session changes what is noted.

CREATE SCHEMA chaos;

-- One row a writing statement of a worker, also where it changed nothing.
CREATE TABLE chaos.writes (
  number       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  application  TEXT NOT NULL,
  schema       TEXT NOT NULL,
  relation     TEXT NOT NULL,
  operation    TEXT NOT NULL,
  began        TIMESTAMPTZ NOT NULL,
  ended        TIMESTAMPTZ NOT NULL,
  -- Whether it had an advisory lock: one without is refused by its guard, and changes nothing.
  guarded      BOOLEAN NOT NULL,
  changed      INTEGER NOT NULL,
  -- Rows that were not due, or that became something else than the sweeper says.
  wrong        INTEGER NOT NULL
);

-- One row a claim of a connection by a worker, with the id that its job must have.
CREATE TABLE chaos.claims (
  schema      TEXT NOT NULL,
  connection  UUID NOT NULL,
  job         UUID NOT NULL,
  at          TIMESTAMPTZ NOT NULL,
  -- The connection was not due, or became something else than running.
  wrong       BOOLEAN NOT NULL
);

-- Wraps that could be read though the worker had ended their reveal session: none, ever.
CREATE TABLE chaos.leaks (schema TEXT NOT NULL, wrap UUID NOT NULL);

-- Until when the workers' writes to a table of the first control plane fail.
CREATE TABLE chaos.failing (relation TEXT PRIMARY KEY, until TIMESTAMPTZ NOT NULL);

-- Arguments: the swept table, the rows that the statement touched, as a FROM item, and the condition of a wrong one.
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  changed INTEGER;
  wrong INTEGER;
BEGIN
  IF session_user <> 'locked' THEN RETURN NULL; END IF;
  EXECUTE format('SELECT count(*), count(*) FILTER (WHERE %s) FROM %s', TG_ARGV[2], TG_ARGV[1]) INTO changed, wrong;
  INSERT INTO chaos.writes (application, schema, relation, operation, began, ended, guarded, changed, wrong)
  VALUES (current_setting('application_name'), TG_TABLE_SCHEMA, TG_ARGV[0], TG_OP, statement_timestamp(),
          clock_timestamp(),
          EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted),
          changed, wrong);
  RETURN NULL;
END $$;

CREATE FUNCTION chaos.moment(at TIMESTAMPTZ) RETURNS TEXT LANGUAGE sql SET search_path = pg_catalog
  RETURN coalesce((extract(epoch FROM at) * 1000000)::bigint::text, 'never');

-- Of "sb-worker 5c0de123 wraps-expired 1700000000000".
CREATE FUNCTION chaos.sweeper() RETURNS TEXT LANGUAGE sql SET search_path = pg_catalog
  RETURN split_part(current_setting('application_name'), ' ', 3);

CREATE FUNCTION chaos.claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  digest TEXT;
BEGIN
  IF session_user <> 'locked' OR chaos.sweeper() <> 'discover-connections' THEN RETURN NULL; END IF;
  digest := encode(sha256(convert_to(format('secrets-bridge-worker discover connection %s %s %s', OLD.id,
    chaos.moment(OLD.last_discover_at), chaos.moment(OLD.last_discover_started_at)), 'UTF8')), 'hex');
  INSERT INTO chaos.claims (schema, connection, job, at, wrong)
  VALUES (TG_TABLE_SCHEMA, OLD.id,
          (substr(digest, 1, 12) || '8' || substr(digest, 14, 3) || '8' || substr(digest, 18, 15))::uuid,
          clock_timestamp(),
          coalesce(OLD.last_discover_status = 'running', false)
            OR coalesce(OLD.last_discover_at + OLD.discover_interval_seconds * interval '1 s' > clock_timestamp(),
                        false)
            OR NEW.last_discover_status <> 'running' OR NEW.last_discover_error IS NOT NULL
            OR NEW.last_discover_at IS DISTINCT FROM OLD.last_discover_at);
  RETURN NULL;
END $$;

-- Argument: the swept table.
CREATE FUNCTION chaos.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
  IF session_user = 'locked'
     AND EXISTS (SELECT FROM chaos.failing WHERE relation = TG_ARGV[0] AND until > clock_timestamp()) THEN
    RAISE EXCEPTION 'a row says PLANTED-7f3a9c-message'
      USING DETAIL = 'Key (value)=(PLANTED-7f3a9c-detail).', HINT = 'PLANTED-7f3a9c-hint', ERRCODE = '23514';
  END IF;
  RETURN NULL;
END $$;

-- A row that no worker can change, as one that a foreign key leads to.
CREATE FUNCTION chaos.refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF session_user = 'locked' THEN
    RAISE EXCEPTION 'a row says PLANTED-7f3a9c-message' USING ERRCODE = '23503';
  END IF;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

-- 5 ms a row, and a second a transaction at most: a batch of any size ends within a lease of three.
CREATE FUNCTION chaos.dawdle() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  slept INTEGER := coalesce(nullif(current_setting('chaos.slept', true), '')::int, 0);
BEGIN
  IF session_user = 'locked' AND slept < 200 THEN
    PERFORM pg_sleep(0.005), set_config('chaos.slept', (slept + 1)::text, true);
  END IF;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

-- Makes a table that was just created a partitioned one. What is unique there can only be the id.
CREATE PROCEDURE chaos.partition(schema TEXT, name TEXT) LANGUAGE plpgsql AS $$
DECLARE
  spot TEXT := format('%I.%I', schema, name);
  statements TEXT[];
  statement TEXT;
BEGIN
  SELECT array_agg(text) INTO statements FROM (
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = spot::regclass AND NOT indisunique
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = spot::regclass AND NOT tgisinternal
  ) AS kept (text);
  EXECUTE format('ALTER TABLE %s RENAME TO before', spot);
  IF name = 'sync_jobs' THEN
    EXECUTE format('CREATE TABLE %s (LIKE %I.before INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
      PARTITION BY RANGE (created_at)', spot, schema);
    EXECUTE format('CREATE TABLE %I.jobs_of_old PARTITION OF %s FOR VALUES FROM (MINVALUE) TO (''2025-01-01'')',
      schema, spot);
    EXECUTE format('CREATE TABLE %I.jobs_of_now PARTITION OF %s FOR VALUES FROM (''2025-01-01'') TO (MAXVALUE)
      PARTITION BY HASH (id)', schema, spot);
    EXECUTE format('CREATE TABLE %1$I.jobs_even PARTITION OF %1$I.jobs_of_now
      FOR VALUES WITH (MODULUS 2, REMAINDER 0)', schema);
    EXECUTE format('CREATE TABLE %1$I.jobs_odd PARTITION OF %1$I.jobs_of_now
      FOR VALUES WITH (MODULUS 2, REMAINDER 1)', schema);
  ELSE
    EXECUTE format('CREATE TABLE %s (LIKE %I.before INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (id))
      PARTITION BY HASH (id)', spot, schema);
    FOR part IN 0..2 LOOP
      EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES WITH (MODULUS 3, REMAINDER %s)',
        schema, name || '_' || part, spot, part);
    END LOOP;
  END IF;
  EXECUTE format('DROP TABLE %I.before CASCADE', schema);
  FOREACH statement IN ARRAY coalesce(statements, '{}') LOOP EXECUTE statement; END LOOP;
END $$;

-- Sends every other row that is not a worker's to a child.
CREATE FUNCTION chaos.to_child() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF session_user = 'locked' OR random() < 0.5 THEN RETURN NEW; END IF;
  EXECUTE format('INSERT INTO %I.%I SELECT ($1).*', TG_TABLE_SCHEMA, TG_TABLE_NAME || '_more') USING NEW;
  RETURN NULL;
END $$;

-- Gives a table a child without indexes.
CREATE PROCEDURE chaos.inherit(schema TEXT, name TEXT) LANGUAGE plpgsql AS $$
DECLARE
  statement TEXT;
BEGIN
  EXECUTE format('CREATE TABLE %1$I.%3$I () INHERITS (%1$I.%2$I)', schema, name, name || '_more');
  FOR statement IN
    SELECT pg_get_triggerdef(oid) FROM pg_trigger
     WHERE tgrelid = format('%I.%I', schema, name)::regclass AND NOT tgisinternal
  LOOP
    EXECUTE replace(statement, format(' ON %I.%I ', schema, name), format(' ON %I.%I ', schema, name || '_more'));
  END LOOP;
  EXECUTE format('CREATE TRIGGER aa_to_child BEFORE INSERT ON %I.%I FOR EACH ROW EXECUTE FUNCTION chaos.to_child()',
    schema, name);
END $$;

-- Which rows a worker must not touch, for each operation on a table, and which columns an UPDATE may change. SCHEMA
-- stands for the table's own. What an operation without a rule does is wrong.
CREATE TABLE chaos.rules (
  relation   TEXT NOT NULL,
  operation  TEXT NOT NULL,
  may_change TEXT[],
  wrong      TEXT NOT NULL,
  PRIMARY KEY (relation, operation)
);

INSERT INTO chaos.rules VALUES
  ('secret_wraps', 'DELETE', NULL, 'old.expires_at > clock_timestamp()'),
  -- A wrap expires with its reveal session, before that is marked.
  ('secret_wraps', 'UPDATE', '{expires_at}', $text$old.consumed_at IS NOT NULL OR old.expires_at <= new.expires_at
    OR new.expires_at > clock_timestamp()
    OR NOT EXISTS (SELECT FROM SCHEMA.reveal_sessions AS session WHERE old.id = ANY (session.wrap_ids)
         AND session.expired_at IS NULL AND session.expires_at <= clock_timestamp())$text$),
  ('secrets', 'UPDATE', '{status,updated_at}', $text$old.status <> 'present'
    OR old.last_seen_at >= clock_timestamp() - interval '24 hours' OR new.status <> 'missing'$text$),
  ('secrets', 'DELETE', NULL, $text$old.status <> 'missing'
    OR greatest(old.last_seen_at, old.updated_at) > clock_timestamp() - interval '24 hours'$text$),
  -- It refers to a secret: whoever deletes that takes it away.
  ('project_secrets', 'DELETE', NULL, 'true'),
  ('agents', 'UPDATE', '{status,updated_at}', $text$old.status <> 'active'
    OR old.last_seen_at >= clock_timestamp() - interval '5 minutes' OR new.status <> 'stale'$text$),
  ('sync_jobs', 'UPDATE', '{status,updated_at}', $text$old.status <> 'claimed'
    OR old.claim_expires_at >= clock_timestamp() OR new.status <> 'expired'$text$),
  ('sync_jobs', 'INSERT', NULL, $text$new.job_type <> 'discover' OR new.status <> 'queued'
    OR new.claimed_by IS NOT NULL$text$),
  ('sync_jobs', 'DELETE', NULL, $text$old.status NOT IN ('succeeded', 'failed', 'expired')
    OR old.updated_at > clock_timestamp() - interval '24 hours'$text$),
  ('reveal_sessions', 'UPDATE', '{expired_at,expired_reason}', $text$old.expired_at IS NOT NULL
    OR old.expires_at > clock_timestamp() OR new.expired_at NOT BETWEEN old.expires_at AND clock_timestamp()
    OR new.expired_at IS NULL OR new.expired_reason IS DISTINCT FROM 'ttl'
    OR EXISTS (SELECT FROM SCHEMA.secret_wraps AS wrap WHERE wrap.id = ANY (new.wrap_ids)
         AND wrap.consumed_at IS NULL AND wrap.expires_at > clock_timestamp())$text$),
  ('reveal_sessions', 'DELETE', NULL, $text$old.expired_at IS NULL
    OR old.expired_at > clock_timestamp() - interval '24 hours'$text$),
  ('access_requests', 'UPDATE', '{status,updated_at}', $text$new.status <> 'expired' OR CASE old.status
      WHEN 'pending_values' THEN old.type <> 'cross_team' OR old.fill_expires_at > clock_timestamp()
        OR old.fill_expires_at IS NULL
      WHEN 'pending' THEN NOT EXISTS (SELECT FROM SCHEMA.workflow_definitions AS workflow
        WHERE workflow.id = old.workflow_id AND old.created_at + workflow.request_ttl <= clock_timestamp())
      ELSE true END$text$),
  -- What claims a connection is chaos.claim's.
  ('provider_connections', 'UPDATE',
    '{updated_at,last_discover_status,last_discover_error,last_discover_started_at,last_discover_finished_at}',
    $text$chaos.sweeper() <> 'discover-connections' AND (chaos.sweeper() <> 'connections-stuck'
      OR old.last_discover_status IS DISTINCT FROM 'running' OR new.last_discover_status <> 'failure'
      OR old.last_discover_started_at IS DISTINCT FROM new.last_discover_started_at
      OR old.last_discover_started_at > clock_timestamp()
           - greatest(2 * old.discover_interval_seconds, 600) * interval '1 second'
      OR new.last_discover_finished_at IS NULL OR new.last_discover_error NOT LIKE 'no result within % s')$text$),
  ('sessions', 'DELETE', NULL, $text$coalesce(least(old.expires_at, old.idle_expires_at, old.revoked_at)
    > clock_timestamp() - interval '24 hours', true)$text$),
  ('agent_enrollment_tokens', 'DELETE', NULL, $text$coalesce(least(old.expires_at, old.consumed_at, old.revoked_at)
    > clock_timestamp() - interval '24 hours', true)$text$),
  ('gitops_observations', 'DELETE', NULL, $text$old.polling_state NOT IN ('applied', 'applied_unverified', 'failed')
    OR coalesce(old.terminal_at > clock_timestamp() - interval '24 hours', true)$text$);

-- Rows that are slow to change, and rows that cannot be changed.
CREATE TABLE chaos.odd_rows (relation TEXT PRIMARY KEY, operation TEXT NOT NULL, slow TEXT, refused TEXT NOT NULL);

INSERT INTO chaos.odd_rows VALUES
  ('secret_wraps', 'DELETE', $text$OLD.key_name LIKE 'slow%'$text$, $text$OLD.key_name LIKE 'poison%'$text$),
  ('secrets', 'UPDATE', NULL, $text$OLD.secret_ref LIKE 'poison%'$text$),
  ('agents', 'UPDATE', $text$OLD.name LIKE 'slow%'$text$, $text$OLD.name LIKE 'poison%'$text$),
  ('sync_jobs', 'UPDATE', NULL, $text$OLD.payload ? 'poison'$text$),
  ('reveal_sessions', 'UPDATE', NULL, $text$OLD.user_id LIKE 'poison%'$text$),
  ('access_requests', 'UPDATE', NULL, $text$OLD.requester_id LIKE 'poison%'$text$);

-- Notes what one operation does to a table, or to one of its parts.
CREATE PROCEDURE chaos.watch(spot regclass, name TEXT, event TEXT) LANGUAGE plpgsql AS $$
DECLARE
  rule chaos.rules;
  schema TEXT := (SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
    WHERE pg_class.oid = spot);
BEGIN
  SELECT * INTO rule FROM chaos.rules WHERE relation = name AND operation = event;
  EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT
    EXECUTE FUNCTION chaos.note(%L, %L, %L)', 'zz_note_' || lower(event), event, spot,
    CASE event WHEN 'DELETE' THEN 'OLD TABLE AS old_rows' WHEN 'INSERT' THEN 'NEW TABLE AS new_rows'
      ELSE 'OLD TABLE AS old_rows NEW TABLE AS new_rows' END,
    name,
    CASE event WHEN 'DELETE' THEN 'old_rows AS old' WHEN 'INSERT' THEN 'new_rows AS new'
      ELSE 'old_rows AS old JOIN new_rows AS new USING (id)' END,
    replace(coalesce(rule.wrong, 'true'), 'SCHEMA', schema) || CASE WHEN rule.may_change IS NULL THEN '' ELSE format(
      ' OR to_jsonb(old) - %1$L::text[] IS DISTINCT FROM to_jsonb(new) - %1$L::text[]', rule.may_change) END);
END $$;

-- Records one table of a control plane, or one of its parts. Statement triggers fire where the statement names the
-- relation; row triggers of a partitioned table are those of its partitions, too.
CREATE PROCEDURE chaos.record(spot regclass, name TEXT, is_part BOOLEAN) LANGUAGE plpgsql AS $$
DECLARE
  odd chaos.odd_rows;
  event TEXT;
BEGIN
  FOREACH event IN ARRAY '{INSERT,UPDATE,DELETE}'::text[] LOOP
    CALL chaos.watch(spot, name, event);
  END LOOP;
  SELECT * INTO odd FROM chaos.odd_rows WHERE relation = name;
  IF odd IS NULL THEN RETURN; END IF;
  EXECUTE format('CREATE TRIGGER aa_fail BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT
    EXECUTE FUNCTION chaos.fail(%L)', spot, name);
  IF is_part AND EXISTS (SELECT FROM pg_class WHERE oid = spot AND relispartition) THEN RETURN; END IF;
  EXECUTE format('CREATE TRIGGER aa_refuse BEFORE %s ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION chaos.refuse()',
    odd.operation, spot, odd.refused);
  IF odd.slow IS NOT NULL THEN
    EXECUTE format('CREATE TRIGGER aa_dawdle BEFORE %s ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION chaos.dawdle()',
      odd.operation, spot, odd.slow);
  END IF;
END $$;

-- Records the swept tables of one schema, with all their parts.
CREATE PROCEDURE chaos.record(schema TEXT) LANGUAGE plpgsql AS $$
DECLARE
  name TEXT;
  part regclass;
BEGIN
  FOR name IN SELECT DISTINCT relation FROM chaos.rules LOOP
    FOR part IN
      WITH RECURSIVE tree AS (
        SELECT format('%I.%I', schema, name)::regclass::oid AS oid
        UNION SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = tree.oid)
      SELECT oid FROM tree
    LOOP
      CALL chaos.record(part, name, part <> format('%I.%I', schema, name)::regclass);
    END LOOP;
  END LOOP;
  EXECUTE format('CREATE TRIGGER zz_claim AFTER UPDATE ON %I.provider_connections FOR EACH ROW
    EXECUTE FUNCTION chaos.claim()', schema);
END $$;
