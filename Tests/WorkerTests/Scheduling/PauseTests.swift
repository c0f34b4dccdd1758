// Pauses: what a replica logs, what Redis decides for the fleet, and the commands on a running fleet.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct PauseTests {
  private static func at(_ seconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: seconds * 1_000_000_000)
  }

  @Test func aPauseIsReportedWhenItBeginsEveryHourAndWhenItEnds() {
    var state = PauseState()
    let pause = Pause(origin: "o", text: "ticket 17")
    #expect(state.answered(.idle(slot: 0, due: 1), at: Self.at(0)) == nil && !state.isPaused)
    #expect(state.answered(.paused(slot: 0, pause), at: Self.at(10)) == .begun(pause))
    #expect(state.answered(.paused(slot: 0, pause), at: Self.at(3_609)) == nil)
    #expect(state.answered(.paused(slot: 0, pause), at: Self.at(3_610)) == .lasts(pause, for: .seconds(3_600)))
    #expect(state.answered(.paused(slot: 0, pause), at: Self.at(7_000)) == nil)
    #expect(state.answered(.late, at: Self.at(7_001)) == nil && state.isPaused)
    #expect(state.answered(.settling(slot: 0, notBefore: 1), at: Self.at(7_001)) == nil && state.isPaused)
    let other = Pause(origin: "o", text: "ticket 18")
    #expect(state.answered(.paused(slot: 0, other), at: Self.at(7_002)) == .begun(other))
    #expect(state.answered(.held(slot: 0, remaining: 1), at: Self.at(7_010)) == .ended(after: .seconds(7_000)))
    #expect(state.answered(.idle(slot: 0, due: 1), at: Self.at(7_011)) == nil && !state.isPaused)
  }

  @Test func aPausesTextHasItsEnd() {
    #expect(Pause(origin: "", text: "until=1700000000000 ticket 17 (me@host)").until == 1_700_000_000_000)
    #expect(
      Pause(origin: "", text: "until=1700000000000 ticket 17").description
        == "paused until 2023-11-14T22:13:20Z: ticket 17")
    #expect(
      Pause(origin: "", text: "until=-9007199254740992 y").description == "paused until 0000-01-01T00:00:00Z: y")
    for text in ["1", "until=x y", "until=17", "until=9223372036854775807 y"] {
      #expect(Pause(origin: "", text: text).description == "paused: \(text)")
    }
  }

  // MARK: In Redis

  @Test func oneReplicaNotifiesOfAPauseItsLengthAndItsEnd() async throws {
    try await withReplicaPair(every: .seconds(60)) { pair in
      _ = try await pair.change(CoordinationScripts.pause, "ticket 17", "0", "0")
      let begun = try await pair.take(pair.first)
      #expect(begun.notice == .begun)
      guard case .paused(_, let pause) = begun.answer else { return #expect(Bool(false), "\(begun)") }
      #expect(pause.text == "ticket 17")
      #expect(try await pair.take(pair.second).notice == PauseNotice.none)
      // A day later.
      let yesterday = "\(Int64(Date().timeIntervalSince1970 * 1_000) - 86_400_001)"
      try pair.server.cli("HSET", ReplicaPair.keys.record, "pause_told", yesterday)
      #expect(try await pair.take(pair.second).notice == .reminder)
      #expect(try await pair.take(pair.first).notice == PauseNotice.none)
      #expect(try await pair.change(CoordinationScripts.resume)[2] == "ticket 17")
      #expect(try await pair.take(pair.first).notice == .ended)
      #expect(try await pair.take(pair.second).notice == PauseNotice.none)
      #expect(try await pair.change(CoordinationScripts.resume)[2] == "", "it is not paused")
    }
  }

  @Test func aRepeatedTakeHasTheSameNotice() async throws {
    try await withReplicaPair(every: .seconds(60)) { pair in
      _ = try await pair.change(CoordinationScripts.pause, "ticket 17", "0", "0")
      for _ in 0..<2 {
        #expect(try await pair.first.take(token: "same", mode: .due).fleet?.pause == .begun)
      }
      #expect(try await pair.first.take(token: "next", mode: .due).fleet?.pause == PauseNotice.none)
    }
  }

  @Test func aPauseEndsByItself() async throws {
    try await withReplicaPair(every: .seconds(60)) { pair in
      _ = try await pair.change(CoordinationScripts.pause, "ticket 17", "300", "0")
      guard case .paused(_, let pause) = try await pair.take(pair.first).answer else {
        return #expect(Bool(false), "not paused")
      }
      #expect(pause.until != nil && pause.reason == "ticket 17")
      try await eventually("its time is over") {
        if case .paused = try await pair.take(pair.first).answer { false } else { true }
      }
      // A replica that remembers the pause does not restore it.
      let late = try await pair.second.take(token: "t", mode: .due, knowing: pause)
      if case .paused = late.answer { Issue.record("paused again") }
      try pair.server.cli("FLUSHALL")
      if case .paused = try await pair.second.take(token: "u", mode: .due, knowing: pause).answer {
        Issue.record("paused again after a loss of data")
      }
    }
  }

  /// The existing worker takes the lock by SET NX.
  @Test func aPauseHoldsTheLockAgainstTheExistingWorker() async throws {
    try await withReplicaPair(every: .seconds(60)) { pair in
      _ = try await pair.change(CoordinationScripts.pause, "ticket 17", "0", "0")
      #expect(try !pair.server.cli("SET", ReplicaPair.keys.lock, "another's", "NX", "PX", "9000").contains("OK"))
      _ = try await pair.take(pair.first)
      try pair.server.cli("DEL", ReplicaPair.keys.lock)
      _ = try await pair.take(pair.first)
      #expect(try pair.server.cli("GET", ReplicaPair.keys.lock) == CoordinationScripts.pauseToken)
      #expect(Int(try pair.server.cli("PTTL", ReplicaPair.keys.lock)) ?? 0 > 60_000)
      // Set by hand, without the lock.
      try pair.server.cli("HDEL", ReplicaPair.keys.record, "paused")
      _ = try await pair.take(pair.first)
      #expect(try pair.server.cli("EXISTS", ReplicaPair.keys.lock).contains("0"))
    }
  }

  @Test func aRunUnderWayIsStoppedOnlyByAPauseThatSaysSo() async throws {
    try await withReplicaPair(every: .seconds(60)) { pair in
      let run = try await pair.first.takeInAnyCase()
      let limit = LoopClock.system.now.advanced(by: .seconds(5))
      #expect(try await pair.change(CoordinationScripts.pause, "ticket 17", "0", "0")[0] == "running")
      #expect(try await pair.first.renewal(token: run.token, by: limit) == .renewed)
      _ = try await pair.change(CoordinationScripts.pause, "ticket 17", "0", "1")
      #expect(try await pair.first.renewal(token: run.token, by: limit) == .stop)
      _ = try await pair.first.complete(EndedRun(run, .drained(.paused)))
      #expect(try pair.server.cli("EXISTS", ReplicaPair.keys.lock).contains("0"))
      _ = try await pair.change(CoordinationScripts.resume)
      let next = try await pair.first.takeInAnyCase()
      #expect(try await pair.first.renewal(token: next.token, by: limit) == .renewed)
    }
  }

  // MARK: The commands

  private func command(_ arguments: [String], on stage: WorkerStage) async throws -> WorkerProcess {
    let process = try await WorkerProcess.start(
      arguments, environment: ["REDIS_URL": stage.redis.url, "USER": "operator"])
    try await process.waitForExit()
    return process
  }

  @Test func theFleetPausesAndResumes() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
    }
    let pause = try await command(["pause", "agents-stale", "--reason", "ticket 17", "--for", "2h"], on: stage)
    #expect(pause.ending == .exited(0), "\(pause.everything)")
    #expect(pause.output.hasPrefix("agents-stale: paused until ") && pause.output.contains("ticket 17 (operator@"))
    let gauge = #"worker_sweeper_paused{task="agents-stale"}"#
    try await onLoop {
      try await eventually("slots pass") { try await worker.runs("agents-stale", "paused") > 1 }
      let swept = try await worker.runs("agents-stale", "success")
      let others = try await worker.runs("wraps-expired", "success")
      try await eventually("more slots pass") { try await worker.runs("wraps-expired", "success") > others + 1 }
      #expect(try await worker.runs("agents-stale", "success") == swept)
      #expect(try await worker.metric(gauge) == 1)
    }
    let environment = try await stage.environment
    let status = try await WorkerProcess.start(["status"], environment: environment)
    #expect(try await status.waitForExit() == .exited(2), "\(status.everything)")
    #expect(status.output.contains("agents-stale: paused until ") && status.output.contains("ticket 17"))
    let resume = try await command(["resume", "--all"], on: stage)
    #expect(resume.ending == .exited(0) && resume.output.contains("agents-stale: resumed; it was paused until"))
    #expect(resume.output.contains("wraps-expired: was not paused\n"))
    try await onLoop {
      let swept = try await worker.runs("agents-stale", "success")
      try await eventually("it sweeps again") { try await worker.runs("agents-stale", "success") > swept }
      #expect(try await worker.metric(gauge) == 0)
    }
    #expect(try await worker.stop() == .exited(0))
    for (message, count) in [("sweeper is paused", 1), ("sweeper is resumed", 1)] {
      #expect(worker.log.count { $0.message == message && $0["task"] == "agents-stale" } == count, "\(message)")
    }
  }

  @Test func aRunUnderWayStopsAfterItsBatch() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.plane.sql(
      """
      INSERT INTO secret_wraps
        (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
      SELECT 'x', 'x', 'x', 'k', 'x', 1, now() - interval '1 hour' FROM generate_series(1, 4000);
      CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END $$;
      CREATE TRIGGER dawdle BEFORE DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION dawdle()
      """)
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it sweeps") {
        try stage.plane.sqlAtOnce("SELECT count(*) < 4000 FROM secret_wraps").contains("t")
      }
    }
    let pause = try await command(["pause", "wraps-expired", "--reason", "wrong", "--now"], on: stage)
    #expect(pause.output.hasSuffix("the run under way stops after its batch\n"), "\(pause.everything)")
    try await onLoop {
      try await eventually("the run is given back") {
        worker.log.contains { $0.message == "run returned: the sweeper was paused" }
      }
    }
    let left = try await stage.plane.sql("SELECT count(*) FROM secret_wraps")
    #expect(Int(left) ?? 0 > 0, "it was not over anyway")
    #expect(try await worker.stop() == .exited(0))
  }

  @Test(arguments: [
    ["pause", "agents-stale"], ["pause", "--reason", "x"], ["pause", "--all", "agents-stale", "--reason", "x"],
    ["pause", "--all", "--reason", "x", "--for", "0s"], ["resume"], ["pause", "agents-stal", "--reason", "x"],
  ])
  func anIncompleteCommandChangesNothing(arguments: [String]) async throws {
    let process = try await WorkerProcess.start(arguments, environment: [:])
    #expect(try await process.waitForExit() == .exited(64), "\(process.everything)")
  }
}

extension ReplicaPair {
  fileprivate func change(_ script: RedisScript, _ arguments: String...) async throws -> [String] {
    try await evaluate(script, arguments).map { $0.text ?? "\($0.integer ?? 0)" }
  }

  fileprivate func take(_ replica: Coordinator) async throws -> (answer: TakeAnswer, notice: PauseNotice?) {
    let taken = try await replica.take(token: Token.random(.system), mode: .due)
    return (taken.answer, taken.fleet?.pause)
  }
}
