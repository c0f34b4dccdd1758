// The audit trail in customized schemas: triggers that discard, move or delete lines. A change whose line is not
// there is not committed, and the run names the trail; triggers that lose no line are not blamed.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct AuditProofTests {
  /// A trigger on audit_events.
  struct Trigger: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let time: String
    let body: String
    /// SQL before it.
    var before = ""
    /// Whether it runs at the commit.
    var isDeferred = false

    var sql: String {
      """
      DROP TRIGGER audit_events_append_only ON audit_events; \(before);
      CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \(body) END $$;
      CREATE \(isDeferred ? "CONSTRAINT " : "")TRIGGER act \(time) ON audit_events
        \(isDeferred ? "DEFERRABLE INITIALLY DEFERRED" : "") FOR EACH ROW EXECUTE FUNCTION act()
      """
    }
  }

  private static let old = "00000000-0000-0000-0000-000000000001"
  private static let child = "CREATE TABLE audit_child () INHERITS (audit_events)"
  /// Refuses each row once it has been inserted.
  private static let refusal = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE unique_violation; END $$;
    CREATE TRIGGER refuse AFTER INSERT ON audit_child FOR EACH ROW EXECUTE FUNCTION refuse()
    """
  private static let move = """
    BEGIN INSERT INTO audit_child SELECT NEW.*; EXCEPTION WHEN unique_violation THEN NULL; END; RETURN NULL;
    """

  private static let discarding = [
    Trigger(testDescription: "discards every line", time: "BEFORE INSERT", body: "RETURN NULL;"),
    Trigger(
      testDescription: "deletes every line again", time: "AFTER INSERT",
      body: "DELETE FROM audit_events WHERE id = NEW.id; RETURN NULL;"),
    Trigger(
      testDescription: "writes every line elsewhere", time: "BEFORE INSERT",
      body: "INSERT INTO archive SELECT NEW.*; RETURN NULL;", before: "CREATE TABLE archive (LIKE audit_events)"),
    Trigger(
      testDescription: "fails to move lines into a child, and hides that", time: "BEFORE INSERT", body: move,
      before: "\(child); \(refusal)"),
    Trigger(
      testDescription: "updates an older line instead", time: "BEFORE INSERT",
      body: "UPDATE audit_events SET occurred_at = now() WHERE correlation_id = '\(old)'; RETURN NULL;",
      before: """
        INSERT INTO audit_events (actor, action, resource, status, correlation_id, metadata)
        SELECT 'api', 'a', 'r', 'success', '\(old)', '{}' FROM generate_series(1, 9)
        """),
    Trigger(
      testDescription: "deletes every line again at the commit", time: "AFTER INSERT",
      body: "DELETE FROM audit_events WHERE id = NEW.id; RETURN NULL;", isDeferred: true),
  ]

  private static let harmless = [
    Trigger(
      testDescription: "moves lines into a child", time: "BEFORE INSERT",
      body: "INSERT INTO audit_child SELECT NEW.*; RETURN NULL;", before: child),
    Trigger(
      testDescription: "moves lines into a child in a subtransaction", time: "BEFORE INSERT", body: move,
      before: child),
    Trigger(
      testDescription: "moves lines into a child, with another time", time: "BEFORE INSERT",
      body: "NEW.occurred_at := now() - interval '1 day'; INSERT INTO audit_child SELECT NEW.*; RETURN NULL;",
      before: child),
    Trigger(
      testDescription: "deletes old lines", time: "AFTER INSERT",
      body: "DELETE FROM audit_events WHERE occurred_at < now() - interval '90 days'; RETURN NULL;",
      before: """
        INSERT INTO audit_events (actor, action, resource, status, correlation_id, metadata, occurred_at)
        SELECT 'api', 'a', 'r', 'success', gen_random_uuid(), '{}', now() - interval '1 year' FROM generate_series(1, 9)
        """),
    Trigger(
      testDescription: "writes lines elsewhere, too", time: "AFTER INSERT",
      body: "INSERT INTO archive SELECT NEW.*; RETURN NULL;", before: "CREATE TABLE archive (LIKE audit_events)"),
  ]

  /// Sweepers that leave lines, one with linked rows and one without: what is due of each (five rows), how many still
  /// are, and the rights that it needs.
  private struct Trail: Sendable {
    let sweeper: String
    let due: String
    let left: String
    let rights: [String]
  }

  private static let trails = [
    Trail(
      sweeper: "reveal-sessions-expired", due: RevealRows.many(5),
      left: "SELECT count(*) FROM reveal_sessions WHERE expired_at IS NULL",
      rights: ["SELECT, UPDATE ON reveal_sessions", "SELECT, UPDATE ON secret_wraps"]),
    Trail(
      sweeper: "connections-stuck",
      due: """
        INSERT INTO provider_connections (name, type, auth_method, last_discover_started_at, last_discover_status)
        SELECT 'c' || n, 'vault', 'token', now() - interval '1 day', 'running' FROM generate_series(1, 5) AS n
        """,
      left: "SELECT count(*) FROM provider_connections WHERE last_discover_status = 'running'",
      rights: ["SELECT, UPDATE ON provider_connections"]),
  ]

  private static func sweep(_ trail: Trail, on plane: ControlPlane) async throws -> (changed: Int, error: SweepRefusal?)
  {
    let settings = try plane.settings(["SB_WORKER_AUDIT_EVENTS": "true"])
    let sweeper = try #require(Sweepers.declared(settings).first { $0.name == trail.sweeper })
    return try await onLoop {
      let tally = RunTally()
      do {
        _ = try await plane.sweep(sweeper, noting: tally)
        return (tally.count.changed, nil)
      } catch let error as SweepRefusal {
        return (tally.count.changed, error)
      }
    }
  }

  private static let reason = RowRefusal.discardedLines("public.audit_events")

  /// PostgreSQL counts deleted rows, unless track_counts is off.
  @Test(arguments: discarding, ["on", "off"])
  func nothingChangesWithoutItsLine(trigger: Trigger, trackCounts: String) async throws {
    for trail in Self.trails {
      let plane = try await ControlPlane.fresh()
      try await plane.sql("ALTER DATABASE \(plane.name) SET track_counts = \(trackCounts)")
      try await plane.sql("\(trail.due);\(trigger.sql)")
      let (changed, error) = try await Self.sweep(trail, on: plane)
      #expect(changed == 0, "\(trail.sweeper)")
      #expect(error == .rows(5, [Self.reason]), "\(trail.sweeper)")
      #expect(error?.reason == "5 rows refused (\(Self.reason))")
      #expect(try await plane.sql("\(trail.left); SELECT count(*) FROM audit_events WHERE actor = 'worker'") == "5\n0")
    }
  }

  @Test(arguments: harmless, ["on", "off"])
  func aTriggerThatLosesNoLineIsNotBlamed(trigger: Trigger, trackCounts: String) async throws {
    for trail in Self.trails {
      let plane = try await ControlPlane.fresh()
      try await plane.sql("ALTER DATABASE \(plane.name) SET track_counts = \(trackCounts)")
      try await plane.sql("\(trail.due);\(trigger.sql)")
      let (changed, error) = try await Self.sweep(trail, on: plane)
      #expect(changed == 5 && error == nil, "\(trail.sweeper): \(String(describing: error))")
      #expect(
        try await plane.sql("\(trail.left); SELECT count(*) FROM audit_events WHERE actor = 'worker'") == "0\n5")
    }
  }

  @Test func aLineThatIsDiscardedKeepsOnlyItsOwnRow() async throws {
    for trail in Self.trails {
      let plane = try await ControlPlane.fresh()
      try await plane.sql(
        """
        \(trail.due); CREATE TABLE seen (n int);
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          RETURN CASE WHEN right(NEW.resource, 36) = (SELECT max(id::text) FROM \(Self.table(of: trail))) THEN NULL
            ELSE NEW END; END $$;
        CREATE TRIGGER act BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION act()
        """)
      let (changed, error) = try await Self.sweep(trail, on: plane)
      #expect(changed == 4 && error == .rows(1, [Self.reason]), "\(trail.sweeper)")
      #expect(try await plane.sql("\(trail.left); SELECT count(*) FROM audit_events") == "1\n4", "\(trail.sweeper)")
    }
  }

  /// Where a trigger deletes old lines, the proof looks for the batch's own ones only.
  @Test func aTrailWhoseOldLinesATriggerDeletesIsNotReadAsAWhole() async throws {
    for trail in Self.trails {
      let plane = try await ControlPlane.fresh()
      try await plane.sql(
        """
        \(trail.due); DROP TRIGGER audit_events_append_only ON audit_events;
        INSERT INTO audit_events (actor, action, resource, status, correlation_id, metadata)
        SELECT 'api', 'a', 'r', 'success', gen_random_uuid(), '{}' FROM generate_series(1, 5000);
        CREATE TABLE old AS SELECT id FROM audit_events;
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          DELETE FROM audit_events WHERE id IN (SELECT id FROM old LIMIT 1); RETURN NULL; END $$;
        CREATE TRIGGER act AFTER INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION act();
        """)
      try await plane.sql("ANALYZE audit_events; ANALYZE old")
      let read = "SELECT pg_stat_clear_snapshot(), seq_tup_read FROM pg_stat_user_tables WHERE relname = 'audit_events'"
      let before = try await plane.sql(read)
      let (changed, error) = try await Self.sweep(trail, on: plane)
      #expect(changed == 5 && error == nil, "\(trail.sweeper): \(String(describing: error))")
      #expect(try await plane.sql(read) == before, "\(trail.sweeper)")
    }
  }

  private static func table(of trail: Trail) -> String {
    trail.sweeper == "reveal-sessions-expired" ? "reveal_sessions" : "provider_connections"
  }

  /// A sweep of five due rows, after `sql`, as a role that may insert lines and read none.
  private static func sweepInsertingOnly(after sql: String) async throws -> (changed: Int, error: SweepRefusal?) {
    let trail = trails[1]
    let plane = try await ControlPlane.fresh()
    try await plane.sql("\(trail.due);\(sql)")
    let columns = AuditNote.columns.joined(separator: ", ")
    let least = try await plane.limited(trail.rights + ["INSERT (\(columns)) ON audit_events"], query: "")
    return try await sweep(trail, on: least)
  }

  /// The role may insert lines and read none: what only reading them would prove is refused.
  @Test(arguments: harmless + discarding)
  func withInsertPrivilegeAloneNothingIsTakenForGranted(trigger: Trigger) async throws {
    let (changed, error) = try await Self.sweepInsertingOnly(after: trigger.sql)
    if trigger.testDescription == "writes lines elsewhere, too" {
      #expect(changed == 5 && error == nil, "\(String(describing: error))")
    } else {
      #expect(changed == 0 && error == .rows(5, [.unprovenLines("public.audit_events")]))
    }
  }

  /// The block that runs deferred triggers is sent only if there are any.
  @Test func aRoleThatMayUseNoLanguageLeavesLines() async throws {
    let (changed, error) = try await Self.sweepInsertingOnly(after: "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
    #expect(changed == 5 && error == nil, "\(String(describing: error))")
  }

  // MARK: A trail that is no table

  private static let view = "ALTER TABLE audit_events RENAME TO lines; CREATE VIEW audit_events AS SELECT * FROM lines"

  /// A view's rows do not tell which transaction wrote them.
  @Test func aTrailThatIsAViewIsRefusedByName() async throws {
    for trail in Self.trails {
      let plane = try await ControlPlane.fresh()
      try await plane.sql("\(trail.due);\(Self.view)")
      let (changed, error) = try await Self.sweep(trail, on: plane)
      #expect(changed == 0, "\(trail.sweeper)")
      let reason = try #require(error?.reason, "\(trail.sweeper)")
      #expect(reason.hasPrefix("public.audit_events is not a table"), "\(reason)")
      #expect(reason.contains("SB_WORKER_AUDIT_EVENTS=false"), "\(reason)")
      #expect(try await plane.sql(trail.left) == "5")
    }
  }

  @Test func checkSaysThatATrailIsAView() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.view)
    let settings = try plane.settings(["SB_WORKER_AUDIT_EVENTS": "true"])
    let sweeper = try #require(Sweepers.declared(settings).first { $0.name == "connections-stuck" })
    let faults = try await onLoop {
      let limit = LoopClock.system.now.advanced(by: .seconds(10))
      let connection = try await PostgresConnection.connect(settings[.databaseURL], by: limit, on: .system)
      defer { connection.close() }
      let session = ReadOnlySession(
        connection: connection, clock: .system, deadline: limit, answerLimit: .seconds(5))
      let check = TableCheck(
        needs: SweepNeeds(sweeper.work), role: "postgres", database: plane.name, allowsRowSecurity: false)
      return try await check.findings(in: session).filter { $0.verdict == .fault }.map(\.text)
    }
    #expect(faults.count == 1 && faults.first?.hasPrefix("public.audit_events is not a table") == true, "\(faults)")
  }

  // MARK: A trail that refuses lines

  /// What makes the trail refuse a line, and the refusal.
  private static let refusing = [
    (
      """
      ALTER TABLE audit_events RENAME TO lines; ALTER TABLE lines DROP CONSTRAINT audit_events_pkey;
      CREATE TABLE audit_events (LIKE lines INCLUDING DEFAULTS) PARTITION BY RANGE (occurred_at);
      CREATE TABLE audit_events_2020 PARTITION OF audit_events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')
      """, "23514 on public.audit_events"
    ),
    ("ALTER TABLE audit_events ADD COLUMN tenant text NOT NULL", "23502 on public.audit_events"),
    ("ALTER TABLE audit_events ADD CHECK (actor <> 'worker')", "23514 on public.audit_events"),
  ]

  @Test func aTrailThatRefusesLinesIsNamed() async throws {
    for (sql, state) in Self.refusing {
      for trail in Self.trails {
        let plane = try await ControlPlane.fresh()
        try await plane.sql("\(trail.due);\(sql)")
        let (changed, error) = try await Self.sweep(trail, on: plane)
        #expect(changed == 0 && error?.reason == "5 rows refused (\(state))", "\(String(describing: error))")
      }
    }
  }
}
