// Triggers whose errors look like the server's own trouble, and triggers that discard new rows. For
// TableMatrixTests. Invariant: as TableSurrounding has it.

extension TableSurrounding {
  static let hostileTriggers = raising + swallowing + resetting

  /// Codes that tell of the server, of the connection or of the transaction where PostgreSQL's own code raises them.
  private static let raisedStates = [
    "08006", "0A000", "22012", "25006", "25P04", "26000", "28000", "40001", "40P01", "53100", "54000", "55000", "55P03",
    "57014", "57P01", "58030", "72000", "XX000",
  ]

  private static func raise(_ state: String) -> String {
    "IF \(isOne) THEN RAISE 'no' USING ERRCODE = '\(state)'; END IF;"
  }

  private static let raising =
    raisedStates.map { state in
      TableSurrounding(
        name: "a trigger that raises \(state) for one row of each table",
        sql: trigger("\(raise(state)) \(goOn)"), expected: .fails("1 row refused (\(state))", left: 4))
    }
    + raisedStates.map { state in
      TableSurrounding(
        name: "a constraint trigger that raises \(state) for one row of each table at the transaction's end",
        sql: "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \(raise(state)) RETURN NULL; END $$;"
          + each {
            "CREATE CONSTRAINT TRIGGER other AFTER DELETE OR UPDATE ON \($0) DEFERRABLE INITIALLY DEFERRED "
              + "FOR EACH ROW EXECUTE FUNCTION other()"
          },
        expected: .fails("1 row refused (\(state))", left: 4))
    }

  private static let resetting = [
    TableSurrounding(
      name: "a trigger that resets all settings for one row of each table",
      sql: trigger("IF \(isOne) THEN RESET ALL; END IF; \(goOn)"),
      expected: .fails("1 row refused (a trigger resets the session's settings)", left: 4)),
    TableSurrounding(
      name: "a trigger that resets all settings behind each statement",
      sql: trigger("RESET ALL; RETURN NULL;", "AFTER", level: "STATEMENT"),
      expected: .refused("resets the session's settings (RESET ALL)")),
    TableSurrounding(
      name: "a trigger that makes the transaction read-only",
      sql: "CREATE TABLE audit (what text);"
        + trigger("PERFORM set_config('transaction_read_only', 'on', true); INSERT INTO audit VALUES (''); \(goOn)"),
      afterRole: "GRANT INSERT ON audit TO $ROLE",
      expected: .refused("refused as read-only by a server that takes writes (SQLSTATE 25006)")),
  ]

  private static let swallowing = [
    TableSurrounding(
      name: "a trigger that swallows new jobs",
      sql: """
        CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.job_type = 'discover' THEN RETURN NULL; END IF; RETURN NEW; END $$;
        """, afterLoad: ["CREATE TRIGGER other BEFORE INSERT ON sync_jobs FOR EACH ROW EXECUTE FUNCTION other()"],
      expected: .refused("not inserted though the statement succeeded")),
    TableSurrounding(
      name: "a rule that swallows new jobs",
      afterLoad: ["CREATE RULE other AS ON INSERT TO sync_jobs DO INSTEAD NOTHING"],
      expected: .refused("a rule on public.sync_jobs rewrites")),
    TableSurrounding(
      name: "a trigger that puts new jobs into a child",
      sql: """
        CREATE TABLE more_jobs () INHERITS (sync_jobs);
        CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
          INSERT INTO more_jobs SELECT NEW.*; RETURN NULL; END $$;
        """, afterLoad: ["CREATE TRIGGER other BEFORE INSERT ON sync_jobs FOR EACH ROW EXECUTE FUNCTION other()"]),
  ]
}
