// The sweeper reveal-sessions-expired in a running worker: how soon a session's wraps close, and an old schema.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct RevealDeadlineTests {
  private static let name = "reveal-sessions-expired"

  @Test func wrapsCloseWithinTheIntervalAndASecondOfTheirSessionsExpiry() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(["SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL": "2s"])
    try await onLoop {
      try await eventually("it sweeps", within: .seconds(20)) { try await worker.runs(Self.name, "success") > 0 }
    }
    try await stage.plane.sql(
      (1...12).map {
        RevealRows.sessionWithWraps("s\($0)", expiry: "clock_timestamp() + \($0) * interval '530 ms'")
      }.joined())
    // For each wrap, when it was last seen open: both by PostgreSQL's clock.
    try await stage.plane.sql("CREATE TABLE seen AS SELECT key_name, NULL::interval AS open_for FROM secret_wraps")
    try await stage.plane.sql(
      """
      DO $$
      DECLARE left_open int;
      BEGIN
        FOR round IN 1..2000 LOOP
          UPDATE seen SET open_for = clock_timestamp() - session.expires_at
            FROM reveal_sessions AS session, unnest(session.wrap_ids) AS shown (id)
            JOIN secret_wraps AS wrap ON wrap.id = shown.id
           WHERE wrap.key_name = seen.key_name AND wrap.consumed_at IS NULL AND wrap.expires_at > clock_timestamp();
          GET DIAGNOSTICS left_open = ROW_COUNT;
          EXIT WHEN left_open = 0;
          COMMIT;
          PERFORM pg_sleep(0.01);
        END LOOP;
      END $$
      """)
    #expect(try await stage.plane.sql(RevealRows.readable) == "")
    #expect(try await stage.plane.sql("SELECT max(open_for) <= interval '3 s', count(*) FROM seen") == "t|24")
    print("open for at most \(try await stage.plane.sql("SELECT max(open_for) FROM seen")) at an interval of 2 s")
    #expect(try await stage.plane.sql(RevealRows.readableOfEnded) == "0")
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.log.contains { $0.level == "ERROR" || $0.level == "WARN" }, "\(worker.log)")
    let reported = worker.log.filter { $0.message == "notification" && $0["component"] == Self.name }
    #expect(!reported.isEmpty && reported.allSatisfy { $0["title"] == "reveal sessions expired" })
    #expect(reported.reduce(0) { $0 + ($1.fields?["sessions_swept"] as? Int ?? 0) } == 12)
    #expect(reported.reduce(0) { $0 + ($1.fields?["wraps_expired"] as? Int ?? 0) } == 24)
  }

  @Test func onTheOldestSchemaItIsOff() async throws {
    let plane = try await ControlPlane.fresh(at: .eleven)
    let redis = try PrivateRedis()
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--force", "--table"],
      environment: ["DATABASE_URL": plane.url, "REDIS_URL": redis.url, "SB_WORKER_LEASE": "3s"])
    try await worker.waitForExit(within: .seconds(30))
    #expect(worker.ending == .exited(0), "\(worker.everything)")
    #expect(worker.output.contains("off: no table reveal_sessions"), "\(worker.output)")
    #expect(!worker.log.contains { $0.level == "ERROR" })
  }
}
