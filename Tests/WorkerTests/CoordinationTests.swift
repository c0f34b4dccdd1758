// The agreement between replicas on a real Redis: lost data, lost scripts, a server turned read-only, late messages.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct CoordinationTests {
  static let lease = Duration.milliseconds(600)

  /// Two replicas of one sweeper, each with a connection of its own.
  @EventLoop
  private struct Pair {
    let first: Coordinator
    let second: Coordinator
    let server: PrivateRedis

    /// Takes the lock for `replica`, due or not, as soon as it is to be had.
    func take(_ replica: Coordinator, _ mode: TakeMode = .force) async throws -> RunGrant {
      var taken: RunGrant?
      try await eventually("the lock is to be had") {
        let token = Token.random()
        let (answer, _, sentAt) = try await replica.take(token: token, mode: mode)
        if case .taken(let ticket) = answer { taken = RunGrant(ticket: ticket, token: token, takenAt: sentAt) }
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
      let clients = try (0..<2).map { _ in RedisClient(try RedisConfiguration(url: server.url)) }
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

  @Test func afterALossOfDataNobodyTakesTheLockForALease() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      try pair.server.cli("FLUSHALL")
      let lost = LoopClock.system.now
      let next = try await pair.take(pair.second)
      #expect(lost.duration(to: next.takenAt) >= Self.lease - .milliseconds(5))
      #expect(next.ticket.epoch > grant.ticket.epoch)
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
      _ = try await pair.first.complete(grant, RunReport(outcome: .success))
      let answer = try await pair.second.take(token: "next", mode: .due).answer
      #expect(answer == .idle(slot: grant.ticket.slot, due: grant.ticket.nextSlot))
    }
  }

  @Test func aServerThatForgotItsScriptsIsToldThemAgain() async throws {
    try await withPair { pair in
      let grant = try await pair.take(pair.first)
      try pair.server.cli("SCRIPT", "FLUSH")
      #expect(try await pair.first.renew(token: grant.token, by: LoopClock.system.now.advanced(by: .seconds(2))))
      try pair.server.cli("SCRIPT", "FLUSH")
      _ = try await pair.first.complete(grant, RunReport(outcome: .success))
      #expect(try pair.server.cli("EXISTS", "coordination:lock:worker:sweeper:wraps-expired") == "0")
    }
  }

  @Test func aServerThatBecameAReplicaTakesNothingUntilItIsAMasterAgain() async throws {
    try await withPair { pair in
      _ = try await pair.first.complete(try await pair.take(pair.first), RunReport(outcome: .failure))
      try pair.server.cli("REPLICAOF", "127.0.0.1", "1")
      await #expect(throws: RedisError.self) { try await pair.first.take(token: "t", mode: .force) }
      try pair.server.cli("REPLICAOF", "NO", "ONE")
      _ = try await pair.take(pair.first)
    }
  }

  @Test func aTakeThatArrivesAfterItWasGivenUpIsRefused() async throws {
    try await withPair { pair in
      _ = try await pair.first.complete(try await pair.take(pair.first), RunReport(outcome: .drained))
      try pair.server.cli("CLIENT", "PAUSE", "700", "ALL")
      let limit = LoopClock.system.now.advanced(by: .milliseconds(200))
      await #expect(throws: RedisError.self) { try await pair.first.take(token: "late", mode: .force, by: limit) }
      // It is executed when the pause is over, before anything that is asked now.
      _ = try await pair.take(pair.second)
      #expect(try pair.server.cli("GET", "coordination:lock:worker:sweeper:wraps-expired") != "late")
    }
  }

  @Test func aTokenRenewsAndReleasesItsOwnLockOnly() async throws {
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

  @Test func aPausedSweeperIsNobodysUntilItIsNoLongerPaused() async throws {
    try await withPair { pair in
      let record = "coordination:schedule:{coordination:lock:worker:sweeper:wraps-expired}"
      _ = try await pair.first.complete(try await pair.take(pair.first), RunReport(outcome: .success))
      try pair.server.cli("HSET", record, "paused", "1")
      for mode in [TakeMode.due, .start, .force] {
        let answer = try await pair.second.take(token: "t", mode: mode).answer
        guard case .paused = answer else { return #expect(Bool(false), "\(mode): \(answer)") }
      }
      try pair.server.cli("HDEL", record, "paused")
      _ = try await pair.take(pair.second)
    }
  }

  /// Whoever can write to Redis can write anything into a record: no replica may end of it.
  @Test func aRecordThatSomebodySpoiltEndsNoReplica() async throws {
    try await withPair { pair in
      let record = "coordination:schedule:{coordination:lock:worker:sweeper:wraps-expired}"
      let grant = try await pair.take(pair.first)
      _ = try await pair.first.complete(grant, RunReport(outcome: .failure))
      for (field, value) in [("failures", "-7"), ("next_try", "-1e300"), ("slot", "nan"), ("not_before", "-inf")] {
        try pair.server.cli("HSET", record, field, value)
      }
      let next = try await pair.take(pair.second)
      #expect(next.ticket.failures == 0)
      _ = try await pair.second.complete(next, RunReport(outcome: .failure))
      for value in ["inf", "1e300"] {
        try pair.server.cli("HSET", record, "failures", value)
        await #expect(throws: Coordinator.UnexpectedAnswer.self) {
          try await pair.first.release(token: try await pair.take(pair.first).token)
        }
        try pair.server.cli("DEL", "coordination:lock:worker:sweeper:wraps-expired")
      }
    }
  }

  /// What is due follows from the asker's interval.
  @Test func replicasWithDifferentIntervalsDoNotSilenceEachOther() async throws {
    try await withPair(intervals: (.seconds(3_600), .milliseconds(500))) { pair in
      var runs = 0
      for _ in 0..<3 {
        let grant = try await pair.take(pair.second, .due)
        _ = try await pair.second.complete(grant, RunReport(outcome: .success))
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
