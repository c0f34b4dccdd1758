// Two workers on a Redis whose wall clock steps: no two runs at once, and nothing is left undone for long.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized, .enabled("takes a C compiler") { SteppedClock.isAvailable })
struct SteppedRedisTests {
  /// Notes each deletion of wraps, and makes it last.
  private static let audit = """
    CREATE TABLE deletions (epoch text, began timestamptz, ended timestamptz);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE began timestamptz := clock_timestamp();
    BEGIN
      PERFORM pg_sleep(0.15);
      INSERT INTO public.deletions VALUES (current_setting('application_name'), began, clock_timestamp());
      RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION note();
    """

  private static let overlaps = """
    SELECT count(*) FROM deletions a JOIN deletions b
    ON a.epoch < b.epoch AND a.began < b.ended AND b.began < a.ended
    """

  @Test(arguments: [[3_600, 0], [-3_600, 0], [600, -600], [-86_400, 3_600]])
  func aStepOfItsClockStopsNoSweeperAndNoTwoRunsAreAtWorkAtOnce(offsets: [Int]) async throws {
    let stage = try await WorkerStage.set(redis: try PrivateRedis(hasSteppedClock: true))
    try stage.settle()
    try await stage.plane.sql(Self.audit)
    let workers = [try await stage.start(), try await stage.start()]
    try await onLoop {
      for offset in [0] + offsets {
        try stage.redis.stepClock(to: .seconds(offset))
        for round in 0..<3 {
          try await stage.addExpiredWrap()
          // One interval, or the lease of a run that the step cut off.
          try await eventually("offset \(offset), round \(round): the wrap is swept", within: .seconds(8)) {
            try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0"
          }
        }
        for sweeper in WorkerStage.sweepers { try await Self.sweepsAgain(sweeper, workers) }
      }
    }
    for worker in workers { #expect(try await worker.stop() == .exited(0)) }
    #expect(try await stage.plane.sql("SELECT count(*) >= 9 FROM deletions") == "t")
    #expect(try await stage.plane.sql(Self.overlaps) == "0")
    #expect(try stage.locks() == [])
    let lines = workers.flatMap(\.log).filter { $0.message == "Redis is unavailable" }
    #expect(lines.isEmpty, "\(lines)")
  }

  @EventLoop
  private static func sweepsAgain(_ sweeper: String, _ workers: [WorkerProcess]) async throws {
    func successes() async throws -> Double {
      var sum = 0.0
      for worker in workers { sum += try await worker.runs(sweeper, "success") }
      return sum
    }
    let before = try await successes()
    try await eventually("\(sweeper) is run", within: .seconds(8)) { try await successes() > before }
  }

  /// Its expiry is then an hour and a lease ahead.
  @Test func theLockOfAHolderThatDiedBeforeTheClockSteppedBackLastsNoLongerThanTheLongestLease() async throws {
    let stage = try await WorkerStage.set(redis: try PrivateRedis(hasSteppedClock: true))
    let key = WorkerStage.lockKey("wraps-expired")
    let holder = try await stage.startStuck()
    let token = try stage.redis.cli("GET", key)
    holder.signal(SIGKILL)
    try await holder.waitForExit()
    try stage.redis.stepClock(to: .seconds(-3_600))
    #expect(try #require(Int(try stage.redis.cli("PTTL", key))) > 3_590_000)
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it came to the lock") {
        try #require(Int(try stage.redis.cli("PTTL", key))) <= 300_000
      }
      #expect(try stage.redis.cli("EXISTS", key) == "1", "it is not taken from a holder that may live")
      try stage.redis.stepClock(to: .seconds(-3_000))
      try await eventually("its turn comes") {
        let present = try stage.redis.cli("GET", key)
        return present != token && present != ""
      }
    }
    worker.signal(SIGKILL)
    try await worker.waitForExit()
  }
}
