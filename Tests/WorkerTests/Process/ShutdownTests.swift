// Shutdown: the first signal leaves nothing behind, the second ends it at once, and both work in any state.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct ShutdownTests {
  /// Far less than the usual grace and than what a run is stuck for, and enough for a busy machine.
  private static let atOnce = Duration.seconds(8)

  @Test(arguments: [SIGTERM, SIGINT])
  func askedToEndWhileIdleItEndsAtOnceWith0(signal: Int32) async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start()
    try await onLoop { try await worker.answersReadyz(200) }
    worker.signal(signal)
    #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(0))
    #expect(worker.log.map(\.message).suffix(2) == ["shutting down: signal received", "shutdown complete"])
  }

  @Test func askedToEndItLeavesTheRecordsAndNoOtherReplicaDoes() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let other = "pod-z \(Int64(Date().timeIntervalSince1970 * 1_000)) 500 0.1.0 -;"
    try stage.redis.cli("HSET", WorkerStage.recordKey("agents-stale"), "replicas", other)
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("every sweeper's record lists it") {
        try WorkerStage.sweepers.allSatisfy { try stage.replicas($0).contains(":\(worker.probePort) ") }
      }
    }
    #expect(try await worker.stop() == .exited(0))
    for sweeper in WorkerStage.sweepers {
      #expect(try stage.replicas(sweeper) == (sweeper == "agents-stale" ? other : ""))
    }
  }

  /// Without a limit of its own, each sweeper's last command would hold up the end for 2 s.
  @Test func askedToEndWithoutRedisItDoesNotWaitForIt() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let hour = Dictionary(
      uniqueKeysWithValues: ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE", "JOBS_RECOVERY"].map {
        ("SB_WORKER_\($0)_INTERVAL", "1h")
      })
    let worker = try await stage.start(hour)
    try await onLoop {
      try await eventually("it has swept") {
        for sweeper in WorkerStage.sweepers where try await worker.runs(sweeper, "success") < 1 { return false }
        return true
      }
    }
    stage.redis.pause()
    let begin = ContinuousClock.now
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(0))
    #expect(begin.duration(to: .now) < .seconds(2))
  }

  @Test func aHangUpEndsNothing() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start()
    try await onLoop {
      try await worker.answersReadyz(200)
      worker.signal(SIGHUP)
      #expect(await worker.status(of: "/healthz") == 200)
    }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func askedToEndWithAStuckRunItCancelsTheStatementWithinTheGraceAndLeavesNoLock() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.startStuck(["SB_WORKER_SHUTDOWN_GRACE": "3s", "SB_WORKER_LEASE": "15s"])
    try await onLoop {
      #expect(try stage.locks().contains(WorkerStage.lockKey("wraps-expired")))
      worker.signal(SIGTERM)
      try await eventually("it drains") { try await worker.get("/readyz").body == #"{"status":"draining"}"# }
      #expect(await worker.status(of: "/readyz") == 503)
      #expect(await worker.status(of: "/healthz") == 200)
    }
    #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(0))
    #expect(try stage.locks() == [])
    #expect(try await stage.stuckStatements() == 0)
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "1", "nothing was written")
    #expect(!worker.log.contains { $0.level == "ERROR" }, "a drain is no failure")
  }

  @Test func aSecondSignalEndsItAtOnce() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.startStuck(["SB_WORKER_SHUTDOWN_GRACE": "60s", "SB_WORKER_LEASE": "120s"])
    try await onLoop {
      worker.signal(SIGTERM)
      try await eventually("it drains") { worker.log.contains { $0.message == "shutting down: signal received" } }
    }
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(143))
  }

  @Test func askedToEndAnywhereInItsRunsItLeavesNoLock() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SeededRandom(seed: seed)
    for turn in 0..<6 {
      try await stage.addExpiredWrap()
      let worker = try await stage.start()
      let pause = Duration.milliseconds(Int.random(in: 0..<700, using: &random))
      try await onLoop {
        try await worker.answersReadyz(200)
        try await LoopClock.system.sleep(for: pause)
      }
      worker.signal(SIGTERM)
      #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(0), "seed \(seed), turn \(turn)")
      #expect(try stage.locks() == [], "seed \(seed), turn \(turn)")
    }
  }

  @Test func askedToEndWhileItsServersHangItEndsWithinTheGrace() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start(["SB_WORKER_SHUTDOWN_GRACE": "2s"])
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("wraps-expired", "success") > 0 }
      stage.postgresProxy.set(.blackHole)
      stage.redisProxy.set(.blackHole)
      try await eventually("it noticed") { await worker.status(of: "/readyz") == 503 }
    }
    let begin = ContinuousClock.now
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: .seconds(10)) == .exited(0))
    #expect(begin.duration(to: .now) < .seconds(6))
  }

  @Test func aSingleRoundThatIsAskedToEndIsCancelledWithinTheGraceToo() async throws {
    let stage = try await WorkerStage.set()
    let settings = ["SB_WORKER_SHUTDOWN_GRACE": "1s", "SB_WORKER_LEASE": "15s"]
    let worker = try await stage.startStuck(settings, ["run", "--once", "--force"])
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(1))
    #expect(try stage.locks() == [])
    #expect(try await stage.stuckStatements() == 0)
  }

  @Test func askedToEndBeforeItsServersEverAnsweredItEndsAtOnce() async throws {
    let stage = try await WorkerStage.set()
    stage.postgresProxy.set(.blackHole)
    stage.redisProxy.admission = .refuse
    let worker = try await stage.start()
    #expect(try await worker.get("/readyz").body == #"{"status":"booting"}"#)
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: Self.atOnce) == .exited(0))
  }
}
