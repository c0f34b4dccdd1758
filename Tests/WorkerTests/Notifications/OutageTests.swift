// Outages: when one is reported, in thousands of random sequences too, and by which replica, on a real Redis.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct OutageTests {
  static func at(_ seconds: Double) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(seconds * 1e9))
  }

  // MARK: When an outage is reported

  @Test func aShortOutageIsNotReported() {
    var watch = OutageWatch(reportAfter: .seconds(60))
    #expect(watch.next(at: Self.at(0)) == .idle)
    watch.changed(to: "timed out", at: Self.at(10))
    #expect(watch.next(at: Self.at(10)) == .wait(until: Self.at(70)))
    watch.changed(to: nil, at: Self.at(69))
    #expect(watch.next(at: Self.at(100)) == .idle)
  }

  @Test func aLongOutageIsReportedOnceWithItsLatestReasonAndSoIsItsEnd() {
    var watch = OutageWatch(reportAfter: .seconds(60))
    watch.changed(to: "timed out", at: Self.at(10))
    watch.changed(to: "connection refused", at: Self.at(40))
    #expect(watch.next(at: Self.at(70)) == .reportOutage(reason: "connection refused", lasting: .seconds(60)))
    watch.changed(to: "timed out", at: Self.at(80))
    #expect(watch.next(at: Self.at(500)) == .idle)
    watch.changed(to: nil, at: Self.at(510))
    #expect(watch.next(at: Self.at(511)) == .reportRecovery(after: .seconds(500)))
    #expect(watch.next(at: Self.at(512)) == .idle)
  }

  /// Beginnings and ends alternate in any sequence of changes, and short outages are not reported.
  @Test func noSequenceOfChangesReportsAnEndWithoutItsBeginning() {
    for seed in UInt64(0)..<3_000 {
      var random = SeededRandom(seed: seed)
      var watch = OutageWatch(reportAfter: .seconds(60))
      var now = 0.0
      var downSince: Double?
      var isReported = false
      for _ in 0..<200 {
        now += Double.random(in: 0...50, using: &random)
        switch Int.random(in: 0..<3, using: &random) {
        case 0:
          watch.changed(to: "down", at: Self.at(now))
          if downSince == nil { downSince = now }
        case 1:
          watch.changed(to: nil, at: Self.at(now))
          downSince = nil
        default: break
        }
        switch watch.next(at: Self.at(now)) {
        case .reportOutage:
          if isReported { Issue.record("seed \(seed): reported twice") }
          if now - (downSince ?? now) < 59.999 { Issue.record("seed \(seed): reported too early") }
          isReported = true
        case .reportRecovery:
          if !isReported { Issue.record("seed \(seed): an end without a beginning") }
          isReported = false
        case .wait(let until):
          if until <= Self.at(now) { Issue.record("seed \(seed): waits until the past") }
        case .idle, .send: break
        }
      }
    }
  }

  // MARK: By which replica

  /// Records a replica's events.
  @EventLoop
  private final class Recorder: EventReceiver {
    private(set) var titles: [String] = []
    func accept(_ event: Event) { titles.append(event.title) }
  }

  private func withRedis(_ body: @escaping @EventLoop @Sendable (RedisClient, String) async throws -> Void) async throws
  {
    let url = PrivateRedis.shared.url
    try await onLoop {
      let redis = RedisClient(try RedisConfiguration(url: url), clock: .system)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await redis.run() }
        try await body(redis, "outages-\(Token.random(.system))")
        group.cancelAll()
      }
    }
  }

  @EventLoop
  private static func reporter(
    _ redis: RedisClient, _ namespace: String, _ sink: any EventReceiver, _ clock: LoopClock
  ) -> OutageReporter {
    OutageReporter(
      component: "postgres", server: "PostgreSQL", reportAfter: .seconds(60),
      claim: OutageClaim(redis: redis, clock: .system, namespace: namespace, component: "postgres"),
      sink: sink, clock: clock, random: .system)
  }

  /// Moves the recorded end an hour back, because Redis's clock does not advance with the test's.
  @EventLoop
  private static func age(_ redis: RedisClient, _ namespace: String) async throws {
    let time = try await redisTime(redis) - 3_600_000
    _ = try await redis.command(["SET", "\(namespace):outage:postgres", "ended \(time)"], by: .never)
  }

  @Test func oneReplicaOfAFleetReportsTheOutageAndOneItsEnd() async throws {
    try await withRedis { redis, namespace in
      let clock = LoopClock.manual()
      let recorder = (0..<5).map { _ in Recorder() }
      let reporters = recorder.map { Self.reporter(redis, namespace, $0, clock) }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for reporter in reporters { group.addTask { await reporter.run() } }
        for round in 1...3 {
          for reporter in reporters { reporter.changed(to: "connection refused") }
          try await eventually("all wait") { clock.sleeping == reporters.count }
          clock.advance(by: .seconds(61))
          try await eventually("it is reported") { recorder.flatMap(\.titles).count == 2 * round - 1 }
          try await eventually("all wait to renew the claim") { clock.sleeping == reporters.count }
          for reporter in reporters { reporter.changed(to: nil) }
          try await eventually("its end is reported") { recorder.flatMap(\.titles).count == 2 * round }
          try await eventually("all are idle") { clock.sleeping == reporters.count }
          let reported = recorder.flatMap(\.titles)
          #expect(reported.count { $0 == "PostgreSQL is unavailable" } == round, "\(reported)")
          #expect(reported.count { $0 == "PostgreSQL is available again" } == round, "\(reported)")
          try await Self.age(redis, namespace)
        }
        group.cancelAll()
      }
    }
  }

  @Test func aNewReplicaReportsTheEndOfAnOutageThatADeadReplicaReported() async throws {
    try await withRedis { redis, namespace in
      let clock = LoopClock.manual()
      let recorder = Recorder()
      try await withThrowingTaskGroup(of: Void.self) { group in
        let first = Self.reporter(redis, namespace, recorder, clock)
        group.addTask { await first.run() }
        first.changed(to: "connection refused")
        try await eventually("it waits") { clock.sleeping == 1 }
        clock.advance(by: .seconds(61))
        try await eventually("it is reported") { recorder.titles == ["PostgreSQL is unavailable"] }
        group.cancelAll()
      }
      // An abandoned claim, as if the first replica had ended longer ago.
      let claim = try await redis.command(["GET", "\(namespace):outage:postgres"], by: .never).text ?? ""
      let since = claim.prefix { $0 != " " }
      _ = try await redis.command(["SET", "\(namespace):outage:postgres", "\(since) \(since)"], by: .never)
      try await withThrowingTaskGroup(of: Void.self) { group in
        let second = Self.reporter(redis, namespace, recorder, clock)
        group.addTask { await second.run() }
        second.changed(to: nil)
        try await eventually("the end is reported") {
          recorder.titles == ["PostgreSQL is unavailable", "PostgreSQL is available again"]
        }
        try await Self.age(redis, namespace)
        second.changed(to: "connection refused")
        try await eventually("it waits") { clock.sleeping == 1 }
        clock.advance(by: .seconds(61))
        try await eventually("the next outage is reported") { recorder.titles.count == 3 }
        #expect(recorder.titles.last == "PostgreSQL is unavailable")
        group.cancelAll()
      }
    }
  }

  @Test func withoutRedisAReplicaReportsTheBeginningAtOnceAndTheEndAfterAMinute() {
    var watch = OutageWatch(reportAfter: .seconds(60), sharesClaim: true)
    func leaveUnanswered(at seconds: Double) -> [OutageWatch.Action] {
      var reported: [OutageWatch.Action] = []
      while true {
        switch watch.next(at: Self.at(seconds)) {
        case .send: watch.answered(nil, at: Self.at(seconds))
        case .wait, .idle: return reported
        case let step: reported.append(step)
        }
      }
    }
    watch.changed(to: "timed out", at: Self.at(0))
    #expect(leaveUnanswered(at: 0) == [])
    #expect(leaveUnanswered(at: 60) == [.reportOutage(reason: "timed out", lasting: .seconds(60))])
    watch.changed(to: nil, at: Self.at(100))
    #expect(leaveUnanswered(at: 100) == [])
    #expect(leaveUnanswered(at: 160) == [.reportRecovery(after: .seconds(100))])
    #expect(leaveUnanswered(at: 190) == [])
  }

  @Test func anOutageThatEndsWhileItIsClaimedIsReportedWithItsEnd() {
    var watch = OutageWatch(reportAfter: .seconds(60), sharesClaim: true)
    watch.changed(to: "timed out", at: Self.at(0))
    #expect(watch.next(at: Self.at(60)) == .send(.claim(outageFor: .seconds(60))))
    watch.changed(to: nil, at: Self.at(61))
    watch.answered(.absent, at: Self.at(62))
    #expect(watch.next(at: Self.at(62)) == .reportOutage(reason: "timed out", lasting: .seconds(61)))
    #expect(watch.next(at: Self.at(62)) == .send(.close(outageFor: .seconds(62))))
    watch.answered(.closed(after: .seconds(61)), at: Self.at(62))
    #expect(watch.next(at: Self.at(62)) == .reportRecovery(after: .seconds(61)))
  }

  // MARK: The claim

  @Test func withoutAnAnswerFromRedisThereIsNoReply() async throws {
    try await onLoop {
      // Never connected, so the request ends at its deadline on the system's clock.
      let redis = RedisClient(try RedisConfiguration(url: "redis://127.0.0.1:1"), clock: .system)
      let claim = OutageClaim(redis: redis, clock: .system, namespace: "n", component: "postgres")
      #expect(await claim.send(.claim(outageFor: .seconds(60)), abandonedAfter: .seconds(90)) == nil)
    }
  }

  @Test func theScriptBehavesLikeTheModel() async throws {
    try await withRedis { redis, namespace in
      let key = "\(namespace):outage:postgres"
      let claim = OutageClaim(redis: redis, clock: .system, namespace: namespace, component: "postgres")
      let hour: Int64 = 3_600_000
      for seed in UInt64(0)..<60 {
        var random = SeededRandom(seed: seed)
        var model = OutageClaimModel()
        _ = try await redis.command(["DEL", key], by: .never)
        for step in 0..<40 {
          let time = try await Self.redisTime(redis)
          switch Int.random(in: 0..<9, using: &random) {
          case 0:
            model.lose()
            _ = try await redis.command(["DEL", key], by: .never)
          case 1:
            let at = time + [-2 * hour, -hour / 2, 2 * hour].randomElement(using: &random)!
            model.setEnded(at: at)
            _ = try await redis.command(["SET", key, "ended \(at)"], by: .never)
          case 2:
            let due = time + [-hour, hour / 10, 9 * hour].randomElement(using: &random)!
            model.setOpen(since: time - 3 * hour, due: due)
            _ = try await redis.command(["SET", key, "\(time - 3 * hour) \(due)"], by: .never)
          default:
            let request = [
              OutageWatch.Request.check(outageFor: .seconds(3_600)), .claim(outageFor: .seconds(3_600)),
              .close(outageFor: .seconds(3_600)), .closeAbandoned,
            ].randomElement(using: &random)!
            let abandonedAfter = [Duration.zero, .seconds(90)].randomElement(using: &random)!
            let expected = model.reply(to: request, abandonedAfter: abandonedAfter, at: time)
            let reply = await claim.send(request, abandonedAfter: abandonedAfter)
            if !Self.agree(reply, expected) {
              Issue.record("seed \(seed), step \(step): \(request): \(reply as Any), not \(expected)")
            }
          }
        }
      }
    }
  }

  private static func redisTime(_ redis: RedisClient) async throws -> Int64 {
    guard case .array(let parts) = try await redis.command(["TIME"], by: .never) else { return -1 }
    let numbers = try parts.map { try #require($0.text.flatMap { Int64($0) }) }
    return numbers[0] * 1_000 + numbers[1] / 1_000
  }

  /// Whether two replies are equal, except for the time that passed between them.
  private static func agree(_ left: OutageWatch.Reply?, _ right: OutageWatch.Reply) -> Bool {
    guard case .closed(let one) = left, case .closed(let other) = right else { return left == right }
    return abs(one.milliseconds - other.milliseconds) < 5_000
  }
}
