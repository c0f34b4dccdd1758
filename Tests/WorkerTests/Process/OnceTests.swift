// `run --once` as cron runs it: its exit status, and what it leaves behind.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct OnceTests {
  private func once(_ stage: WorkerStage, _ settings: [String: String] = [:]) async throws -> WorkerProcess {
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--table"], environment: stage.environment.merging(settings) { $1 })
    try await worker.waitForExit(within: .seconds(20))
    return worker
  }

  @Test func whatIsDueRunsOnceAndTheStatusIsZero() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    let worker = try await once(stage)
    #expect(worker.ending == .exited(0))
    #expect(worker.output.contains("wraps-expired"))
    #expect(!worker.log.contains { $0.message?.hasPrefix("waiting") == true })
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0")
    #expect(try stage.locks() == [])
    let history = try stage.redis.cli("LINDEX", "secrets-bridge:history:{\(WorkerStage.lockKey("wraps-expired"))}", "0")
    let replica = "\(HostProcess.hostName):\(worker.probePort)"
    #expect(history.contains(#""replica":"\#(replica)""#) && history.contains(#""rows":1"#), "\(history)")
  }

  /// It attends no later slot. On the host of a replica it has that one's name.
  @Test func itIsNoReplicaAndTheReplicaOfItsNameStaysOne() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    let replica = "pod-z:8099 \(Int64(Date().timeIntervalSince1970 * 1_000)) 500 0.1.0 -;"
    let named = replica.replacing("pod-z", with: HostProcess.hostName)
    try stage.redis.cli("HSET", WorkerStage.recordKey("wraps-expired"), "replicas", named)
    #expect(try await once(stage, ["SB_WORKER_LOCAL_ADDR": "127.0.0.1:8099"]).ending == .exited(0))
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0")
    for sweeper in WorkerStage.sweepers {
      #expect(try stage.replicas(sweeper) == (sweeper == "wraps-expired" ? named : ""))
    }
    // A cron job runs the sweepers: they are attended.
    let status = try await WorkerProcess.start(["status"], environment: stage.environment)
    #expect(try await status.waitForExit() == .exited(0), "\(status.everything)")
  }

  @Test func aSlotThatWasDoneIsNotDoneAgain() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let hour = ["SB_WORKER_WRAPS_EXPIRED_INTERVAL": "1h"]
    #expect(try await once(stage, hour).ending == .exited(0))
    try await stage.addExpiredWrap()
    #expect(try await once(stage, hour).ending == .exited(0))
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "1")
  }

  @Test func aLockThatAnotherReplicaHoldsIsNoFailure() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try stage.redis.cli("SET", WorkerStage.lockKey("wraps-expired"), "another's", "PX", "60000")
    let worker = try await once(stage)
    #expect(worker.ending == .exited(0))
    #expect(worker.output.contains("held: another replica runs it"))
  }

  @Test func aSweepThatFailsIsStatusOneAndTheOthersRunAllTheSame() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    try await stage.plane.sql("DROP TABLE secrets CASCADE")
    let worker = try await once(stage)
    #expect(worker.ending == .exited(1))
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0")
    #expect(try stage.locks() == [])
  }

  @Test func aRedisThatIsAwayIsStatusOne() async throws {
    let stage = try await WorkerStage.set()
    stage.redisProxy.admission = .refuse
    #expect(try await once(stage).ending == .exited(1))
  }

  /// It ends before an outage lasts for long: its own line says why.
  @Test(arguments: ["connection refused", "timed out"])
  func aRedisThatDoesNotAnswerIsAWarningThatSaysWhy(reason: String) async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    if reason == "timed out" { stage.redis.pause() } else { stage.redisProxy.admission = .refuse }
    let worker = try await once(stage, ["REDIS_DIAL_TIMEOUT": "1s"])
    #expect(worker.ending == .exited(1))
    let lines = worker.log.filter { $0.message == "Redis does not answer: this sweeper waits until it does" }
    #expect(Set(lines.compactMap { $0["task"] }) == Set(WorkerStage.sweepers), "each sweeper says so")
    #expect(lines.allSatisfy { $0.level == "WARN" && $0["error"] == reason }, "\(lines)")
    #expect(worker.output.contains("failure: Redis: \(reason)"), "\(worker.output)")
  }

  @Test func aNewRedisIsWaitedForAsLongAsALeaseLasts() async throws {
    let stage = try await WorkerStage.set()
    try await stage.addExpiredWrap()
    let begin = ContinuousClock.now
    let worker = try await once(stage)
    #expect(worker.ending == .exited(0))
    let line = try #require(worker.log.first, "it says at once what it waits for")
    #expect(line.message?.hasPrefix("waiting before the first sweep") == true && line["wait"] == "3s", "\(line)")
    #expect(line.fields?["sweepers"] as? [String] == WorkerStage.sweepers)
    #expect(begin.duration(to: .now) >= .milliseconds(2_900))
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0")
  }

  @Test func aDatabaseThatDoesNotExistIsStatusOneThoughNothingIsDue() async throws {
    let stage = try await WorkerStage.set()
    for sweeper in WorkerStage.sweepers {
      let record = "secrets-bridge:schedule:{\(WorkerStage.lockKey(sweeper))}"
      try stage.redis.cli("HSET", record, "epoch", "1")
    }
    let hour = Dictionary(
      uniqueKeysWithValues: ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE", "JOBS_RECOVERY"].map {
        ("SB_WORKER_\($0)_INTERVAL", "1h")
      })
    // Now each slot is done.
    #expect(try await once(stage, hour).ending == .exited(0))
    let environment = try await stage.environment
    let url = try #require(environment["DATABASE_URL"])
    let name = try #require(url.split(separator: "/").last)
    let worker = try await once(
      stage, hour.merging(["DATABASE_URL": url.replacing(name, with: "no_such_database")]) { $1 })
    #expect(worker.ending == .exited(1))
    let fault = try #require(worker.log.first { $0.message == "PostgreSQL does not answer" })
    #expect(fault.level == "ERROR" && fault["error"]?.contains("3D000") == true, "\(fault)")
  }

  @Test func aSignalInTheMiddleOfARunIsStatusOneAndSaidToBeADrain() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.startStuck(["SB_WORKER_SHUTDOWN_GRACE": "2s"], ["run", "--once", "--table"])
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: .seconds(15)) == .exited(1))
    #expect(worker.output.contains("drained"), "\(worker.output)")
    #expect(worker.log.contains { $0.message?.hasPrefix("interrupted") == true })
    #expect(try stage.locks() == [])
  }

  @Test func aSignalBeforeAnyRunIsStatusOneToo() async throws {
    // A new Redis is waited for as long as a lease lasts.
    let stage = try await WorkerStage.set()
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--table"], environment: stage.environment.merging(["SB_WORKER_LEASE": "60s"]) { $1 })
    try await onLoop {
      try await eventually("Redis was asked") { try !stage.redis.cli("KEYS", "secrets-bridge:schedule:*").isEmpty }
    }
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: .seconds(15)) == .exited(1))
    #expect(worker.output.contains("drained"), "\(worker.output)")
  }
}
