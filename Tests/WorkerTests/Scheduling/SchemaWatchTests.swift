// When the schema turns a sweeper on or off: the state machine, and the query on real schemas.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SchemaWatchTests {
  private let start = MonotonicInstant(nanoseconds: 0)

  @Test func aSweeperThatRequiresNothingIsOnWithoutACheck() {
    #expect(SchemaWatch(requiresAny: false).next(at: start) == .attend)
  }

  @Test func aCompleteSchemaIsNotCheckedAgain() {
    var watch = SchemaWatch(requiresAny: true)
    #expect(watch.next(at: start) == .check)
    #expect(watch.checked(missing: nil, at: start) == nil)
    #expect(watch.next(at: start.advanced(by: .seconds(86_400))) == .attend)
  }

  @Test func whatIsMissingIsReportedOnceAndCheckedEveryFiveMinutes() {
    var watch = SchemaWatch(requiresAny: true)
    #expect(watch.checked(missing: "table a", at: start) == .off(missing: "table a"))
    let next = start.advanced(by: .seconds(300))
    #expect(watch.next(at: next.advanced(by: .nanoseconds(-1))) == .wait(until: next))
    #expect(watch.next(at: next) == .check)
    #expect(watch.checked(missing: "table a", at: next) == nil)
    watch.unanswered(at: next)
    #expect(watch.next(at: next) == .wait(until: next.advanced(by: .seconds(300))))
    #expect(watch.checked(missing: nil, at: next) == .on)
    #expect(watch.missing == nil && watch.next(at: next) == .attend)
  }

  @Test func aColumnThatIsDroppedTurnsTheSweeperOff() {
    var watch = SchemaWatch(requiresAny: true)
    _ = watch.checked(missing: nil, at: start)
    #expect(watch.checked(missing: "column a.b", at: start) == .off(missing: "column a.b"))
    #expect(watch.missing == "column a.b")
  }

  @Test func withoutAnAnswerAnUnknownSchemaIsCheckedAgain() {
    var watch = SchemaWatch(requiresAny: true)
    watch.unanswered(at: start)
    #expect(watch.missing == nil && watch.next(at: start) == .check)
  }

  /// What each sweeper lacks, in the order of `Sweepers.all`.
  private func missing(_ plane: ControlPlane) async throws -> [String: String] {
    let sweepers = Sweepers.all(try plane.settings())
    return try await onLoop {
      let pool = try plane.pool()
      let check = SchemaCheck(sweepers, pool: pool, clock: .system)
      var missing: [String: String] = [:]
      for sweeper in sweepers {
        missing[sweeper.name] = try await check.missing(for: sweeper.name, maximumAge: .seconds(10))
      }
      await pool.close()
      return missing
    }
  }

  @Test func theOldestSchemaLacksTheTablesOfLaterSweepers() async throws {
    let missing = try await missing(try await ControlPlane.fresh(at: .eleven))
    #expect(missing["cross-team-fill-window-expired"] == "table access_requests")
    #expect(missing["wraps-expired"] == nil)
  }

  @Test func theNewestSchemaLacksNothing() async throws {
    #expect(try await missing(try await ControlPlane.fresh()) == [:])
  }

  @Test func aMissingColumnIsNamed() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("ALTER TABLE access_requests DROP COLUMN fill_expires_at")
    #expect(
      try await missing(plane)["cross-team-fill-window-expired"] == "column access_requests.fill_expires_at")
  }
}
