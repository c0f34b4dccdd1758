// The verb grants: the PostgreSQL privileges that a role needs, as SQL, for the sweepers that the settings enable.
// Invariant: all of it derives from what `check` verifies, so that it grants exactly what is needed.

import Logging
import Reactor

extension Verb {
  static let grants = Verb(
    name: "grants",
    help: """
      Print the SQL that grants a role what the enabled sweepers need, and nothing else. Contacts no server: run the \
      SQL in the control plane's database, as the owner of its tables.
      """,
    operands: Operands(name: "ROLE", count: 1...1),
    statuses: [ExitStatus(0, "The SQL was printed.")],
    perform: { arguments, context in
      let rows = [Setting.logLevel.row] + SettingRow.sweepers
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      return context.show(GrantScript(Sweepers.all(settings), role: arguments.operands[0]).text)
    })
}

/// The SQL that grants a role what some sweepers need.
struct GrantScript: Sendable {
  private let sweepers: [Sweeper]
  /// Quoted for SQL.
  private let role: String

  init(_ sweepers: [Sweeper], role: String) {
    self.sweepers = sweepers
    self.role = SQLName.quoted(role)
  }

  var text: String {
    var text = """
      -- What secrets-bridge-worker needs of PostgreSQL for these sweepers, and nothing else. Printed by
      -- `secrets-bridge-worker grants ROLE`, which other settings print other grants for. To be run in the control
      -- plane's database as the owner of its tables, with their schema first in the search path; again after a
      -- migration. Swept tables are read as a whole, by the place of their rows: the columns alone would do, slowly.
      BEGIN;
      DO $grants$ BEGIN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', current_schema(), \(SQLName.literal(role)));
      END $grants$;

      """
    for sweeper in sweepers { text += "\n-- \(sweeper.name): \(sweeper.summary)\n" + grants(to: sweeper) }
    return text + optional + "\nCOMMIT;\n"
  }

  /// Grants that no sweep needs.
  private var optional: String {
    """

    -- Optional, as a superuser: status and check show what the sessions of other roles do that hold up a sweep, and
    -- SB_WORKER_MAX_REPLICATION_LAG sees how far standbys are behind.
    -- GRANT pg_read_all_stats TO \(role);

    """
  }

  private func grants(to sweeper: Sweeper) -> String {
    let needs = SweepNeeds(sweeper.work)
    var lines = [grant(Self.wholeTable(needs, sweeper.work), on: needs.table)]
    for second in SweepNeeds.all(sweeper.work).dropFirst() { lines.append(grant(second.needs, on: second.table)) }
    for other in needs.others { lines.append(grant(other.needs, on: other.table)) }
    var text = ""
    if sweeper.requires.isEmpty {
      for line in lines { text += line + "\n" }
    } else {
      text += "DO $grants$ BEGIN\n  IF \(Self.isThere(sweeper.requires)) THEN\n"
      for line in lines { text += "    \(line)\n" }
      text += "  END IF;\nEND $grants$;\n"
    }
    guard needs.readsReferences else { return text }
    return text + parts(of: needs.table, Self.wholeTable(needs, sweeper.work)) + references(to: needs.table)
  }

  private func grant(_ needs: [SweepNeed], on table: String) -> String {
    "GRANT \(TableCheck.list(needs, quoted: false)) ON \(table) TO \(role);"
  }

  /// Rows are swept by ctid, which only a role that can read the whole row can see.
  private static func wholeTable(_ needs: SweepNeeds, _ work: Sweeper.Work) -> [SweepNeed] {
    guard case .rows = work else { return needs.needs }
    return [SweepNeed(privilege: .select, column: "")] + needs.needs.filter { $0.privilege != .select }
  }

  /// SQL for whether the schema has these tables with their columns, which not every schema has.
  private static func isThere(_ tables: [RequiredTable]) -> String {
    var text = ""
    for table in tables {
      let columns = table.columns.map { "'\($0)'" }.joined(separator: ", ")
      text += text.isEmpty ? "" : "\n     AND "
      text += "(SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('\(table.name)')\n"
      text += "          AND NOT attisdropped AND attname IN (\(columns))) = \(table.columns.count)"
    }
    return text
  }

  /// A sweep that checks for references to a row deletes from each partition or child table separately.
  private func parts(of table: String, _ needs: [SweepNeed]) -> String {
    let rights = TableCheck.list(needs, quoted: false)
    return """
      DO $grants$ DECLARE part record; BEGIN
        FOR part IN WITH RECURSIVE tree AS (
            SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('\(table)')
            UNION SELECT child.inhrelid FROM tree JOIN pg_inherits AS child ON child.inhparent = tree.inhrelid)
          SELECT inhrelid::regclass AS name FROM tree LOOP
          EXECUTE format('GRANT \(rights) ON %s TO %s', part.name, \(SQLName.literal(role)));
        END LOOP;
      END $grants$;

      """
  }

  /// References to a row are searched in every table with such a foreign key.
  private func references(to table: String) -> String {
    """
    DO $grants$ DECLARE key record; BEGIN
      FOR key IN SELECT conrelid::regclass AS referring, attname FROM pg_constraint
        JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY (conkey)
        WHERE contype = 'f' AND confrelid = to_regclass('\(table)') LOOP
        EXECUTE format('GRANT SELECT (%I) ON %s TO %s', key.attname, key.referring, \(SQLName.literal(role)));
      END LOOP;
    END $grants$;

    """
  }
}
