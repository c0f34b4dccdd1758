// Replicas coordinate through a real Redis: lost data, lost scripts, a server that becomes read-only, late messages.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct CoordinationTests {
  static let lease = Duration.milliseconds(600)

  /// Two replicas of one sweeper, each with its own connection.
  @EventLoop
  private struct Pair {
    let first: Coordinator
    let second: Coordinator
    let server: PrivateRedis

    /// Takes the lock for `replica`, due or not, as soon as it is free.
    func take(_ replica: Coordinator, _ mode: TakeMode = .force) async throws -> Run {
      var taken: Run?
      try await eventually("the lock is free") {
        let token = Token.random(.system)
        let answer = try await replica.take(token: token, mode: mode).answer
        if case .taken(let run) = answer { taken = run }
        return taken != nil
      }
      return try #require(taken)
    }
  }

  private func withPair(
    intervals: (Duration, Duration) = (.seconds(3_600), .seconds(3_600)),
    _ body: @escaping @EventLoop @Sendable (Pair) async throws -> Void
  ) async throws {
    let server = try await offLoop { try PrivateRedis() }
    try await onLoop {
      let clients = try (0..<2).map { _ in RedisClient(try RedisConfiguration(url: server.url), clock: .system) }
      @EventLoop func replica(_ index: Int, _ interval: Duration) -> Coordinator {
        Coordinator(
          redis: clients[index], redisClock: RedisClock(), clock: .system, namespace: "coordination",
          sweeper: "wraps-expired", interval: interval, leaseDuration: Self.lease, replica: "replica-\(index)")
      }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for client in clients { group.addTask { await client.run() } }
        try await body(
          Pair(first: replica(0, intervals.0), second: replica(1, intervals.1), server: server))
        group.cancelAll()
      }
    }
    server.stop()
  }

  @Test func afterALossOfDataNoReplicaTakesTheLockForOneLease() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      try pair.server.cli("FLUSHALL")
      let lost = LoopClock.system.now
      let next = try await pair.take(pair.second)
      #expect(lost.duration(to: next.takenAt) >= Self.lease - .milliseconds(5))
      #expect(next.epoch > grant.epoch)
      #expect(try await !pair.first.renew(token: grant.token, by: LoopClock.system.now.advanced(by: .seconds(1))))
    }
  }

  @Test func aRunThatEndsAfterALossOfDataCountsAndIsNotRepeated() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      try pair.server.cli("FLUSHALL")
      guard case .settling = try await pair.second.take(token: "early", mode: .due).answer else {
        Issue.record("the record is not new")
        return
      }
      _ = try await pair.first.complete(EndedRun(grant, .success()))
      let answer = try await pair.second.take(token: "next", mode: .due).answer
      #expect(answer == .idle(slot: grant.slot, due: grant.nextSlot))
    }
  }

  @Test func aReplicaThatLeavesRemovesNeitherAnotherNorALaterProcessOfItsName() async throws {
    try await withPair { pair in
      let record = pair.first.recordKey
      func names() throws -> [Substring] {
        try pair.server.cli("HGET", record, "replicas").split(separator: ";").compactMap {
          $0.split(separator: " ").first
        }.filter { $0.hasPrefix("replica") }
      }
      let listed = try await pair.first.take(token: "a", mode: .due).now
      let others = try await pair.second.take(token: "b", mode: .due).now
      try await pair.first.leave(listedAt: listed - 1)
      #expect(try names() == ["replica-1", "replica-0"], "it has asked since")
      try await pair.first.leave(listedAt: listed)
      #expect(try names() == ["replica-1"])
      try await pair.first.leave(listedAt: others)
      #expect(try names() == ["replica-1"])
      // A command's round is no replica.
      _ = try await pair.first.take(token: "c", mode: .due, isListed: false)
      #expect(try names() == ["replica-1"])
    }
  }

  @Test func aServerThatLostItsScriptsReceivesThemAgain() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      try pair.server.cli("SCRIPT", "FLUSH")
      #expect(try await pair.first.renew(token: grant.token, by: LoopClock.system.now.advanced(by: .seconds(2))))
      try pair.server.cli("SCRIPT", "FLUSH")
      _ = try await pair.first.complete(EndedRun(grant, .success()))
      #expect(try pair.server.cli("EXISTS", "coordination:lock:worker:sweeper:wraps-expired") == "0")
    }
  }

  @Test func aServerThatBecameAReplicaRefusesTakesUntilItIsAMasterAgain() async throws {
    try await withPair { pair in
      _ = try await pair.first.complete(EndedRun(try await pair.take(pair.first), .failed))
      try pair.server.cli("REPLICAOF", "127.0.0.1", "1")
      await #expect(throws: RedisError.self) { try await pair.first.take(token: "t", mode: .force) }
      try pair.server.cli("REPLICAOF", "NO", "ONE")
      _ = try await pair.take(pair.first)
    }
  }

  @Test func aTakeThatArrivesAfterItsDeadlineIsRefused() async throws {
    try await withPair { pair in
      _ = try await pair.first.complete(EndedRun(try await pair.take(pair.first), .drained()))
      try pair.server.cli("CLIENT", "PAUSE", "700", "ALL")
      let limit = LoopClock.system.now.advanced(by: .milliseconds(200))
      await #expect(throws: RedisError.self) { try await pair.first.take(token: "late", mode: .force, by: limit) }
      // Redis runs it when the pause is over, before any later command.
      _ = try await pair.take(pair.second)
      #expect(try pair.server.cli("GET", "coordination:lock:worker:sweeper:wraps-expired") != "late")
    }
  }

  @Test func aTokenRenewsAndReleasesOnlyItsOwnLock() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      let limit = LoopClock.system.now.advanced(by: .seconds(2))
      #expect(try await !pair.second.renew(token: "another's", by: limit))
      try await pair.second.release(token: "another's")
      #expect(try await pair.first.renew(token: grant.token, by: limit))
      try await pair.first.release(token: grant.token)
      #expect(try await !pair.first.renew(token: grant.token, by: limit))
    }
  }

  @Test func aPausedSweeperIsNotTakenUntilItIsResumed() async throws {
    try await withPair { pair in
      let record = "coordination:schedule:{coordination:lock:worker:sweeper:wraps-expired}"
      _ = try await pair.first.complete(EndedRun(try await pair.take(pair.first), .success()))
      try pair.server.cli("HSET", record, "paused", "1")
      for mode in [TakeMode.due, .start, .force] {
        let answer = try await pair.second.take(token: "t", mode: mode).answer
        guard case .paused = answer else { return #expect(Bool(false), "\(mode): \(answer)") }
      }
      try pair.server.cli("HDEL", record, "paused")
      _ = try await pair.take(pair.second)
    }
  }

  private static let lock = "coordination:lock:worker:sweeper:wraps-expired"
  private static let record = "coordination:schedule:{\(lock)}"

  /// The answer to a take of `replica`, which remembers a pause.
  @EventLoop
  private static func ask(_ replica: Coordinator, knowing pause: Pause? = nil) async throws -> (TakeAnswer, Pause?) {
    let answer = try await replica.take(token: Token.random(.system), mode: .force, knowing: pause).answer
    if case .paused(_, let seen) = answer { return (answer, seen) }
    return (answer, nil)
  }

  @Test(arguments: ["", "0", "false", "False"])
  func thesePausesAreNone(text: String) async throws {
    try await withPair { pair in
      try pair.server.cli("HSET", Self.record, "paused", text)
      _ = try await pair.take(pair.first)
    }
  }

  @Test func aReplicaRestoresAPauseThatItKnewAfterALossOfData() async throws {
    try await withPair { pair in
      try pair.server.cli("HSET", Self.record, "epoch", "1", "paused", "ticket 17")
      let (_, known) = try await Self.ask(pair.first)
      #expect(known?.text == "ticket 17")
      try pair.server.cli("FLUSHALL")
      // A replica that has just booted creates the record.
      guard case (.settling, nil) = try await Self.ask(pair.second) else {
        return #expect(Bool(false), "the record is not new")
      }
      let (_, again) = try await Self.ask(pair.first, knowing: known)
      #expect(again?.text == "ticket 17" && again?.origin != known?.origin)
      #expect(try await Self.ask(pair.second).1 == again, "the other replica sees it, too")
      #expect(try pair.server.cli("HGET", Self.record, "paused") == "ticket 17")
    }
  }

  /// The limit is in bytes and can cut a character.
  @Test func aPauseWithALongReasonOfOtherLettersIsShownAndSurvivesALossOfData() async throws {
    try await withPair { pair in
      let reason = "x" + String(repeating: "ü", count: CoordinationScripts.pauseLimit)
      try pair.server.cli("HSET", Self.record, "epoch", "1", "paused", reason)
      let known = try #require(try await Self.ask(pair.first).1)
      #expect(known.text.hasPrefix("xüüü") && known.text.hasSuffix("ü\u{FFFD}"))
      try pair.server.cli("FLUSHALL")
      #expect(try await Self.ask(pair.first, knowing: known).1?.text.hasPrefix("xüüü") == true)
    }
    let values = SweeperRecord.fields.map { $0 == "paused" ? RedisValue.string([0x61, 0xff]) : .null }
    let record = SweeperRecord(sweeper: "s", .array([.string(Array("paused".utf8)), .integer(9), .array(values)]))
    #expect(record.pause == "a\u{FFFD}")
  }

  @Test func aResumeIsNotUndoneByAReplicaThatRemembersThePause() async throws {
    try await withPair { pair in
      try pair.server.cli("HSET", Self.record, "epoch", "1", "paused", "1")
      let known = try await Self.ask(pair.first).1
      try pair.server.cli("HDEL", Self.record, "paused")
      guard case (.taken, _) = try await Self.ask(pair.first, knowing: known) else {
        return #expect(Bool(false), "still paused")
      }
      // The pause was lost, restored and lifted before this replica asked again.
      try pair.server.cli("FLUSHALL")
      #expect(try await Self.ask(pair.second, knowing: known).1?.text == "1")
      try pair.server.cli("HDEL", Self.record, "paused")
      #expect(try await Self.ask(pair.first, knowing: known).1 == nil)
    }
  }

  @Test func aRecordKeepsItsOriginAndANewOneHasAnother() async throws {
    try await withPair { pair in
      let first = try await pair.take(pair.first)
      #expect(first.origin != "")
      _ = try await pair.first.complete(EndedRun(first, .success()))
      let second = try await pair.take(pair.second)
      #expect(second.origin == first.origin)
      try pair.server.cli("FLUSHALL")
      _ = try await pair.second.complete(EndedRun(second, .success()))
      let third = try await pair.take(pair.first)
      #expect(third.origin != first.origin)
      // As an earlier version writes it.
      try pair.server.cli("HDEL", Self.record, "origin")
      _ = try await pair.first.complete(EndedRun(third, .success()))
      #expect(try await pair.take(pair.second).origin != "")
    }
  }

  @Test func aTakeThatIsSentTwiceIsGrantedOnce() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      for mode in [TakeMode.due, .start, .force] {
        let answer = try await pair.first.take(token: grant.token, mode: mode).answer
        guard case .taken(let again) = answer else {
          Issue.record("not taken: \(answer)")
          continue
        }
        var run = grant
        (run.isForced, run.takenAt) = (mode == .force, again.takenAt)
        #expect(again == run)
      }
      _ = try await pair.first.complete(EndedRun(grant, .failed))
      let late = try await pair.first.take(token: grant.token, mode: .force).answer
      #expect(late == .late, "its run is over")
      #expect(try pair.server.cli("EXISTS", Self.lock) == "0")
    }
  }

  @Test func aLockOfTheExistingWorkerDoesNotCompleteTheSlot() async throws {
    try await withPair { pair in
      _ = try await pair.first.take(token: "t", mode: .due)
      try pair.server.cli("SET", Self.lock, "of-the-other-kind", "PX", "60000")
      try await eventually("the record is old enough") {
        if case .held = try await pair.first.take(token: "t", mode: .due).answer { true } else { false }
      }
      // The lock does not say whether its run failed.
      try pair.server.cli("DEL", Self.lock)
      _ = try await pair.take(pair.first, .due)
    }
  }

  @Test func aLockWithoutExpiryIsReportedAndLeftAlone() async throws {
    try await withPair { pair in
      _ = try await pair.first.take(token: "t", mode: .due)
      try pair.server.cli("SET", Self.lock, "for-ever")
      try await eventually("the record is old enough") {
        if case .stuck = try await pair.first.take(token: "t", mode: .due).answer { true } else { false }
      }
      #expect(try pair.server.cli("GET", Self.lock) == "for-ever")
    }
  }

  /// docs/on-call.md lists the rights.
  @Test func theDocumentedRightsSuffice() async throws {
    let server = try PrivateRedis()
    var rights = ["ACL", "SETUSER", "worker", "on", ">deck", "-@all", "+evalsha", "+eval"]
    for command in [
      "time", "get", "exists", "pttl", "set", "pexpire", "del", "hmget", "hset", "hdel", "lpush", "ltrim",
    ] {
      rights.append("+\(command)")
    }
    for kind in ["lock:worker:sweeper:", "schedule:", "history:"] { rights.append("~rights:\(kind)*") }
    try server.cli(rights)
    try await onLoop {
      let url = server.url.replacingOccurrences(of: "//", with: "//worker:deck@")
      let client = RedisClient(
        try RedisConfiguration(url: url), healthCheck: CoordinationScripts.healthCheck(namespace: "rights"),
        clock: .system)
      let coordinator = Coordinator(
        redis: client, redisClock: RedisClock(), clock: .system, namespace: "rights", sweeper: "wraps-expired",
        interval: .seconds(60), leaseDuration: Self.lease, replica: "replica")
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await client.run() }
        try await client.checkHealth(by: LoopClock.system.now.advanced(by: .seconds(5)))
        let grant = try await coordinator.takeInAnyCase()
        let isRenewed = try await coordinator.renew(
          token: grant.token, by: LoopClock.system.now.advanced(by: .seconds(2)))
        #expect(isRenewed)
        _ = try await coordinator.complete(EndedRun(grant, .failed))
        _ = try await coordinator.complete(EndedRun(try await coordinator.takeInAnyCase(), .success()))
        group.cancelAll()
      }
    }
    #expect(try server.cli("KEYS", "*health*") == "", "the health check leaves nothing")
  }

  /// As after a failed run while the clock was a day ahead.
  @Test func aRetrySetBeforeTheClockSteppedBackIsDueAtOnce() async throws {
    try await withPair { pair in
      _ = try await pair.first.complete(EndedRun(try await pair.take(pair.first), .failed))
      let tomorrow = "\(Int64((Date().timeIntervalSince1970 + 86_400) * 1_000))"
      try pair.server.cli("HSET", Self.record, "started", tomorrow, "next_try", tomorrow)
      _ = try await pair.take(pair.second, .due)
    }
  }

  @Test func aRecordThatIsNewerThanTheClockHoldsReplicasBackForOneLease() async throws {
    try await withPair { pair in
      let tomorrow = "\(Int64((Date().timeIntervalSince1970 + 86_400) * 1_000))"
      try pair.server.cli("HSET", Self.record, "epoch", tomorrow, "origin", "o", "not_before", tomorrow)
      let asked = LoopClock.system.now
      let grant = try await pair.take(pair.first, .due)
      #expect(asked.duration(to: grant.takenAt) >= Self.lease - .milliseconds(5))
    }
  }

  /// A record can contain anything, because other clients can write to Redis.
  @Test func aCorruptRecordEndsNoReplica() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      _ = try await pair.first.complete(EndedRun(grant, .failed))
      for (field, value) in [("failures", "-7"), ("next_try", "-1e300"), ("slot", "nan"), ("not_before", "-inf")] {
        try pair.server.cli("HSET", Self.record, field, value)
      }
      let next = try await pair.take(pair.second)
      #expect(next.failures == 0)
      _ = try await pair.second.complete(EndedRun(next, .failed))
      for value in ["inf", "1e300"] {
        try pair.server.cli("HSET", Self.record, "failures", value)
        await #expect(throws: Coordinator.UnexpectedAnswer.self) {
          try await pair.first.release(token: try await pair.take(pair.first).token)
        }
        try pair.server.cli("DEL", "coordination:lock:worker:sweeper:wraps-expired")
      }
    }
  }

  /// What is due follows from the interval of the replica that asks.
  @Test func replicasWithDifferentIntervalsDoNotSilenceEachOther() async throws {
    try await withPair(intervals: (.seconds(3_600), .milliseconds(500))) { pair in
      var runs = 0
      for _ in 0..<3 {
        let grant = try await pair.take(pair.second, .due)
        _ = try await pair.second.complete(EndedRun(grant, .success()))
        runs += 1
      }
      #expect(runs == 3)
      guard case .idle = try await pair.first.take(token: "t", mode: .due).answer else {
        Issue.record("its hour was run by the other one")
        return
      }
    }
  }
}
