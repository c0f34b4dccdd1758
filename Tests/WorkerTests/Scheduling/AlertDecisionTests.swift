// When the fleet notifies of failures in a row, as a real Redis decides it. Moving the record's times back stands for
// advancing its clock.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct AlertDecisionTests {
  /// A sweeper of a fleet, in which any replica may run.
  @EventLoop
  private final class Fleet {
    let redis: RedisClient
    let replicas: [Coordinator]
    let record: String
    private var turn = 0

    init(_ redis: RedisClient) {
      self.redis = redis
      let namespace = "decisions-\(Token.random(.system))"
      // A lease so short that a lock that is left behind does not matter.
      replicas = (0..<3).map { index in
        Coordinator(
          redis: redis, redisClock: RedisClock(), clock: .system, namespace: namespace, sweeper: "wraps-expired",
          interval: .seconds(60), leaseDuration: .milliseconds(1), replica: "replica-\(index)")
      }
      record = "\(namespace):schedule:{\(namespace):lock:worker:sweeper:wraps-expired}"
    }

    /// Takes the lock for the next replica in turn, due or not.
    func take() async throws -> (by: Coordinator, run: Run) {
      let replica = replicas[turn % replicas.count]
      turn += 1
      return (replica, try await replica.takeInAnyCase())
    }

    /// One run, by the next replica in turn.
    func run(_ result: RunResult) async throws -> AlertDecision {
      let taken = try await take()
      return try await taken.by.complete(EndedRun(taken.run, result)).decision
    }

    func run(
      _ result: RunResult, expecting kind: AlertDecision.Kind,
      sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
      let decision = try await run(result)
      #expect(decision.kind == kind, sourceLocation: sourceLocation)
    }

    /// Moves the record's times back.
    func turn(minutes: Int) async throws {
      let script = RedisScript(
        """
        for _, field in ipairs({'failing_since', 'alerted_at'}) do
          local at = redis.call('HGET', KEYS[1], field)
          if at then redis.call('HSET', KEYS[1], field, string.format('%.0f', at - ARGV[1])) end
        end
        """)
      try await redis.evaluate(
        script, keys: [record], arguments: ["\(minutes * 60_000)"],
        by: LoopClock.system.now.advanced(by: .seconds(5)))
    }
  }

  private func withFleet(_ body: @escaping @EventLoop @Sendable (Fleet) async throws -> Void) async throws {
    let url = PrivateRedis.shared.url
    try await onLoop {
      let redis = RedisClient(try RedisConfiguration(url: url), clock: .system)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await redis.run() }
        try await body(Fleet(redis))
        group.cancelAll()
      }
    }
  }

  @Test func theFleetNotifiesOfTheFirstFailureAndNotOfThoseRightAfterIt() async throws {
    try await withFleet { fleet in
      try await fleet.run(.success(), expecting: .none)
      try await fleet.run(.failed, expecting: .first)
      for _ in 0..<5 { try await fleet.run(.failed, expecting: .none) }
    }
  }

  @Test func theFleetNotifiesOnceOfTheRecoveryWithItsLengthAndFailures() async throws {
    try await withFleet { fleet in
      for _ in 0..<3 { _ = try await fleet.run(.failed) }
      try await fleet.turn(minutes: 7)
      let decision = try await fleet.run(.success())
      #expect(decision.kind == .recovered && decision.failures == 3)
      #expect((420..<430).contains(decision.failingFor.seconds), "\(decision)")
      try await fleet.run(.success(), expecting: .none)
      try await fleet.run(.failed, expecting: .first)
    }
  }

  @Test func halfAnHourOfFailuresSendsThreeAlertsAndADayOneAnHour() async throws {
    try await withFleet { fleet in
      var reported: [Int] = []
      for minute in 0..<(24 * 60) {
        if try await fleet.run(.failed).kind != .none { reported.append(minute) }
        try await fleet.turn(minutes: 1)
      }
      #expect(reported.filter { $0 <= 30 } == [0, 5, 20])
      #expect(reported.prefix(6) == [0, 5, 20, 50, 110, 170])
      #expect(reported.count == 27)
    }
  }

  @Test func aRepeatedCompletionHasTheSameAnswer() async throws {
    try await withFleet { fleet in
      for result in [RunResult.failed, .failed, .success(), .success(), .drained()] {
        let taken = try await fleet.take()
        let ended = EndedRun(taken.run, result)
        let first = try await taken.by.complete(ended).decision
        let again = try await taken.by.complete(ended).decision
        #expect(first == again, "\(result)")
      }
    }
  }

  @Test func aSupersededRunAndADrainedRunDoNotNotify() async throws {
    try await withFleet { fleet in
      let frozen = try await fleet.take()
      try await fleet.run(.success(), expecting: .none)
      let decision = try await frozen.by.complete(EndedRun(frozen.run, .failed)).decision
      #expect(decision.kind == .none)
      try await fleet.run(.drained(), expecting: .none)
      // Neither counts: the next failure is the first.
      try await fleet.run(.failed, expecting: .first)
      try await fleet.run(.drained(), expecting: .none)
      try await fleet.run(.success(), expecting: .recovered)
    }
  }

  @Test func anOutageNeitherCountsAsAFailureNorEndsOne() async throws {
    try await withFleet { fleet in
      for _ in 0..<3 { try await fleet.run(.outage, expecting: .none) }
      try await fleet.run(.success(), expecting: .none)
      try await fleet.run(.failed, expecting: .first)
      try await fleet.turn(minutes: 10)
      try await fleet.run(.outage, expecting: .none)
      try await fleet.run(.failed, expecting: .reminder)
      try await fleet.run(.success(), expecting: .recovered)
    }
  }

  /// Other sessions locked all due rows: the slot is done, and the failure continues.
  @Test func aRunThatCouldDoNothingIsNotARecovery() async throws {
    try await withFleet { fleet in
      try await fleet.run(.failed, expecting: .first)
      try await fleet.run(.locked, expecting: .none)
      try await fleet.turn(minutes: 10)
      try await fleet.run(.failed, expecting: .reminder)
      try await fleet.run(.success(), expecting: .recovered)
    }
  }

  @Test func aClockStepBackDelaysRemindersByOneIntervalAtMost() async throws {
    try await withFleet { fleet in
      _ = try await fleet.run(.failed)
      try await fleet.turn(minutes: -600)
      try await fleet.run(.failed, expecting: .none)
      try await fleet.turn(minutes: 5)
      try await fleet.run(.failed, expecting: .reminder)
    }
  }
}
