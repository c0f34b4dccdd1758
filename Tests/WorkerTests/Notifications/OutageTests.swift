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
        case .rest, .ask: break
        }
      }
    }
  }

  // MARK: Who

  /// What a replica told.
  @EventLoop
  private final class Heard: EventReceiver {
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
  private static func notice(
    _ redis: RedisClient, _ namespace: String, _ sink: any EventReceiver, _ clock: LoopClock
  ) -> OutageNotice {
    OutageNotice(
      component: "postgres", server: "PostgreSQL", patience: .seconds(60),
      ledger: OutageClaim(redis: redis, clock: .system, namespace: namespace, component: "postgres"),
      sink: sink, clock: clock, random: .system)
  }

  /// Lets the end that is noted lie an hour back: Redis' clock is not turned with the test's.
  @EventLoop
  private static func age(_ redis: RedisClient, _ namespace: String) async throws {
    let time = try await redisTime(redis) - 3_600_000
    _ = try await redis.command(["SET", "\(namespace):outage:postgres", "ended \(time)"], by: .never)
  }

  @Test func ofAFleetOneReplicaTellsTheOutageAndOneItsEnd() async throws {
    try await withRedis { redis, namespace in
      let clock = LoopClock.manual()
      let heard = (0..<5).map { _ in Heard() }
      let notices = heard.map { Self.notice(redis, namespace, $0, clock) }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for notice in notices { group.addTask { await notice.run() } }
        for round in 1...3 {
          for notice in notices { notice.changed(to: "connection refused") }
          try await eventually("all wait") { clock.sleeping == notices.count }
          clock.advance(by: .seconds(61))
          try await eventually("it is told") { heard.flatMap(\.titles).count == 2 * round - 1 }
          try await eventually("all wait to renew the note") { clock.sleeping == notices.count }
          for notice in notices { notice.changed(to: nil) }
          try await eventually("its end is told") { heard.flatMap(\.titles).count == 2 * round }
          try await eventually("all rest") { clock.sleeping == notices.count }
          let told = heard.flatMap(\.titles)
          #expect(told.count { $0 == "PostgreSQL is away" } == round, "\(told)")
          #expect(told.count { $0 == "PostgreSQL is back" } == round, "\(told)")
          try await Self.age(redis, namespace)
        }
        group.cancelAll()
      }
    }
  }

  @Test func whenTheReplicaThatToldIsGoneANewOneTellsTheEndAndTheNextOutageIsToldToo() async throws {
    try await withRedis { redis, namespace in
      let clock = LoopClock.manual()
      let heard = Heard()
      try await withThrowingTaskGroup(of: Void.self) { group in
        let first = Self.notice(redis, namespace, heard, clock)
        group.addTask { await first.run() }
        first.changed(to: "connection refused")
        try await eventually("it waits") { clock.sleeping == 1 }
        clock.advance(by: .seconds(61))
        try await eventually("it is told") { heard.titles == ["PostgreSQL is away"] }
        group.cancelAll()
      }
      // A note that nobody renews: as if the first replica had ended longer ago.
      let note = try await redis.command(["GET", "\(namespace):outage:postgres"], by: .never).text ?? ""
      let since = note.prefix { $0 != " " }
      _ = try await redis.command(["SET", "\(namespace):outage:postgres", "\(since) \(since)"], by: .never)
      try await withThrowingTaskGroup(of: Void.self) { group in
        let second = Self.notice(redis, namespace, heard, clock)
        group.addTask { await second.run() }
        second.changed(to: nil)
        try await eventually("the end is told") { heard.titles == ["PostgreSQL is away", "PostgreSQL is back"] }
        try await Self.age(redis, namespace)
        second.changed(to: "connection refused")
        try await eventually("it waits") { clock.sleeping == 1 }
        clock.advance(by: .seconds(61))
        try await eventually("the next outage is told") { heard.titles.count == 3 }
        #expect(heard.titles.last == "PostgreSQL is away")
        group.cancelAll()
      }
    }
  }

  @Test func withoutRedisAReplicaTellsTheBeginningAtOnceAndTheEndAfterAMinute() {
    var watch = OutageWatch(patience: .seconds(60), sharesNotes: true)
    func answerNothing(at seconds: Double) -> [OutageWatch.Step] {
      var told: [OutageWatch.Step] = []
      while true {
        switch watch.next(at: Self.at(seconds)) {
        case .ask: watch.answered(nil, at: Self.at(seconds))
        case .wait, .rest: return told
        case let step: told.append(step)
        }
      }
    }
    watch.changed(to: "timed out", at: Self.at(0))
    #expect(answerNothing(at: 0) == [])
    #expect(answerNothing(at: 60) == [.tellAway(reason: "timed out", lasting: .seconds(60))])
    watch.changed(to: nil, at: Self.at(100))
    #expect(answerNothing(at: 100) == [])
    #expect(answerNothing(at: 160) == [.tellBack(after: .seconds(100))])
    #expect(answerNothing(at: 190) == [])
  }

  @Test func anOutageThatEndsWhileItIsNotedIsToldWithItsEnd() {
    var watch = OutageWatch(patience: .seconds(60), sharesNotes: true)
    watch.changed(to: "timed out", at: Self.at(0))
    #expect(watch.next(at: Self.at(60)) == .ask(.keep(awayFor: .seconds(60))))
    watch.changed(to: nil, at: Self.at(61))
    watch.answered(.absent, at: Self.at(62))
    #expect(watch.next(at: Self.at(62)) == .tellAway(reason: "timed out", lasting: .seconds(61)))
    #expect(watch.next(at: Self.at(62)) == .ask(.close(awayFor: .seconds(62))))
    watch.answered(.closed(after: .seconds(61)), at: Self.at(62))
    #expect(watch.next(at: Self.at(62)) == .tellBack(after: .seconds(61)))
  }

  // MARK: The note

  @Test func aRedisWithoutAnAnswerIsNoReply() async throws {
    try await onLoop {
      // Never connected: the question ends at its deadline, so the clock is the system's here.
      let redis = RedisClient(try RedisConfiguration(url: "redis://127.0.0.1:1"), clock: .system)
      let ledger = OutageClaim(redis: redis, clock: .system, namespace: "n", component: "postgres")
      #expect(await ledger.ask(.keep(awayFor: .seconds(60)), abandonedAfter: .seconds(90)) == nil)
    }
  }

  @Test func theScriptDoesWhatTheModelDoes() async throws {
    try await withRedis { redis, namespace in
      let key = "\(namespace):outage:postgres"
      let ledger = OutageClaim(redis: redis, clock: .system, namespace: namespace, component: "postgres")
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
            model.setKept(since: time - 3 * hour, due: due)
            _ = try await redis.command(["SET", key, "\(time - 3 * hour) \(due)"], by: .never)
          default:
            let question = [
              OutageWatch.Question.see(awayFor: .seconds(3_600)), .keep(awayFor: .seconds(3_600)),
              .close(awayFor: .seconds(3_600)), .closeAbandoned,
            ].randomElement(using: &random)!
            let abandonedAfter = [Duration.zero, .seconds(90)].randomElement(using: &random)!
            let expected = model.reply(to: question, abandonedAfter: abandonedAfter, at: time)
            let reply = await ledger.ask(question, abandonedAfter: abandonedAfter)
            if !Self.agree(reply, expected) {
              Issue.record("seed \(seed), step \(step): \(question): \(reply as Any), not \(expected)")
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

  /// The same, but for the time that passed between the two.
  private static func agree(_ left: OutageWatch.Reply?, _ right: OutageWatch.Reply) -> Bool {
    guard case .closed(let one) = left, case .closed(let other) = right else { return left == right }
    return abs(one.milliseconds - other.milliseconds) < 5_000
  }
}
