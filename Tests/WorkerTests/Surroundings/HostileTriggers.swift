// Triggers whose errors look like the server's own trouble. For
// TableMatrixTests. Invariant: as TableSurrounding has it.

extension TableSurrounding {
  static let hostileTriggers = raising

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
}
