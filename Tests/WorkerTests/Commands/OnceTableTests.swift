// What `run --once` prints of its results.

import Coordination
import Foundation
import Testing

@testable import Worker

@Suite struct OnceTableTests {
  private static let rows = [
    OnceTable.Row(sweeper: "wraps-expired", result: .success(SweepCount(changed: 1_200, skipped: 3))),
    OnceTable.Row(sweeper: "secrets-stale", result: nil, skip: .notDue),
    OnceTable.Row(sweeper: "connections-stuck", result: nil, skip: .held),
    OnceTable.Row(sweeper: "requests-expired", result: nil, skip: .paused("by a@b: migration")),
    OnceTable.Row(
      sweeper: "agents-stale",
      result: .failure(RunFailure(reason: "Redis: timed out", isPermanent: false), SweepCount(changed: 2))),
    OnceTable.Row(sweeper: "jobs-recovery", result: .drained()),
    OnceTable.Row(sweeper: "queue-watch", result: nil, absence: "SB_WORKER_QUEUE_ALERT_AFTER=off"),
  ]

  @Test func theTableHasARowForEachSweeper() {
    #expect(
      OnceTable.text(Self.rows) == """
        sweeper            found  changed  skipped  outcome
        wraps-expired       1203     1200        3  success
        secrets-stale          -        -        -  not due
        connections-stuck      -        -        -  held: another replica runs it
        requests-expired       -        -        -  paused: by a@b: migration
        agents-stale           -        2        -  failure: Redis: timed out
        jobs-recovery          -        -        -  drained: a signal ended it
        queue-watch            -        -        -  off: SB_WORKER_QUEUE_ALERT_AFTER=off

        """)
  }

  @Test func inJSONTheReasonIsAFieldOfItsOwn() throws {
    let text = OnceTable.text(Self.rows, as: .json)
    let rows = try #require(JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]])
    #expect(rows.map { $0["outcome"] as? String }.suffix(3) == ["failure", "drained", "off"])
    #expect(rows[4]["reason"] as? String == "Redis: timed out" && rows[0]["reason"] is NSNull)
    #expect(rows[0]["found"] as? Int == 1_203 && rows[4]["found"] is NSNull)
  }
}
