// Variations of customized tables: partitions, privileges, triggers, types, names, encodings. For TableMatrixTests.
// Invariant: the rows that are put in are the same everywhere; a surrounding only says what is around them.

/// A control plane whose tables, role or database differ from the development schema.
struct TableSurrounding: Sendable {
  /// What the sweeps do there.
  enum Expected: Sendable {
    /// Exactly the due rows change.
    case exact
    /// Some sweepers fail with this reason, leaving this many due rows in total.
    case fails(String, left: Int)
    /// Some sweepers fail and say this; no row is changed that is not due.
    case refused(String)
  }

  let name: String
  /// Run in the database before the role is made.
  var sql = ""
  /// Run once the role exists; `$ROLE` is replaced by its name.
  var afterRole = ""
  /// Run when the rows are there.
  var afterLoad: [String] = []
  var schema = "public"
  /// Of the role; nil for those of docs/sweepers.md.
  var rights: [String]?
  /// Of the role's URL.
  var query = ""
  var encoding = "UTF8"
  var allowsRowSecurity = false
  var expected = Expected.exact

  static let all = plain + parts + rowSecurity + rights + triggers + columns + schemas + databases
}

extension TableSurrounding: CustomStringConvertible {
  var description: String { name }
}

extension TableSurrounding {
  static let tables = ["secret_wraps", "secrets", "agents", "sync_jobs"]
  /// Those whose rows are updated.
  static let updated = ["secrets", "agents", "sync_jobs"]

  static func each(_ names: [String] = tables, _ sql: (String) -> String) -> String {
    names.map(sql).joined(separator: ";")
  }

  private static let plain = [
    TableSurrounding(name: "as in development"),
    TableSurrounding(
      name: "no index and no constraint at all",
      sql: """
        DO $$ DECLARE entry record; BEGIN
          FOR entry IN SELECT conrelid::regclass AS relation, conname FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY contype <> 'f'
          LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', entry.relation, entry.conname); END LOOP;
          FOR entry IN SELECT indexrelid::regclass AS name FROM pg_index WHERE indrelid::regclass::text = ANY
            ('{secret_wraps,secrets,agents,sync_jobs}')
          LOOP EXECUTE format('DROP INDEX %s', entry.name); END LOOP;
        END $$
        """),
    TableSurrounding(
      name: "other indexes besides",
      sql: """
        CREATE INDEX ON secret_wraps (expires_at DESC NULLS LAST); CREATE INDEX ON secret_wraps USING brin (expires_at);
        CREATE INDEX ON secrets USING hash (status); CREATE INDEX ON secrets (status, last_seen_at DESC);
        CREATE INDEX ON agents (last_seen_at) WHERE status = 'stale'; CREATE INDEX ON sync_jobs (claim_expires_at);
        CREATE INDEX ON sync_jobs (status text_pattern_ops) INCLUDE (claim_expires_at)
        """),
    TableSurrounding(
      name: "only indexes that do not lead to due rows",
      sql: """
        DROP INDEX agents_by_last_seen, secrets_by_last_seen, secret_wraps_by_expiry;
        CREATE INDEX ON agents USING brin (last_seen_at);
        CREATE INDEX ON secrets (last_seen_at) WHERE status = 'missing';
        CREATE INDEX ON secret_wraps (expires_at) WHERE consumed_at IS NOT NULL
        """),
    TableSurrounding(
      name: "unlogged tables",
      // A logged table cannot refer to one of them, nor one of them to a logged one.
      sql: """
        ALTER TABLE access_requests DROP COLUMN job_id; ALTER TABLE project_secrets DROP COLUMN secret_id;
        ALTER TABLE sync_jobs DROP COLUMN request_id; ALTER TABLE secret_wraps DROP COLUMN request_id;

        """ + each(["secret_wraps", "sync_jobs", "agents", "secrets"]) { "ALTER TABLE \($0) SET UNLOGGED" }),
    TableSurrounding(
      name: "pages that are nearly empty", sql: each { "ALTER TABLE \($0) SET (fillfactor = 10)" }),
  ]

  // MARK: Parts

  /// Makes `table` a partitioned one with the same columns, defaults and trigger.
  private static func partitioned(_ table: String, by key: String, _ parts: String) -> String {
    """
    ALTER TABLE \(table) RENAME TO old_\(table);
    CREATE TABLE \(table) (LIKE old_\(table) INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY \(key);
    \(parts);
    CREATE INDEX ON \(table) (\(moment(of: table)))
    """
      + (updated.contains(table)
        ? ";CREATE TRIGGER updated_at BEFORE UPDATE ON \(table) FOR EACH ROW EXECUTE FUNCTION set_updated_at()" : "")
  }

  private static func moment(of table: String) -> String {
    switch table {
    case "secret_wraps": "expires_at"
    case "sync_jobs": "claim_expires_at"
    default: "last_seen_at"
    }
  }

  private static func label(of table: String) -> String {
    switch table {
    case "secret_wraps": "key_name"
    case "secrets": "secret_ref"
    case "agents": "name"
    default: "payload->>'label'"
    }
  }

  private static let parts = [
    TableSurrounding(
      name: "partitions by hash",
      sql: each { table in
        partitioned(
          table, by: "HASH (id)",
          (0..<3).map {
            "CREATE TABLE \(table)_\($0) PARTITION OF \(table) FOR VALUES WITH (MODULUS 3, REMAINDER \($0))"
          }.joined(separator: ";"))
      }),
    TableSurrounding(
      name: "partitions by status, which a sweep moves its rows between",
      sql: each(updated) { table in
        partitioned(
          table, by: "LIST (status)",
          """
          CREATE TABLE \(table)_live PARTITION OF \(table) FOR VALUES IN ('present', 'active', 'claimed');
          CREATE TABLE \(table)_other PARTITION OF \(table) DEFAULT
          """)
      }),
    TableSurrounding(
      name: "partitions by the moment, of two levels, the columns in another order",
      sql: partitioned(
        "secret_wraps", by: "RANGE (expires_at)",
        """
        CREATE TABLE wraps_past PARTITION OF secret_wraps FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
        CREATE TABLE wraps_now (key_name text, expires_at timestamptz NOT NULL, junk int, consumed_at timestamptz);
        ALTER TABLE wraps_now DROP COLUMN junk, ADD issued_via text NOT NULL DEFAULT 'request',
          ADD id uuid NOT NULL DEFAULT gen_random_uuid(), ADD request_id uuid, ADD environment_id uuid,
          ADD encrypted_value bytea NOT NULL, ADD nonce bytea NOT NULL, ADD data_key_ciphertext bytea NOT NULL,
          ADD kms_key_id text NOT NULL, ADD algorithm text NOT NULL DEFAULT 'AES-256-GCM',
          ADD content_hash bytea NOT NULL, ADD byte_length int NOT NULL, ADD consumed_by_agent uuid,
          ADD consumed_by_user text, ADD created_at timestamptz NOT NULL DEFAULT now(),
          ADD CONSTRAINT secret_wraps_byte_length_check CHECK (byte_length >= 0),
          ADD CONSTRAINT secret_wraps_issued_via_check CHECK (issued_via IN ('request', 'direct_reveal')),
          ADD CONSTRAINT secret_wraps_consumed_by_exactly_one CHECK
            (num_nonnulls(consumed_by_agent, consumed_by_user) = CASE WHEN consumed_at IS NULL THEN 0 ELSE 1 END);
        ALTER TABLE secret_wraps ATTACH PARTITION wraps_now FOR VALUES FROM ('2020-01-01') TO ('2999-01-01');
        CREATE TABLE wraps_far PARTITION OF secret_wraps FOR VALUES FROM ('2999-01-01') TO (MAXVALUE)
          PARTITION BY HASH (id);
        CREATE TABLE wraps_far_0 PARTITION OF wraps_far FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE wraps_far_1 PARTITION OF wraps_far FOR VALUES WITH (MODULUS 2, REMAINDER 1)
        """)),
    TableSurrounding(
      name: "children that inherit",
      sql: each { table in
        """
        CREATE TABLE more_\(table) (extra int) INHERITS (\(table));
        CREATE FUNCTION route_\(table)() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO more_\(table) SELECT NEW.*; RETURN NULL; END $$;
        CREATE TRIGGER route BEFORE INSERT ON \(table) FOR EACH ROW
          WHEN ((NEW.\(label(of: table))) LIKE '%2%') EXECUTE FUNCTION route_\(table)()
        """
      }),
  ]

  // MARK: Row security

  private static let secured = each { "ALTER TABLE \($0) ENABLE ROW LEVEL SECURITY" }
  private static let policies = each { "CREATE POLICY everything ON \($0) USING (true) WITH CHECK (true)" }
  private static let owned = each { "ALTER TABLE \($0) OWNER TO $ROLE" }
  private static let inForce = "row security is in force for this role on public."

  private static let rowSecurity = [
    TableSurrounding(name: "row security hides all rows", sql: secured, expected: .refused(inForce)),
    TableSurrounding(
      name: "row security with a policy for all rows", sql: "\(secured); \(policies)", expected: .refused(inForce)),
    TableSurrounding(
      name: "row security with a policy for all rows, and a setting that allows it", sql: "\(secured); \(policies)",
      allowsRowSecurity: true),
    TableSurrounding(
      name: "row security and BYPASSRLS", sql: secured, afterRole: "ALTER ROLE $ROLE BYPASSRLS"),
    TableSurrounding(name: "row security and the tables' owner", sql: secured, afterRole: owned),
    TableSurrounding(
      name: "row security that is forced on the tables' owner",
      sql: "\(secured); \(each { "ALTER TABLE \($0) FORCE ROW LEVEL SECURITY" })", afterRole: owned,
      expected: .refused(inForce)),
    TableSurrounding(
      name: "row security, and row_security off for the role", sql: secured,
      afterRole: "ALTER ROLE $ROLE SET row_security = off", expected: .refused(inForce)),
  ]

  // MARK: Rights

  private static let rights = [
    TableSurrounding(name: "the tables' owner", afterRole: owned, rights: []),
    TableSurrounding(name: "a superuser", afterRole: "ALTER ROLE $ROLE SUPERUSER", rights: []),
    TableSurrounding(
      name: "rights on the columns that the statements name",
      rights: [
        "SELECT (expires_at, consumed_at), DELETE ON secret_wraps", "SELECT (status, last_seen_at) ON secrets",
        "UPDATE (status) ON secrets", "SELECT (status, last_seen_at), UPDATE (status) ON agents",
        "SELECT (status, claim_expires_at, job_type, correlation_id, agent_scope, payload) ON sync_jobs",
        "UPDATE (status), INSERT (status, job_type, correlation_id, agent_scope, payload) ON sync_jobs",
      ]),
    TableSurrounding(
      name: "rights of a group that the URL switches to",
      afterRole: "CREATE ROLE $ROLE_group; GRANT $ROLE_group TO $ROLE;"
        + MatrixPlane.grants(in: "public").map { "GRANT \($0) TO $ROLE_group" }.joined(separator: ";"),
      rights: [], query: "role=$ROLE_group"),
    TableSurrounding(
      name: "no right to delete wraps", afterRole: "REVOKE DELETE ON secret_wraps FROM $ROLE",
      expected: .refused("permission denied on table secret_wraps (SQLSTATE 42501)")),
    TableSurrounding(
      name: "no right on the schema", afterRole: "REVOKE USAGE ON SCHEMA public FROM PUBLIC, $ROLE",
      expected: .refused("grant USAGE on its schema")),
    TableSurrounding(name: "one connection for the role", afterRole: "ALTER ROLE $ROLE CONNECTION LIMIT 1"),
    TableSurrounding(
      name: "no connection for the role", afterRole: "ALTER ROLE $ROLE CONNECTION LIMIT 0",
      expected: .refused("too many connections (SQLSTATE 53300)")),
  ]

  // MARK: Triggers, rules and foreign keys

  static func trigger(
    _ body: String, _ when: String = "BEFORE", level: String = "ROW", on names: [String] = tables
  ) -> String {
    "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \(body) END $$;"
      + each(names) {
        "CREATE TRIGGER other \(when) DELETE OR UPDATE ON \($0) FOR EACH \(level) EXECUTE FUNCTION other()"
      }
  }

  /// What a trigger goes on with.
  static let goOn = "IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW;"
  static let isOne = "to_jsonb(OLD)::text LIKE '%\"due 7\"%'"

  private static let triggers = [
    TableSurrounding(
      name: "a trigger that raises an error for one row of each table",
      sql: trigger("IF \(isOne) THEN RAISE 'no'; END IF; \(goOn)"), expected: .fails("1 row refused (P0001)", left: 4)),
    TableSurrounding(
      name: "a trigger that keeps one row of each table", sql: trigger("IF \(isOne) THEN RETURN NULL; END IF; \(goOn)"),
      expected: .fails("1 row stayed due though the statement succeeded", left: 4)),
    TableSurrounding(
      name: "a trigger that changes one row's status back",
      sql: trigger("IF \(isOne) THEN NEW.status := OLD.status; END IF; RETURN NEW;", on: updated),
      expected: .fails("1 row stayed due though the statement succeeded", left: 3)),
    TableSurrounding(
      name: "a trigger that takes 10 ms a row", sql: trigger("PERFORM pg_sleep(0.01); \(goOn)")),
    TableSurrounding(
      name: "a trigger for each statement, and one behind each row",
      sql: trigger("RETURN NULL;", "AFTER", level: "STATEMENT")
        + each { ";CREATE TRIGGER another AFTER DELETE OR UPDATE ON \($0) FOR EACH ROW EXECUTE FUNCTION other()" }),
    TableSurrounding(
      name: "a trigger that refuses each statement",
      sql: "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
      afterLoad: tables.map { "CREATE TRIGGER other BEFORE DELETE OR UPDATE ON \($0) EXECUTE FUNCTION other()" },
      expected: .refused("raised an error (SQLSTATE P0001)")),
    TableSurrounding(
      name: "a foreign key to one wrap", sql: "CREATE TABLE referring (wrap uuid REFERENCES secret_wraps)",
      afterLoad: ["INSERT INTO referring SELECT id FROM secret_wraps WHERE key_name = 'due 7'"],
      expected: .fails("1 row refused (23503)", left: 1)),
    TableSurrounding(
      name: "a foreign key to one wrap that is checked at the transaction's end",
      sql: "CREATE TABLE referring (wrap uuid REFERENCES secret_wraps DEFERRABLE INITIALLY DEFERRED)",
      afterLoad: ["INSERT INTO referring SELECT id FROM secret_wraps WHERE key_name = 'due 7'"],
      expected: .fails("1 row refused (23503)", left: 1)),
    TableSurrounding(
      name: "a constraint trigger at the transaction's end that refuses one row of each table",
      sql: "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF \(isOne) THEN RAISE 'no'; END IF;"
        + "RETURN NULL; END $$;"
        + each {
          "CREATE CONSTRAINT TRIGGER other AFTER DELETE OR UPDATE ON \($0) DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            + "EXECUTE FUNCTION other()"
        },
      expected: .fails("1 row refused (P0001)", left: 4)),
    TableSurrounding(
      name: "a check that one stale agent fails",
      sql: "ALTER TABLE agents ADD CHECK (name <> 'due 7' OR status <> 'stale')",
      expected: .fails("1 row refused (23514)", left: 1)),
    TableSurrounding(
      name: "a rule that keeps all rows",
      sql: each { "CREATE RULE other AS ON \($0 == "secret_wraps" ? "DELETE" : "UPDATE") TO \($0) DO INSTEAD NOTHING" },
      expected: .refused("a rule on public.")),
    TableSurrounding(
      name: "a rule that notes each change",
      sql: "CREATE TABLE noted (what text);"
        + each {
          "CREATE RULE other AS ON \($0 == "secret_wraps" ? "DELETE" : "UPDATE") TO \($0) "
            + "DO ALSO INSERT INTO noted VALUES ('\($0)')"
        }, afterRole: "GRANT INSERT ON noted TO $ROLE", expected: .refused("a rule on public.")),
    TableSurrounding(
      name: "a publication of tables without a key",
      sql: each(updated) { "ALTER TABLE \($0) DROP CONSTRAINT \($0)_pkey CASCADE" },
      afterLoad: ["CREATE PUBLICATION changes FOR ALL TABLES"],
      expected: .refused("without a sufficient replica identity")),
    TableSurrounding(
      name: "a publication that filters rows by columns outside of the replica identity",
      afterLoad: updated.map { "CREATE PUBLICATION \($0)_changes FOR TABLE \($0) WHERE (created_at IS NOT NULL)" },
      expected: .refused("without a sufficient replica identity")),
  ]

  // MARK: Columns

  /// Gives the status columns, and what kind a job has, another type.
  private static func statuses(_ type: String, before: String = "") -> String {
    """
    \(before);
    DROP INDEX sync_jobs_queued, agents_by_status;
    ALTER TABLE secrets DROP CONSTRAINT secrets_status_check, ALTER status DROP DEFAULT, ALTER status TYPE \(type)
      USING status::\(type);
    ALTER TABLE agents DROP CONSTRAINT agents_status_check, ALTER status DROP DEFAULT, ALTER status TYPE \(type)
      USING status::\(type);
    ALTER TABLE sync_jobs DROP CONSTRAINT sync_jobs_status_check, DROP CONSTRAINT sync_jobs_job_type_check,
      ALTER status DROP DEFAULT, ALTER status TYPE \(type) USING status::\(type), ALTER job_type TYPE \(type)
      USING job_type::\(type)
    """
  }

  private static func moments(_ type: String, before: String = "") -> String {
    "\(before);" + each { "ALTER TABLE \($0) ALTER \(moment(of: $0)) TYPE \(type)" }
  }

  private static let states = [
    "present", "missing", "enrolled", "active", "stale", "error", "disabled", "revoked", "queued", "claimed",
    "succeeded", "failed", "expired", "sync", "discover",
  ].map { "'\($0)'" }.joined(separator: ",")

  private static let columns = [
    TableSurrounding(name: "statuses as varchar", sql: statuses("varchar(20)")),
    TableSurrounding(name: "statuses as char", sql: statuses("char(20)")),
    TableSurrounding(
      name: "statuses as enum", sql: statuses("state", before: "CREATE TYPE state AS ENUM (\(states))")),
    TableSurrounding(
      name: "statuses as citext of another schema",
      sql: statuses("other.citext", before: "CREATE SCHEMA other; CREATE EXTENSION citext SCHEMA other"),
      afterRole: "GRANT USAGE ON SCHEMA other TO $ROLE"),
    TableSurrounding(
      name: "statuses as a domain", sql: statuses("state", before: "CREATE DOMAIN state AS text CHECK (VALUE <> '')")),
    TableSurrounding(name: "moments of whole seconds", sql: moments("timestamptz(0)")),
    TableSurrounding(
      name: "moments as a domain",
      sql: moments("moment", before: "CREATE DOMAIN moment AS timestamptz CHECK (VALUE <> '2000-01-01')")),
    TableSurrounding(
      name: "moments without a time zone, in UTC, and another session time zone",
      sql: each { "ALTER TABLE \($0) ALTER \(moment(of: $0)) TYPE timestamp" },
      afterRole: "ALTER ROLE $ROLE SET TimeZone = 'Asia/Kolkata'",
      expected: .refused("only timestamp with time zone means the same moment in every session")),
    TableSurrounding(
      name: "moments as a domain over timestamp",
      sql: moments("moment", before: "CREATE DOMAIN moment AS timestamp"),
      afterRole: "ALTER ROLE $ROLE SET TimeZone = 'Asia/Kolkata'",
      expected: .refused("is moment: only timestamp with time zone")),
    TableSurrounding(
      name: "columns dropped, added and generated",
      sql: each {
        """
        ALTER TABLE \($0) ADD first text DEFAULT 'x', ADD second int;
        ALTER TABLE \($0) DROP first, ADD third int GENERATED ALWAYS AS (length(id::text)) STORED,
          ADD fourth bigint GENERATED ALWAYS AS IDENTITY, ADD "user" text NOT NULL DEFAULT 'x', ADD target text,
          ADD key text, ADD found text, ADD now text, ADD table_id oid
        """
      }),
  ]

  // MARK: Schemas and databases

  private static func moved(to schema: String, query: String) -> TableSurrounding {
    TableSurrounding(
      name: "a schema of the URL's search_path: \(schema)",
      sql: "ALTER SCHEMA public RENAME TO \(schema); CREATE SCHEMA public", schema: schema, query: query)
  }

  static let schemas = [
    moved(to: "control", query: "search_path=control"),
    moved(to: "\"Sécrets \"\"Brücke\"\"\"", query: "search_path=%22S%C3%A9crets%20%22%22Br%C3%BCcke%22%22%22"),
    moved(to: "\"a'b\\\\c%d;e\"", query: "search_path=nowhere,%22a%27b%5C%5Cc%25d%3Be%22"),
    moved(to: "\"select\"", query: "options=-c%20search_path%3D%22select%22"),
    TableSurrounding(
      name: "a schema before it that the role may not use",
      sql: "CREATE SCHEMA closed; \(each { "CREATE TABLE closed.\($0) (LIKE \($0))" })",
      query: "search_path=closed,public"),
    TableSurrounding(
      name: "views in place of the tables",
      sql: "CREATE SCHEMA api; \(each { "CREATE VIEW api.\($0) AS SELECT * FROM \($0)" })",
      afterRole: "GRANT USAGE ON SCHEMA api TO $ROLE; GRANT ALL ON ALL TABLES IN SCHEMA api TO $ROLE",
      query: "search_path=api", expected: .refused("is not a table")),
    TableSurrounding(
      name: "no tables there", query: "search_path=elsewhere", expected: .refused("in the search path: set search_path")
    ),
  ]

  private static let databases =
    ["LATIN1", "SQL_ASCII", "EUC_JP", "WIN1251", "EUC_KR"].map {
      TableSurrounding(name: "a database in \($0)", encoding: $0)
    } + [
      TableSurrounding(
        name: "the role's database is read-only", afterRole: "ALTER ROLE $ROLE SET default_transaction_read_only = on",
        expected: .refused("read-only"))
    ]
}
