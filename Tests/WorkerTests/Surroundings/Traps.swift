// A schema in which everything has a name of PostgreSQL's own: whoever calls a function, uses an operator, a type or a
// catalogue without saying that he means pg_catalog's runs into it where a search path names this schema first.

/// The schema `trap`.
enum Traps {
  /// What it consists of fails as soon as it is used. Some functions are left out, whose types nobody can use.
  static let sql = """
    CREATE SCHEMA trap;
    GRANT USAGE ON SCHEMA trap TO PUBLIC;
    DO $do$
    DECLARE
      entry record;
      made int[] := '{0,0,0,0}';
    BEGIN
      FOR entry IN
        SELECT proname AS name, pg_get_function_identity_arguments(oid) AS arguments,
               pg_get_function_result(oid) AS result
          FROM pg_proc
         WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a') AND provariadic = 0
           AND NOT 'internal'::regtype = ANY (proargtypes) AND NOT 'cstring'::regtype = ANY (proargtypes)
      LOOP
        BEGIN
          EXECUTE format('CREATE FUNCTION trap.%I(%s) RETURNS %s LANGUAGE plpgsql AS
            $$ BEGIN RAISE ''trapped: function %s''; END $$', entry.name, entry.arguments, entry.result, entry.name);
          made[1] := made[1] + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      FOR entry IN
        SELECT oprname AS name, oid, oprresult::regtype AS result, oprright::regtype AS rightarg,
               CASE WHEN oprleft <> 0 THEN oprleft::regtype::text END AS leftarg
          FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace
      LOOP
        BEGIN
          EXECUTE format('CREATE FUNCTION trap.operator_%s(%s) RETURNS %s LANGUAGE plpgsql AS
            $$ BEGIN RAISE ''trapped: operator %s''; END $$', entry.oid, concat_ws(',', entry.leftarg, entry.rightarg),
            entry.result, replace(entry.name, '%', '%%'));
          EXECUTE format('CREATE OPERATOR trap.%s (%s RIGHTARG = %s, FUNCTION = trap.operator_%s)', entry.name,
            'LEFTARG = ' || entry.leftarg || ',', entry.rightarg, entry.oid);
          made[2] := made[2] + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      CREATE FUNCTION trap.trapped(text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'trapped: %', $1; END $$;
      FOR entry IN
        SELECT typname AS name FROM pg_type
         WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typelem = 0
      LOOP
        BEGIN
          EXECUTE format('CREATE DOMAIN trap.%I AS pg_catalog.%I CHECK (trap.trapped(''type %s''))', entry.name,
            entry.name, entry.name);
          made[3] := made[3] + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      FOR entry IN
        SELECT relname AS name FROM pg_class
         WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
      LOOP
        BEGIN
          EXECUTE format('CREATE VIEW trap.%I AS SELECT * FROM pg_catalog.%I WHERE trap.trapped(''relation %s'')',
            entry.name, entry.name, entry.name);
          made[4] := made[4] + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      IF NOT (made[1] > 1000 AND made[2] > 500 AND made[3] > 40 AND made[4] > 80) THEN
        RAISE 'too few traps: %', made;
      END IF;
    END $do$;
    GRANT SELECT ON ALL TABLES IN SCHEMA trap TO PUBLIC;
    -- The tables' own trigger is no business of the worker's: it finds what it names.
    ALTER FUNCTION public.set_updated_at() SET search_path = pg_catalog;
    """
}
