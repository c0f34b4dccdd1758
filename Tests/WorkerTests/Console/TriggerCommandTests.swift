// Triggers: how Redis hands them to one run, and the verb on a running fleet.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct TriggerCommandTests {
  // MARK: In Redis

  @Test func oneRunIsDueForOneTrigger() async throws {
    try await withReplicaPair(every: .seconds(86_400)) { pair in
      #expect(try await pair.trigger() == ("unattended", 0), "nobody has asked for it")
      try await pair.runWhatIsDue()
      #expect(try await pair.isIdle(pair.second))
      let trigger = try await pair.trigger()
      #expect(trigger.kind == "triggered" && trigger.id > 0)
      #expect(try await pair.trigger() == ("joined", trigger.id))
      #expect(try await pair.progress(of: trigger.id) == .waiting)
      let run = try await pair.taken(pair.second)
      #expect(run.isForced && !run.acceptsAnyShare)
      #expect(try await pair.progress(of: trigger.id) == .running(replica: "b", epoch: "\(run.epoch)"))
      _ = try await pair.second.complete(EndedRun(run, .success(SweepCount(changed: 3, skipped: 1))))
      #expect(try await pair.isIdle(pair.first))
      #expect(try await pair.isIdle(pair.second))
      let ended = try await pair.progress(of: trigger.id)
      #expect(ended.isOver && ended.isSuccess)
      #expect(ended.line == "success on b in 0s: 4 rows found, 3 changed")
    }
  }

  @Test func aRunThatDiesOrIsGivenBackLeavesItsTrigger() async throws {
    try await withReplicaPair(every: .seconds(86_400)) { pair in
      try await pair.runWhatIsDue()
      let id = try await pair.trigger(accepts: "1").id
      let dead = try await pair.taken(pair.first)
      #expect(dead.acceptsAnyShare)
      var next: Run?
      try await eventually("its lease is over") {
        if case .taken(let run) = try await pair.take(pair.second) { next = run }
        return next != nil
      }
      let given = try #require(next)
      #expect(given.isForced && given.acceptsAnyShare)
      _ = try await pair.second.complete(EndedRun(given, .drained()))
      let last = try await pair.taken(pair.first)
      _ = try await pair.first.complete(EndedRun(dead, .success()))
      #expect(try await !pair.progress(of: id).isOver, "a superseded run does not end it")
      _ = try await pair.first.complete(EndedRun(last, .failed))
      #expect(try await pair.progress(of: id).isSuccess == false)
      #expect(try await pair.progress(of: id).isOver)
      #expect(try await pair.isIdle(pair.second))
    }
  }

  @Test func aTriggerDuringARunIsForTheNextRun() async throws {
    try await withReplicaPair(every: .seconds(86_400)) { pair in
      let run = try await pair.first.takeInAnyCase()
      let id = try await pair.trigger().id
      _ = try await pair.first.complete(EndedRun(run, .success()))
      #expect(try await pair.progress(of: id) == .waiting)
      let triggered = try await pair.taken(pair.first)
      #expect(try await pair.trigger().id > id, "its run has begun")
      _ = try await pair.first.complete(EndedRun(triggered, .success()))
      #expect(try await pair.progress(of: id).isSuccess)
      _ = try await pair.first.complete(EndedRun(try await pair.taken(pair.second), .success()))
      #expect(try await pair.isIdle(pair.first))
    }
  }

  @Test func aTriggerExpiresAndIsLostWithRedissData() async throws {
    try await withReplicaPair(every: .seconds(86_400)) { pair in
      try await pair.runWhatIsDue()
      let id = try await pair.trigger().id
      try pair.server.cli("HSET", ReplicaPair.keys.record, "trigger_until", "\(id)")
      #expect(try await pair.isIdle(pair.first))
      #expect(try await pair.progress(of: id) == .expired)
      let again = try await pair.trigger()
      #expect(again.kind == "triggered" && again.id > id)
      try pair.server.cli("FLUSHALL")
      #expect(try await pair.progress(of: again.id) == .lost)
      #expect(try await pair.trigger() == ("unattended", 0))
    }
  }

  // MARK: The verb

  private func trigger(_ arguments: [String], on stage: WorkerStage) async throws -> WorkerProcess {
    let process = try await WorkerProcess.start(
      ["trigger"] + arguments, environment: ["REDIS_URL": stage.redis.url])
    try await process.waitForExit()
    return process
  }

  /// A sweeper of an hour's interval is run within a moment, because others ask Redis twice a second.
  @Test func aTriggeredSweeperRunsOnceAtOnceAndWaitReportsItsOutcome() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start([
      "SB_WORKER_SECRETS_STALE_INTERVAL": "8760h", "SB_WORKER_AGENTS_STALE_INTERVAL": "off",
    ])
    let before = try await trigger(["agents-stale", "--wait"], on: stage)
    #expect(before.ending == .exited(2))
    #expect(before.output == "agents-stale: not triggered: no replica attends it; it is off, or no worker runs\n")
    try await onLoop {
      try await eventually("it has run in its slot") { try await worker.runs("secrets-stale", "success") == 1 }
    }
    let first = try await trigger(["secrets-stale", "--wait"], on: stage)
    #expect(first.ending == .exited(0), "\(first.everything)")
    #expect(first.output.hasPrefix("secrets-stale: triggered\n") && first.output.contains("secrets-stale: success on "))
    #expect(first.output.hasSuffix(": 0 rows found, 0 changed\n"))
    // Those who wake for it find it run: until then others have asked again.
    try await onLoop {
      let others = try await worker.runs("wraps-expired", "success")
      try await eventually("slots pass") { try await worker.runs("wraps-expired", "success") > others + 2 }
      #expect(try await worker.runs("secrets-stale", "success") == 2)
    }
    try await stage.plane.sql("ALTER TABLE secrets RENAME COLUMN last_seen_at TO seen")
    let failed = try await trigger(["secrets-stale", "--wait"], on: stage)
    #expect(failed.ending == .exited(2) && failed.output.contains("secrets-stale: failure on "), "\(failed.everything)")
    #expect(failed.output.contains(" with 42703: 0 rows found, 0 changed\n"))
    _ = try stage.redis.cli(
      "HSET", CoordinationScripts.keys(namespace: "secrets-bridge", sweeper: "wraps-expired").record, "paused",
      "ticket 17")
    let paused = try await trigger(["wraps-expired"], on: stage)
    #expect(paused.ending == .exited(2) && paused.output == "wraps-expired: not triggered: paused: ticket 17\n")
    let nothing = try await trigger([], on: stage)
    #expect(nothing.ending == .exited(64))
    #expect(try await worker.stop() == .exited(0))
  }

  /// A sweeper of a long interval asks by itself at its next slot only.
  @Test func aRareSweeperIsTriggeredAgainSoonAfterRedisLostItsData() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start(["SB_WORKER_SECRETS_STALE_INTERVAL": "8760h"])
    try await onLoop {
      try await eventually("it has run in its slot") { try await worker.runs("secrets-stale", "success") == 1 }
    }
    for _ in 0..<2 {
      let runs = try await onLoop { try await worker.runs("secrets-stale", "success") }
      try stage.redis.cli("FLUSHALL")
      try await onLoop {
        try await eventually("it is attended again", within: .seconds(5)) {
          try await self.trigger(["secrets-stale"], on: stage).ending == .exited(0)
        }
        try await eventually("it runs") { try await worker.runs("secrets-stale", "success") > runs }
      }
    }
    #expect(try await worker.stop() == .exited(0))
  }
}

extension ReplicaPair {
  fileprivate func trigger(accepts: String = "0") async throws -> (kind: String, id: Int64) {
    let parts = try await evaluate(CoordinationScripts.trigger, [accepts])
    return (parts[0].text ?? "", parts[2].integer ?? -1)
  }

  fileprivate func take(_ replica: Coordinator) async throws -> TakeAnswer {
    try await replica.take(token: Token.random(.system), mode: .due).answer
  }

  /// Runs what is due, so that nothing is until the next slot.
  fileprivate func runWhatIsDue() async throws {
    _ = try await first.complete(EndedRun(try await first.takeInAnyCase(), .success()))
  }

  fileprivate func taken(_ replica: Coordinator) async throws -> Run {
    let answer = try await take(replica)
    guard case .taken(let run) = answer else { return try #require(nil, "\(answer)") }
    return run
  }

  fileprivate func isIdle(_ replica: Coordinator) async throws -> Bool {
    if case .idle = try await take(replica) { true } else { false }
  }

  fileprivate func progress(of id: Int64) async throws -> TriggerProgress {
    let parts = try await evaluate(CoordinationScripts.records, SweeperRecord.fields)
    return TriggerProgress(of: id, SweeperRecord(sweeper: "agents-stale", parts[1]), at: parts[0].integer ?? 0)
  }
}
