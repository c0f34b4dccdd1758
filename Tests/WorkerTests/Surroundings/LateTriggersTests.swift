// Triggers that run behind the change of a row, on a real PostgreSQL: what they undo is not told as changed, and those
// that write elsewhere, or write something else, are not blamed.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct LateTriggersTests {
  /// When the trigger runs.
  enum Moment: String, CaseIterable, Sendable {
    case row = "behind the row"
    case statement = "behind the statement"
    case commit = "at the transaction's end"
  }

  /// What is swept there.
  enum Table: String, CaseIterable, Sendable {
    case wraps = "secret_wraps"
    case agents
    case jobs = "sync_jobs"

    /// Ten rows that are due, by the names 0 to 9, and one that is not.
    var rows: String {
      switch self {
      case .wraps:
        """
        \(SweeperTests.wrap) SELECT n, '', '', '', 'k', '', 0, now() - n * interval '1 s', NULL, NULL
          FROM generate_series(0, 9) AS n;
        \(SweeperTests.wrap) VALUES ('live', '', '', '', 'k', '', 0, now() + interval '1 h', NULL, NULL)
        """
      case .agents:
        """
        INSERT INTO agents (name, secret_hash, last_seen_at)
        SELECT n, '', now() - interval '1 h' FROM generate_series(0, 9) AS n;
        INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('live', '', now())
        """
      case .jobs:
        """
        INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
        SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 h', to_jsonb(n::text)
          FROM generate_series(0, 9) AS n;
        INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
        VALUES ('sync', gen_random_uuid(), 'claimed', now() + interval '1 h', '"live"')
        """
      }
    }

    var name: String { self == .wraps ? "key_name" : self == .agents ? "name" : "payload #>> '{}'" }

    var due: String {
      switch self {
      case .wraps: "expires_at < now()"
      case .agents: "status = 'active' AND last_seen_at < now() - interval '5 min'"
      case .jobs: "status = 'claimed' AND claim_expires_at < now()"
      }
    }

    func sweeper(_ plane: ControlPlane) throws -> Sweeper {
      let settings = try plane.settings()
      return switch self {
      case .wraps: .wrapsExpired(settings)
      case .agents: .agentsStale(settings)
      case .jobs: .jobsRecovery(settings)
      }
    }

    /// A trigger that puts rows back whose name is below `below`.
    func undoing(_ moment: Moment, below: String, on table: String? = nil) -> String {
      let back =
        self == .wraps
        ? "INSERT INTO secret_wraps SELECT * FROM gone WHERE \(name) < '\(below)'"
        : "UPDATE \(rawValue) AS now SET status = gone.status FROM gone WHERE now.id = gone.id AND "
          + "gone.\(name) < '\(below)'"
      let event = self == .wraps ? "DELETE" : "UPDATE"
      let table = table ?? rawValue
      guard moment != .statement else {
        return """
          CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \(back); RETURN NULL; END $$;
          CREATE TRIGGER undo AFTER \(event) ON \(table) REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION undo()
          """
      }
      return """
        CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          BEGIN WITH gone AS (SELECT OLD.*) \(back);
          EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN NULL; END $$;
        CREATE \(moment == .commit ? "CONSTRAINT" : "") TRIGGER undo AFTER \(event) ON \(table)
          \(moment == .commit ? "DEFERRABLE INITIALLY DEFERRED" : "") FOR EACH ROW
          WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION undo()
        """
    }
  }

  /// Sweeps once and expects these numbers of rows changed, reported as kept, and due.
  @EventLoop
  private static func expect(
    _ table: Table, on plane: ControlPlane, as role: ControlPlane? = nil, changed: Int, kept: Int
  ) async throws {
    let tally = RunTally()
    let sweeper = try table.sweeper(plane)
    if kept > 0 {
      let refusal = await #expect(throws: SweepRefusal.self) {
        try await (role ?? plane).sweep(sweeper, noting: tally)
      }
      #expect(refusal == .kept(kept, table: "public.\(table.rawValue)"))
    } else {
      _ = try await (role ?? plane).sweep(sweeper, noting: tally)
    }
    #expect(tally.count.changed == changed)
    #expect(tally.count.refused == 0 && tally.count.skipped == 0)
    #expect(try await plane.sql("SELECT count(*) FROM \(table.rawValue) WHERE \(table.due)") == "\(kept)")
  }

  @Test(arguments: Table.allCases, Moment.allCases)
  func whatATriggerUndoesIsReportedAsKept(_ table: Table, _ moment: Moment) async throws {
    for (below, changed, kept) in [("z", 0, 10), ("3", 7, 3)] {
      let plane = try await ControlPlane.fresh()
      try await plane.sql("\(table.rows); \(table.undoing(moment, below: below))")
      try await onLoop { try await Self.expect(table, on: plane, changed: changed, kept: kept) }
      // In each run, not in the first one alone.
      try await onLoop { try await Self.expect(table, on: plane, changed: 0, kept: kept) }
    }
  }

  @Test(arguments: Moment.allCases)
  func whatATriggerUndoesIsCountedWithColumnPrivilegesAlone(_ moment: Moment) async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("\(Table.agents.rows); \(Table.agents.undoing(moment, below: "3"))")
    try await plane.sql("ALTER FUNCTION undo() SECURITY DEFINER")
    let limited = try await plane.limited("SELECT (status, last_seen_at), UPDATE (status) ON agents")
    try await onLoop { try await Self.expect(.agents, on: plane, as: limited, changed: 7, kept: 3) }
  }

  @Test(arguments: Moment.allCases)
  func aTriggerOfAPartitionAloneIsMet(_ moment: Moment) async throws {
    let plane = try await ControlPlane.fresh()
    let part = moment == .statement ? "sync_jobs" : "jobs_odd"
    try await plane.sql(
      """
      \(SweepSurroundingsTests.partitioned); \(Table.jobs.rows); \(Table.jobs.undoing(moment, below: "z", on: part))
      """)
    let kept = try await plane.sql("SELECT count(*) FROM \(part) WHERE \(Table.jobs.due)")
    let count = try #require(Int(kept))
    try await onLoop { try await Self.expect(.jobs, on: plane, changed: 10 - count, kept: count) }
  }

  @Test func whatATriggerUndoesIsCountedIfTheServerCountsNoRows() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("\(Table.wraps.rows); \(Table.wraps.undoing(.row, below: "3"))")
    try await plane.set("track_counts", "off")
    try await onLoop { try await Self.expect(.wraps, on: plane, changed: 7, kept: 3) }
  }

  /// An audit, also one that writes its notes at the end, and triggers that write to the swept table what is not due.
  @Test(arguments: Table.allCases, Moment.allCases)
  func aTriggerThatWritesSomethingElseIsNotBlamed(_ table: Table, _ moment: Moment) async throws {
    let audit = "INSERT INTO audit VALUES (TG_OP);"
    let wrap = SweeperTests.wrap + " VALUES ('new', '', '', '', 'k', '', 0, now() + interval '1 h', NULL, NULL);"
    let touch =
      table == .wraps
      ? wrap : "UPDATE \(table.rawValue) SET created_at = now();"
    for body in [audit, touch, audit + touch] {
      let plane = try await ControlPlane.fresh()
      let (first, last) =
        moment == .commit ? ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW") : ("TRIGGER", "")
      try await plane.sql(
        """
        \(table.rows); CREATE TABLE audit (what text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \(body) RETURN NULL; END $$;
        CREATE \(first) note AFTER \(table == .wraps ? "DELETE" : "UPDATE") ON \(table.rawValue)
          \(moment == .row ? "FOR EACH ROW" : last) WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION note()
        """)
      try await onLoop { try await Self.expect(table, on: plane, changed: 10, kept: 0) }
    }
  }

  @Test(arguments: Moment.allCases)
  func newJobsThatATriggerRemovesAreReportedAsDiscarded(_ moment: Moment) async throws {
    let plane = try await ControlPlane.fresh()
    let rows = moment == .statement ? "" : " WHERE id = NEW.id"
    let kind =
      moment == .commit ? "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW" : moment == .row ? "FOR EACH ROW" : ""
    try await plane.sql(
      """
      CREATE FUNCTION remove() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM sync_jobs\(rows); RETURN NULL; END $$;
      CREATE \(moment == .commit ? "CONSTRAINT" : "") TRIGGER remove AFTER INSERT ON sync_jobs
        \(kind) EXECUTE FUNCTION remove()
      """)
    let settings = try plane.settings(["SB_DISCOVER_TARGETS_JSON": SweeperTests.targets])
    let sweeper = Sweeper.discoverScheduler(settings)
    try await onLoop {
      let tally = RunTally()
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
      #expect(refusal == .swallowed(2, table: "public.sync_jobs"))
      #expect(tally.count.changed == 0)
    }
  }
}
