// The sweeper reveal-sessions-expired on a real PostgreSQL: which sessions and wraps it changes, and that no ended
// session has a wrap that can be read.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct RevealSessionsTests {
  private static let audited = ["SB_WORKER_AUDIT_EVENTS": "true"]

  private func sweep(
    _ plane: ControlPlane, _ settings: [String: String] = [:], noting tally: RunTally? = nil,
    knowing memory: TableMemory? = nil
  ) async throws -> SweepCount {
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings(settings))
    return try await onLoop {
      let pool = try plane.pool(connections: 1)
      do {
        let count = try await plane.sweep(
          sweeper, through: pool, noting: tally ?? RunTally(), knowing: memory ?? TableMemory())
        await pool.close()
        return count
      } catch {
        await pool.close()
        throw error
      }
    }
  }

  private static let rows =
    RevealRows.sessionWithWraps("due") + RevealRows.sessionWithWraps("boundary", expiry: "now()")
    + RevealRows.sessionWithWraps("open", expiry: "now() + interval '1 minute'")
    + RevealRows.wrap("hidden wrap")
    + RevealRows.session("hidden", ids: [RevealRows.id("hidden wrap")], reason: "user_hide")
    + RevealRows.session("empty", ids: [])
    + RevealRows.wrap("known")
    + RevealRows.session("unknown", ids: [RevealRows.id("nowhere"), "NULL", RevealRows.id("known")])
    + RevealRows.wrap("consumed wrap", isConsumed: true) + RevealRows.wrap("beside it")
    + RevealRows.session("consumed", ids: [RevealRows.id("consumed wrap"), RevealRows.id("beside it")])
    + RevealRows.wrap("expired wrap", expiry: "now() - interval '1 day'")
    + RevealRows.session("expired", ids: [RevealRows.id("expired wrap")])
    + "ALTER TABLE reveal_sessions ALTER wrap_ids DROP NOT NULL;" + RevealRows.session("null", ids: [])
    + "UPDATE reveal_sessions SET wrap_ids = NULL WHERE user_id = 'null'"

  @Test(arguments: [DevelopmentSchema.twentyEight, .thirtyEight])
  func expiredSessionsEndWithTheirUnconsumedWraps(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(Self.rows)
    let count = try await sweep(plane)
    #expect(count.changed == 7 && count.linked == 6 && count.skipped == 0)
    #expect(try await plane.sql(RevealRows.ended) == "boundary,consumed,due,empty,expired,null,unknown")
    #expect(try await plane.sql(RevealRows.open) == "open")
    #expect(try await plane.sql(RevealRows.readable) == "hidden wrap,open 1,open 2")
    // Rows that are not due are not written.
    #expect(
      try await plane.sql(
        """
        SELECT bool_and(expired_at >= expires_at),
          (SELECT expires_at < now() - interval '1 hour' FROM secret_wraps WHERE key_name = 'expired wrap'),
          (SELECT expires_at > now() FROM secret_wraps WHERE key_name = 'consumed wrap')
          FROM reveal_sessions WHERE expired_reason = 'ttl'
        """) == "t|t|t")
    #expect(try await sweep(plane).found == 0)
  }

  @Test func aSessionWhoseWrapIsLockedWaitsAndTheOthersDoNot() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql((1...5).map { RevealRows.sessionWithWraps("s\($0)") }.joined())
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings())
    try await onLoop {
      let consume = "UPDATE secret_wraps SET consumed_at = now(), consumed_by_user = 'x' WHERE key_name = 's3 1'"
      try await SweepRaceTests.transaction(plane, consume) { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 4 && count.skipped == 1 && !count.isLocked)
        #expect(try await plane.sql(RevealRows.open) == "s3")
        #expect(try await plane.sql(RevealRows.readableOfEnded) == "0")
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).changed == 1)
      #expect(try await plane.sql(RevealRows.readable) == "")
    }
  }

  @Test func aSessionThatItsUserHidesMeanwhileIsLeftToTheApi() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(RevealRows.sessionWithWraps("hidden") + RevealRows.sessionWithWraps("other"))
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings())
    try await onLoop {
      let hide = "UPDATE reveal_sessions SET expired_at = now(), expired_reason = 'user_hide' WHERE user_id = 'hidden'"
      try await SweepRaceTests.transaction(plane, hide) { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 1 && count.skipped == 1)
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).found == 0)
      #expect(try await plane.sql(RevealRows.ended) == "other")
      #expect(try await plane.sql(RevealRows.readable) == "")
    }
  }

  /// More rows with one expiry than a window has, sessions with more wraps than that, and one that stays locked.
  @Test func manySessionsOfOneMomentAndManyWrapsOfOneSessionAreSweptInOneRun() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      RevealRows.many(3_000, wraps: 2) + RevealRows.many(1, wraps: 1_000, prefix: "large")
        + RevealRows.many(1, wraps: 5_000, prefix: "huge"))
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings())
    try await onLoop {
      try await SweepRaceTests.transaction(plane, "SELECT FROM secret_wraps WHERE key_name = 'u5 1' FOR UPDATE") {
        commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 3_001 && count.skipped == 1 && count.linked >= 11_998)
        try await commit()
      }
      #expect(try await plane.sql(RevealRows.open) == "u5")
      #expect(try await plane.sweep(sweeper).changed == 1)
      #expect(try await plane.sql(RevealRows.readable) == "")
    }
  }

  // MARK: The audit trail

  /// The sessions that the worker ended, and what the audit trail says of them.
  private static let endedAndNoted = """
    SELECT (SELECT string_agg('reveal_session:' || id, ',' ORDER BY id) FROM reveal_sessions
             WHERE expired_reason = 'ttl') = string_agg(resource, ',' ORDER BY resource),
      count(*), count(DISTINCT correlation_id),
      string_agg(DISTINCT concat_ws(' ', actor, action, status, metadata), ',')
    FROM audit_events
    """

  @Test func whereAskedToEachSessionThatRanOutLeavesALineInTheAuditTrail() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.rows)
    let sweeper = Sweeper.revealSessionsExpired(try plane.settings(Self.audited))
    let line = "worker reveal.session.expired success {}"
    try await onLoop {
      let consume = "UPDATE secret_wraps SET consumed_at = now(), consumed_by_user = 'x' WHERE key_name = 'due 1'"
      try await SweepRaceTests.transaction(plane, consume) { commit in
        let count = try await plane.sweep(sweeper)
        #expect(count.changed == 6 && count.skipped == 1 && count.kept == 0)
        #expect(try await plane.sql(Self.endedAndNoted) == "t|6|6|\(line)")
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).changed == 1)
      #expect(try await plane.sweep(sweeper).found == 0)
    }
    #expect(try await plane.sql(Self.endedAndNoted) == "t|7|7|\(line)")
  }

  @Test func withoutTheRightToNoteItNoSessionEndsNorAnyOfItsWraps() async throws {
    let plane = try await ControlPlane.fresh()
    let rights = [
      "SELECT, UPDATE ON reveal_sessions", "SELECT (id, consumed_at, expires_at), UPDATE (expires_at) ON secret_wraps",
    ]
    try await plane.sql(RevealRows.sessionWithWraps("due"))
    let least = try await plane.limited(rights, query: "")
    let error = await #expect(throws: PostgresError.self) { try await sweep(least, Self.audited) }
    #expect(error?.sqlState == "42501")
    #expect(try await plane.sql(RevealRows.readable) == "due 1,due 2")
    let noting = try await plane.limited(
      rights + ["INSERT (\(AuditNote.columns.joined(separator: ", "))) ON audit_events"], query: "")
    #expect(try await sweep(noting, Self.audited).changed == 1)
    #expect(try await plane.sql("SELECT count(*) FROM audit_events") == "1")
  }

  // MARK: Other people's tables

  @Test(arguments: [
    "SELECT, UPDATE ON reveal_sessions",
    "SELECT (id, expires_at, expired_at, wrap_ids), UPDATE (expired_at, expired_reason) ON reveal_sessions",
  ])
  func theLeastRightsSuffice(_ rights: String) async throws {
    let plane = try await ControlPlane.fresh()
    let least = try await plane.limited(
      rights, "SELECT (id, consumed_at, expires_at), UPDATE (expires_at) ON secret_wraps")
    try await plane.sql(Self.rows)
    #expect(try await sweep(least).changed == 7)
    #expect(try await plane.sql(RevealRows.readableOfEnded) == "0")
  }

  @Test func withoutARightOnWrapsNoSessionEnds() async throws {
    let plane = try await ControlPlane.fresh()
    let least = try await plane.limited("SELECT, UPDATE ON reveal_sessions", "SELECT ON secret_wraps")
    try await plane.sql(Self.rows)
    let error = await #expect(throws: PostgresError.self) { try await sweep(least) }
    #expect(error?.sqlState == "42501")
    #expect(try await plane.sql(RevealRows.ended) == "")
  }

  @Test func rowSecurityOnWrapsIsRefusedAlsoWhereItComesBetweenTwoRuns() async throws {
    let plane = try await ControlPlane.fresh()
    let least = try await plane.limited(
      "SELECT, UPDATE ON reveal_sessions", "SELECT (id, consumed_at, expires_at), UPDATE (expires_at) ON secret_wraps")
    let memory = try await onLoop { TableMemory() }
    #expect(try await sweep(least, knowing: memory).found == 0)
    try await plane.sql(Self.rows + ";ALTER TABLE secret_wraps ENABLE ROW LEVEL SECURITY")
    await #expect(throws: SweepRefusal.rowSecurity("public.secret_wraps")) { try await sweep(least, knowing: memory) }
    #expect(try await plane.sql(RevealRows.ended) == "")
  }

  @Test func anExpiryOfWrapsThatIsNoMomentIsRefused() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("ALTER TABLE secret_wraps ALTER expires_at TYPE timestamp;" + Self.rows)
    let refusal = await #expect(throws: SweepRefusal.self) { try await sweep(plane) }
    #expect(refusal == .unusableMoments("expires_at is timestamp without time zone", table: "public.secret_wraps"))
    #expect(try await plane.sql(RevealRows.ended) == "")
  }

  private static func trigger(_ body: String, _ when: String) -> String {
    """
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \(body) RETURN NULL; END $$;
    CREATE \(when) ON secret_wraps \(when.hasPrefix("CONSTRAINT") ? "DEFERRABLE INITIALLY DEFERRED" : "")
      FOR EACH ROW WHEN (NEW.key_name = 'due 1') EXECUTE FUNCTION keep();
    """
  }

  private static let putBack = """
    IF NEW.expires_at <= clock_timestamp() THEN
      UPDATE secret_wraps SET expires_at = OLD.expires_at WHERE id = NEW.id;
    END IF;
    """

  /// A trigger before the change, one behind it, and one at the transaction's end.
  @Test(arguments: [
    trigger("", "TRIGGER keep BEFORE UPDATE"), trigger(putBack, "TRIGGER keep AFTER UPDATE"),
    trigger(putBack, "CONSTRAINT TRIGGER keep AFTER UPDATE"),
  ])
  func aSessionWhoseWrapATriggerKeepsDoesNotEnd(_ trigger: String) async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(RevealRows.sessionWithWraps("due") + RevealRows.sessionWithWraps("other") + trigger)
    let refusal = await #expect(throws: SweepRefusal.self) { try await sweep(plane) }
    #expect(refusal == .kept(1, table: "public.reveal_sessions or public.secret_wraps"))
    #expect(try await plane.sql(RevealRows.ended) == "other")
    #expect(try await plane.sql(RevealRows.readableOfEnded) == "0")
  }

  @Test func aWrapThatCannotBeChangedKeepsNoOtherSessionOpen() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      RevealRows.many(300)
        + "ALTER TABLE secret_wraps ADD CHECK (key_name <> 'u77 1' OR expires_at > created_at + interval '30 min')")
    let refusal = await #expect(throws: SweepRefusal.self) { try await sweep(plane) }
    #expect(refusal == .rows(1, [.sqlState("23514", on: "public.secret_wraps")]))
    #expect(try await plane.sql(RevealRows.open) == "u77")
    #expect(try await plane.sql(RevealRows.readable) == "u77 1")
  }

  @Test func tablesWithoutIndexesAndWithPartitionsAreSwept() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      DROP INDEX reveal_sessions_open; ALTER TABLE reveal_sessions DROP CONSTRAINT reveal_sessions_pkey;
      ALTER TABLE secret_wraps RENAME TO old_wraps;
      CREATE TABLE secret_wraps (LIKE old_wraps INCLUDING DEFAULTS) PARTITION BY HASH (id);
      CREATE TABLE wraps_0 PARTITION OF secret_wraps FOR VALUES WITH (MODULUS 2, REMAINDER 0);
      CREATE TABLE wraps_1 PARTITION OF secret_wraps FOR VALUES WITH (MODULUS 2, REMAINDER 1);
      \(Self.rows)
      """)
    #expect(try await sweep(plane).changed == 7)
    #expect(try await plane.sql(RevealRows.readable) == "hidden wrap,open 1,open 2")
  }

  @Test func twoControlPlanesInOneDatabaseDoNotTouchEachOther() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      "\(Self.rows); CREATE SCHEMA second; SET search_path = second; \(ControlPlane.schema()); \(Self.rows)")
    let second = ControlPlane(url: plane.url + "?search_path=second", name: plane.name)
    async let one = sweep(plane)
    async let other = sweep(second)
    #expect(try await [one.changed, other.changed] == [7, 7])
    #expect(try await plane.sql(RevealRows.readable) == "hidden wrap,open 1,open 2")
    #expect(try await plane.sql("SET search_path = second; \(RevealRows.readable)") == "hidden wrap,open 1,open 2")
  }

  // MARK: Before it is swept

  @Test func aDryRunCountsWrapsAndChangesNothing() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.rows)
    let settings = try plane.settings()
    let found = try await onLoop {
      try await DryRun(
        sweeper: .revealSessionsExpired(settings), allowsRowSecurity: false, clock: .system
      ).found(through: settings[.databaseURL])
    }
    #expect(found.due == 7 && found.linked?.due == 6 && found.linked?.table == "public.secret_wraps")
    #expect(
      found.text(as: .text).contains(
        "would update these rows of public.reveal_sessions, and with them 6 rows of public.secret_wraps."))
    #expect(try await plane.sql(RevealRows.ended) == "")
  }
}
