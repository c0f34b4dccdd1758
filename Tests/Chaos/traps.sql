-- Functions, operators and types under names of the catalogue's, in a schema that a search path leads to first: a
-- statement that does not name pg_catalog meets them. `now` is left out, for the control plane's own triggers use it.

CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;

CREATE FUNCTION trap.boom() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_catalog.now() + interval '1 day' $$;
CREATE FUNCTION trap.pg_relation_size(text, text) RETURNS bigint LANGUAGE sql AS $$ SELECT trap.boom()::int::bigint $$;
CREATE FUNCTION trap.pg_relation_size(regclass, text) RETURNS bigint LANGUAGE sql AS $$ SELECT trap.boom()::int::bigint $$;
CREATE FUNCTION trap.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT trap.boom()::text $$;
CREATE FUNCTION trap.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT trap.boom()::text $$;
CREATE FUNCTION trap.pg_try_advisory_xact_lock(int, int) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE FUNCTION trap.later(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR trap.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.later);
CREATE OPERATOR trap.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.later);
CREATE FUNCTION trap.same(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR trap.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = trap.same);
CREATE DOMAIN trap.tid AS pg_catalog.text CHECK (trap.boom());
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (trap.boom());
-- What a sweep that looks a table up by its name alone would find.
CREATE VIEW trap.pg_class AS SELECT trap.boom();
