// Outages: when one is told, by itself and in thousands of orders, and who of a fleet tells it, on a real Redis.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct OutageTests {
  static func at(_ seconds: Double) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(seconds * 1e9))
  }

  // MARK: When

  @Test func aShortOutageIsNotTold() {
    var watch = OutageWatch(patience: .seconds(60))
    #expect(watch.next(at: Self.at(0)) == .rest)
    watch.changed(to: "timed out", at: Self.at(10))
    #expect(watch.next(at: Self.at(10)) == .wait(until: Self.at(70)))
    watch.changed(to: nil, at: Self.at(69))
    #expect(watch.next(at: Self.at(100)) == .rest)
  }

  @Test func aLongOneIsToldOnceWithItsLatestReasonAndSoIsItsEnd() {
    var watch = OutageWatch(patience: .seconds(60))
    watch.changed(to: "timed out", at: Self.at(10))
    watch.changed(to: "connection refused", at: Self.at(40))
    #expect(watch.next(at: Self.at(70)) == .tellAway(reason: "connection refused", lasting: .seconds(60)))
    watch.changed(to: "timed out", at: Self.at(80))
    #expect(watch.next(at: Self.at(500)) == .rest)
    watch.changed(to: nil, at: Self.at(510))
    #expect(watch.next(at: Self.at(511)) == .tellBack(after: .seconds(500)))
    #expect(watch.next(at: Self.at(512)) == .rest)
  }

  /// However a server comes and goes: beginnings and ends are told in turn, and none of an outage that was short.
  @Test func noOrderOfChangesTellsAnEndWithoutItsBeginning() {
    for seed in UInt64(0)..<3_000 {
      var random = SeededRandom(seed: seed)
      var watch = OutageWatch(patience: .seconds(60))
      var now = 0.0
      var awaySince: Double?
      var isTold = false
      for _ in 0..<200 {
        now += Double.random(in: 0...50, using: &random)
        switch Int.random(in: 0..<3, using: &random) {
        case 0:
          watch.changed(to: "away", at: Self.at(now))
          if awaySince == nil { awaySince = now }
        case 1:
          watch.changed(to: nil, at: Self.at(now))
          awaySince = nil
        default: break
        }
        switch watch.next(at: Self.at(now)) {
        case .tellAway:
          if isTold { Issue.record("seed \(seed): told twice") }
          if now - (awaySince ?? now) < 59.999 { Issue.record("seed \(seed): told too early") }
          isTold = true
        case .tellBack:
          if !isTold { Issue.record("seed \(seed): an end without a beginning") }
          isTold = false
        case .wait(let until):
          if until <= Self.at(now) { Issue.record("seed \(seed): waits until the past") }
        case .rest: break
        }
      }
    }
  }

  // MARK: Who

  /// What a replica told.
  @EventLoop
  private final class Heard: NotificationSink {
    private(set) var titles: [String] = []
    func accept(_ event: Event) { titles.append(event.title) }
  }

  private func withRedis(_ body: @escaping @EventLoop @Sendable (RedisClient, String) async throws -> Void) async throws
  {
    let url = PrivateRedis.shared.url
    try await onLoop {
      let redis = RedisClient(try RedisConfiguration(url: url))
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await redis.run() }
        try await body(redis, "outages-\(Token.random())")
        group.cancelAll()
      }
    }
  }

  @Test func ofAFleetOneReplicaTellsTheOutageAndOneItsEnd() async throws {
    try await withRedis { redis, namespace in
      let clock = LoopClock.manual()
      let heard = (0..<5).map { _ in Heard() }
      let notices = heard.enumerated().map { index, sink in
        OutageNotice(
          component: "postgres", server: "PostgreSQL", patience: .seconds(60),
          ledger: OutageLedger(
            redis: redis, clock: .system, namespace: namespace, component: "postgres", replica: "replica-\(index)"),
          sink: sink, clock: clock)
      }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for notice in notices { group.addTask { await notice.run() } }
        for round in 1...3 {
          for notice in notices { notice.changed(to: "connection refused") }
          try await eventually("all wait") { clock.sleeping == notices.count }
          clock.advance(by: .seconds(61))
          try await eventually("it is told") { heard.flatMap(\.titles).count == 2 * round - 1 }
          for notice in notices { notice.changed(to: nil) }
          try await eventually("its end is told") { heard.flatMap(\.titles).count == 2 * round }
          try await eventually("all rest") { clock.sleeping == notices.count }
          let told = heard.flatMap(\.titles)
          #expect(told.count { $0 == "PostgreSQL is away" } == round, "\(told)")
          #expect(told.count { $0 == "PostgreSQL is back" } == round, "\(told)")
        }
        group.cancelAll()
      }
    }
  }

  @Test func withoutRedisEachReplicaTellsOnce() async throws {
    try await onLoop {
      // Never connected: every question ends at its deadline, so the clock is the system's here.
      let redis = RedisClient(try RedisConfiguration(url: "redis://127.0.0.1:1"))
      let ledger = OutageLedger(
        redis: redis, clock: .system, namespace: "n", component: "postgres", replica: "r")
      #expect(await ledger.claim() == .alone)
      #expect(await ledger.close(.alone))
    }
  }

  @Test func whoToldTellsTheEndEvenIfRedisForgot() async throws {
    try await withRedis { redis, namespace in
      let ledgers = ["a", "b"].map {
        OutageLedger(redis: redis, clock: .system, namespace: namespace, component: "postgres", replica: $0)
      }
      #expect(await ledgers[0].claim() == .first)
      #expect(await ledgers[1].claim() == .another)
      let deadline = LoopClock.system.now.advanced(by: .seconds(5))
      _ = try await redis.command(["DEL", "\(namespace):outage:postgres"], by: deadline)
      #expect(await ledgers[1].close(.another) == false)
      #expect(await ledgers[0].close(.first))
    }
  }
}
