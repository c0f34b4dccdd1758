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

CREATE FUNCTION chaos.claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  digest TEXT;
BEGIN
  IF session_user <> 'locked' THEN RETURN NULL; END IF;
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

-- Records one table of a control plane, or one of its parts. Statement triggers fire where the statement names the
-- relation; row triggers of a partitioned table are those of its partitions, too.
CREATE PROCEDURE chaos.record(spot regclass, name TEXT, is_part BOOLEAN) LANGUAGE plpgsql AS $$
DECLARE
  operation TEXT := CASE name WHEN 'secret_wraps' THEN 'DELETE' ELSE 'UPDATE' END;
  rows TEXT := CASE name WHEN 'secret_wraps' THEN 'OLD TABLE AS old_rows'
    ELSE 'OLD TABLE AS old_rows NEW TABLE AS new_rows' END;
  source TEXT := CASE name WHEN 'secret_wraps' THEN 'old_rows AS old'
    ELSE 'old_rows AS old JOIN new_rows AS new USING (id)' END;
  same TEXT := $text$ OR to_jsonb(old) - '{status,updated_at}'::text[]
    IS DISTINCT FROM to_jsonb(new) - '{status,updated_at}'::text[]$text$;
  wrong TEXT := CASE name
    WHEN 'secret_wraps' THEN 'old.expires_at > clock_timestamp()'
    WHEN 'secrets' THEN $text$old.status <> 'present' OR old.last_seen_at >= clock_timestamp() - interval '24 hours'
      OR new.status <> 'missing'$text$ || same
    WHEN 'agents' THEN $text$old.status <> 'active' OR old.last_seen_at >= clock_timestamp() - interval '5 minutes'
      OR new.status <> 'stale'$text$ || same
    ELSE $text$old.status <> 'claimed' OR old.claim_expires_at >= clock_timestamp()
      OR new.status <> 'expired'$text$ || same END;
  slow TEXT := CASE name WHEN 'secret_wraps' THEN $text$OLD.key_name LIKE 'slow%'$text$
    WHEN 'agents' THEN $text$OLD.name LIKE 'slow%'$text$ END;
  refused TEXT := CASE name WHEN 'secret_wraps' THEN $text$OLD.key_name LIKE 'poison%'$text$
    WHEN 'agents' THEN $text$OLD.name LIKE 'poison%'$text$ WHEN 'secrets' THEN $text$OLD.secret_ref LIKE 'poison%'$text$
    ELSE $text$OLD.payload ? 'poison'$text$ END;
BEGIN
  EXECUTE format('CREATE TRIGGER zz_note AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT
    EXECUTE FUNCTION chaos.note(%L, %L, %L)', operation, spot, rows, name, source, wrong);
  EXECUTE format('CREATE TRIGGER aa_fail BEFORE %s ON %s FOR EACH STATEMENT EXECUTE FUNCTION chaos.fail(%L)',
    operation || CASE name WHEN 'sync_jobs' THEN ' OR INSERT' ELSE '' END, spot, name);
  IF name = 'secret_wraps' THEN
    -- A wrap is deleted or left alone: whatever else happens to one is wrong.
    EXECUTE format('CREATE TRIGGER zz_note_update AFTER UPDATE ON %s REFERENCING NEW TABLE AS new_rows
      FOR EACH STATEMENT EXECUTE FUNCTION chaos.note(%L, %L, %L)', spot, name, 'new_rows', 'true');
  ELSIF name = 'sync_jobs' THEN
    EXECUTE format('CREATE TRIGGER zz_note_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
      FOR EACH STATEMENT EXECUTE FUNCTION chaos.note(%L, %L, %L)', spot, name, 'new_rows AS new',
      $text$new.job_type <> 'discover' OR new.status <> 'queued' OR new.claimed_by IS NOT NULL$text$);
  END IF;
  IF is_part AND EXISTS (SELECT FROM pg_class WHERE oid = spot AND relispartition) THEN RETURN; END IF;
  EXECUTE format('CREATE TRIGGER aa_refuse BEFORE %s ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION chaos.refuse()',
    operation, spot, refused);
  IF slow IS NOT NULL THEN
    EXECUTE format('CREATE TRIGGER aa_dawdle BEFORE %s ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION chaos.dawdle()',
      operation, spot, slow);
  END IF;
END $$;

-- Records the swept tables of one schema, with all their parts.
CREATE PROCEDURE chaos.record(schema TEXT) LANGUAGE plpgsql AS $$
DECLARE
  name TEXT;
  part regclass;
BEGIN
  FOREACH name IN ARRAY '{secret_wraps,secrets,agents,sync_jobs}'::text[] LOOP
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
