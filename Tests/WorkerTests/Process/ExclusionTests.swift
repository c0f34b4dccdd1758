// Replicas as processes, and the lock that they share with each other and with the existing worker.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct ExclusionTests {
  private static let key = WorkerStage.lockKey("wraps-expired")

  @Test func theExistingWorkersLockKeepsThisOneOut() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    // As a replica of the existing worker takes it.
    #expect(try stage.redis.cli("SET", Self.key, "token-of-the-other", "NX", "PX", "60000") == "OK")
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it came to the lock") { try await worker.runs("wraps-expired", "skipped_lock") >= 1 }
      // The other sweepers do not wait for this one.
      try await eventually("another one runs") { try await worker.runs("agents-stale", "success") >= 2 }
      #expect(try await worker.runs("wraps-expired", "success") == 0)
      #expect(try await worker.metric(#"worker_scheduler_lock_skipped_total{task="wraps-expired"}"#) ?? 0 >= 1)
      #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "1")
      #expect(try stage.redis.cli("GET", Self.key) == "token-of-the-other")
      #expect(try stage.redis.cli("DEL", Self.key) == "1")
      try await eventually("its turn comes") { try await worker.runs("wraps-expired", "success") >= 1 }
      #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0")
    }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func thisOnesLockKeepsTheExistingWorkerOut() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.startStuck()
    try await onLoop {
      #expect(try stage.redis.cli("SET", Self.key, "token-of-the-other", "NX", "PX", "60000") == "")
      let expiry = try #require(Int(try stage.redis.cli("PTTL", Self.key)))
      #expect(expiry > 0 && expiry <= 3_000)
    }
    worker.signal(SIGKILL)
    try await worker.waitForExit()
  }

  @Test func ofTwoReplicasOneSweepsAndTheOtherTakesOverWhereThatOneDies() async throws {
    let stage = try await WorkerStage.set()
    let first = try await stage.startStuck()
    let second = try await stage.start()
    try await onLoop {
      let holder = try stage.redis.cli("GET", Self.key)
      try await eventually("the second one came to the lock twice") {
        #expect(try await stage.stuckStatements() <= 1)
        return try await second.runs("wraps-expired", "skipped_lock") >= 2
      }
      first.signal(SIGKILL)
      try await first.waitForExit()
      try await eventually("the second one took over") {
        let present = try stage.redis.cli("GET", Self.key)
        return present != holder && present != ""
      }
      try await stage.plane.sql("DROP TRIGGER IF EXISTS wait ON secret_wraps")
      try await eventually("it did the work") {
        try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0"
      }
    }
    #expect(try await second.stop() == .exited(0))
    #expect(try stage.locks() == [])
  }
}
