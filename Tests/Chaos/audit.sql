-- What the chaos harness adds to its own database: every write of the workers is noted with its rows and its time,
-- sweeps can be made slow, and statements can be made to fail. Never loaded anywhere else.
-- Invariant: a note is written in the transaction that it tells of, so it is there if, and only if, the write is.

CREATE SCHEMA chaos;

-- One row a writing statement of a worker, also where it changed nothing.
CREATE TABLE chaos.writes (
  number       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  application  TEXT NOT NULL,
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

-- Until when the workers' writes to a table fail.
CREATE TABLE chaos.failing (relation TEXT PRIMARY KEY, until TIMESTAMPTZ NOT NULL);

-- Arguments: the rows that the statement touched, as a FROM item, and the condition of a wrong one.
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  changed INTEGER;
  wrong INTEGER;
BEGIN
  IF session_user <> 'locked' THEN RETURN NULL; END IF;
  EXECUTE format('SELECT count(*), count(*) FILTER (WHERE %s) FROM %s', TG_ARGV[1], TG_ARGV[0]) INTO changed, wrong;
  INSERT INTO chaos.writes (application, relation, operation, began, ended, guarded, changed, wrong)
  VALUES (current_setting('application_name'), TG_TABLE_NAME, TG_OP, statement_timestamp(), clock_timestamp(),
          EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted),
          changed, wrong);
  RETURN NULL;
END $$;

CREATE FUNCTION chaos.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF session_user = 'locked'
     AND EXISTS (SELECT FROM chaos.failing WHERE relation = TG_TABLE_NAME AND until > clock_timestamp()) THEN
    RAISE EXCEPTION 'a row says PLANTED-7f3a9c-message'
      USING DETAIL = 'Key (value)=(PLANTED-7f3a9c-detail).', HINT = 'PLANTED-7f3a9c-hint', ERRCODE = '23514';
  END IF;
  RETURN NULL;
END $$;

-- 5 ms a row, and a second a transaction at most: a batch of any size ends within a lease of three.
CREATE FUNCTION chaos.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  slept INTEGER := coalesce(nullif(current_setting('chaos.slept', true), '')::int, 0);
BEGIN
  IF session_user = 'locked' AND slept < 200 THEN
    PERFORM pg_sleep(0.005), set_config('chaos.slept', (slept + 1)::text, true);
  END IF;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

CREATE TRIGGER zz_note AFTER DELETE ON secret_wraps REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION chaos.note('old_rows AS old', 'old.expires_at > clock_timestamp()');
-- A wrap is deleted or left alone: whatever else happens to one is wrong.
CREATE TRIGGER zz_note_update AFTER UPDATE ON secret_wraps REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION chaos.note('new_rows', 'true');
CREATE TRIGGER zz_note AFTER UPDATE ON secrets REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION chaos.note('old_rows AS old JOIN new_rows AS new USING (id)',
  $$old.status <> 'present' OR old.last_seen_at >= clock_timestamp() - interval '24 hours' OR new.status <> 'missing'
    OR to_jsonb(old) - '{status,updated_at}'::text[] IS DISTINCT FROM to_jsonb(new) - '{status,updated_at}'::text[]$$);
CREATE TRIGGER zz_note AFTER UPDATE ON agents REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION chaos.note('old_rows AS old JOIN new_rows AS new USING (id)',
  $$old.status <> 'active' OR old.last_seen_at >= clock_timestamp() - interval '5 minutes' OR new.status <> 'stale'
    OR to_jsonb(old) - '{status,updated_at}'::text[] IS DISTINCT FROM to_jsonb(new) - '{status,updated_at}'::text[]$$);
CREATE TRIGGER zz_note AFTER UPDATE ON sync_jobs REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION chaos.note('old_rows AS old JOIN new_rows AS new USING (id)',
  $$old.status <> 'claimed' OR old.claim_expires_at >= clock_timestamp() OR new.status <> 'expired'
    OR to_jsonb(old) - '{status,updated_at}'::text[] IS DISTINCT FROM to_jsonb(new) - '{status,updated_at}'::text[]$$);
CREATE TRIGGER zz_note_insert AFTER INSERT ON sync_jobs REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION chaos.note('new_rows AS new',
  $$new.job_type <> 'discover' OR new.status <> 'queued' OR new.claimed_by IS NOT NULL$$);

CREATE TRIGGER aa_fail BEFORE DELETE ON secret_wraps FOR EACH STATEMENT EXECUTE FUNCTION chaos.fail();
CREATE TRIGGER aa_fail BEFORE UPDATE ON secrets FOR EACH STATEMENT EXECUTE FUNCTION chaos.fail();
CREATE TRIGGER aa_fail BEFORE UPDATE ON agents FOR EACH STATEMENT EXECUTE FUNCTION chaos.fail();
CREATE TRIGGER aa_fail BEFORE UPDATE OR INSERT ON sync_jobs FOR EACH STATEMENT EXECUTE FUNCTION chaos.fail();

CREATE TRIGGER aa_dawdle BEFORE DELETE ON secret_wraps
  FOR EACH ROW WHEN (OLD.key_name LIKE 'slow%') EXECUTE FUNCTION chaos.dawdle();
CREATE TRIGGER aa_dawdle BEFORE UPDATE ON agents
  FOR EACH ROW WHEN (OLD.name LIKE 'slow%') EXECUTE FUNCTION chaos.dawdle();

-- The worker's role may do what its sweeps need, and nothing else.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO locked;
GRANT DELETE ON secret_wraps TO locked;
GRANT UPDATE ON secrets, agents, sync_jobs, secret_wraps TO locked;
GRANT INSERT ON sync_jobs TO locked;
