// What people are told of failures in a row, as Redis decides it for the whole fleet: on a real one, with its clock as
// good as turned by moving the record's times back.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct RunVerdictTests {
  /// A fleet's sweeper: each run may be another replica's.
  @EventLoop
  private final class Fleet {
    let redis: RedisClient
    let replicas: [Coordinator]
    let record: String
    private var turn = 0

    init(_ redis: RedisClient) {
      self.redis = redis
      let namespace = "verdicts-\(Token.random(.system))"
      // So short a lease that a lock left behind is nobody's concern here.
      replicas = (0..<3).map { index in
        Coordinator(
          redis: redis, redisClock: RedisClock(), clock: .system, namespace: namespace, sweeper: "wraps-expired",
          interval: .seconds(60), leaseDuration: .milliseconds(1), replica: "replica-\(index)")
      }
      record = "\(namespace):schedule:{\(namespace):lock:worker:sweeper:wraps-expired}"
    }

    /// Takes the lock for the next replica in turn, due or not.
    func take() async throws -> (by: Coordinator, grant: RunGrant) {
      let replica = replicas[turn % replicas.count]
      turn += 1
      return (replica, try await replica.takeInAnyCase())
    }

    /// One run, by the next replica in turn.
    func run(_ outcome: RunReport.Outcome, isInconclusive: Bool = false) async throws -> RunVerdict {
      let run = try await take()
      return try await run.by.complete(run.grant, RunReport(outcome: outcome, isInconclusive: isInconclusive)).verdict
    }

    func run(
      _ outcome: RunReport.Outcome, isInconclusive: Bool = false, tells kind: RunVerdict.Kind,
      sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
      let verdict = try await run(outcome, isInconclusive: isInconclusive)
      #expect(verdict.kind == kind, sourceLocation: sourceLocation)
    }

    /// As if that much time passed.
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

  @Test func theFirstFailureOfTheFleetIsToldAndThoseRightAfterItAreNot() async throws {
    try await withFleet { fleet in
      try await fleet.run(.success, tells: .none)
      try await fleet.run(.failure, tells: .first)
      for _ in 0..<5 { try await fleet.run(.failure, tells: .none) }
    }
  }

  @Test func theRecoveryIsToldOnceWithItsLengthAndTheFailures() async throws {
    try await withFleet { fleet in
      for _ in 0..<3 { _ = try await fleet.run(.failure) }
      try await fleet.turn(minutes: 7)
      let verdict = try await fleet.run(.success)
      #expect(verdict.kind == .recovered && verdict.failures == 3)
      #expect((420..<430).contains(verdict.failingFor.seconds), "\(verdict)")
      try await fleet.run(.success, tells: .none)
      try await fleet.run(.failure, tells: .first)
    }
  }

  @Test func halfAnHourOfFailuresIsThreeAlertsAndADayIsOneAnHour() async throws {
    try await withFleet { fleet in
      var told: [Int] = []
      for minute in 0..<(24 * 60) {
        if try await fleet.run(.failure).kind != .none { told.append(minute) }
        try await fleet.turn(minutes: 1)
      }
      #expect(told.filter { $0 <= 30 } == [0, 5, 20])
      #expect(told.prefix(6) == [0, 5, 20, 50, 110, 170])
      #expect(told.count == 27)
    }
  }

  @Test func aCompletionSentAgainIsAnsweredTheSame() async throws {
    try await withFleet { fleet in
      for outcome in [RunReport.Outcome.failure, .failure, .success, .success, .drained] {
        let run = try await fleet.take()
        let report = RunReport(outcome: outcome)
        let first = try await run.by.complete(run.grant, report).verdict
        let again = try await run.by.complete(run.grant, report).verdict
        #expect(first == again, "\(outcome)")
      }
    }
  }

  @Test func aRunThatAnotherOneTookOverAndOneThatDrainedTellNobody() async throws {
    try await withFleet { fleet in
      let frozen = try await fleet.take()
      try await fleet.run(.success, tells: .none)
      let verdict = try await frozen.by.complete(frozen.grant, RunReport(outcome: .failure)).verdict
      #expect(verdict.kind == .none)
      try await fleet.run(.drained, tells: .none)
      // Neither left a trace: the next failure is the first.
      try await fleet.run(.failure, tells: .first)
      try await fleet.run(.drained, tells: .none)
      try await fleet.run(.success, tells: .recovered)
    }
  }

  @Test func whatAnOutageTellsIsNoFailureOfTheSweepersAndEndsNone() async throws {
    try await withFleet { fleet in
      for _ in 0..<3 { try await fleet.run(.failure, isInconclusive: true, tells: .none) }
      try await fleet.run(.success, tells: .none)
      try await fleet.run(.failure, tells: .first)
      try await fleet.turn(minutes: 10)
      try await fleet.run(.failure, isInconclusive: true, tells: .none)
      try await fleet.run(.failure, tells: .reminder)
      try await fleet.run(.success, tells: .recovered)
    }
  }

  /// All that was due was locked by others: the slot is done, and the failure goes on.
  @Test func aRunThatCouldDoNothingIsNoRecovery() async throws {
    try await withFleet { fleet in
      try await fleet.run(.failure, tells: .first)
      try await fleet.run(.success, isInconclusive: true, tells: .none)
      try await fleet.turn(minutes: 10)
      try await fleet.run(.failure, tells: .reminder)
      try await fleet.run(.success, tells: .recovered)
    }
  }

  @Test func aClockThatSteppedBackSilencesRemindersForOneGapAtMost() async throws {
    try await withFleet { fleet in
      _ = try await fleet.run(.failure)
      try await fleet.turn(minutes: -600)
      try await fleet.run(.failure, tells: .none)
      try await fleet.turn(minutes: 5)
      try await fleet.run(.failure, tells: .reminder)
    }
  }
}
