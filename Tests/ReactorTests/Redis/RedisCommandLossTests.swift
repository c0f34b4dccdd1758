// The Redis client and a server that answers small questions, and ends the connection under what its owner asks.

import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct RedisCommandLossTests {
  @EventLoop private final class Changes {
    var list: [ServerAvailability] = []
    nonisolated init() {}

    func follow(_ redis: RedisClient) {
      redis.onStateChange = { self.list.append($0) }
    }
  }

  /// Answers PING, and closes the connection on a GET until it is told otherwise.
  private final class Peer: Sendable {
    private let server: ScriptedPeer
    private let heals: Signal

    init() throws {
      let heals = Signal()
      self.heals = heals
      server = try ScriptedPeer { connection in
        while let bytes = connection.receive() {
          let text = String(decoding: bytes, as: UTF8.self)
          if text.contains("GET") && !heals.isGiven { return }
          for line in text.split(separator: "\r\n") {
            if line == "PING" { connection.send("+PONG\r\n") }
            if line == "GET" || line == "SET" { connection.send("+OK\r\n") }
          }
        }
      }
    }

    var url: String { "redis://127.0.0.1:\(server.port)" }
    func heal() { heals.give() }
  }

  private final class Signal: Sendable {
    private let value = Atomic(false)
    var isGiven: Bool { value.load(ordering: .relaxed) }
    func give() { value.store(true, ordering: .relaxed) }
  }

  private static let closed = ServerAvailability.unavailable(reason: RedisConnectionFailure.closed(.endOfStream).reason)
  private static let closes = ServerAvailability.unavailable(reason: RedisTrial.closesUnderCommands)

  @EventLoop private static func lose(_ redis: RedisClient, _ command: [String] = ["GET", "k"]) async {
    do {
      _ = try await redis.command(command, isRepeatable: true, by: shortly())
      Issue.record("answered")
    } catch {
      if case .unknownOutcome = error { return }
      Issue.record("\(error)")
    }
  }

  @Test func aServerThatEndsTheConnectionUnderACommandIsUnavailableUntilItAnswersIt() async throws {
    let peer = try Peer()
    try await onLoop {
      try await withRedis(peer.url) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.waitUntilReady(by: shortly())
        for _ in 0..<3 {
          await Self.lose(redis)
          // Commands go out all the same, and what answers a small question is not well.
          try await redis.waitUntilReady(by: shortly())
          let answer = try await redis.command(["SET", "k", "v"], by: shortly())
          #expect(answer.isOK)
          await #expect(throws: RedisError.notSent(RedisTrial.closesUnderCommands)) {
            try await redis.checkHealth(by: shortly())
          }
        }
        #expect(changes.list == [.ready, Self.closed, Self.closes])
        peer.heal()
        let answer = try await redis.command(["GET", "k"], by: shortly())
        #expect(answer.isOK)
        try await redis.checkHealth(by: shortly())
        #expect(changes.list == [.ready, Self.closed, Self.closes, .ready])
      }
    }
  }

  @Test func aServerThatIsNotAskedAgainIsReadyOnceItsConnectionHasLastedForLong() async throws {
    let peer = try Peer()
    try await onLoop {
      let clock = LoopClock.manual()
      try await withRedis(peer.url, clock: clock) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.waitUntilReady(by: .never)
        async let lost = redis.command(["GET", "k"], isRepeatable: true, by: .never)
        try await eventually("it waits") { if case .waiting = redis.state { true } else { false } }
        clock.advance(by: .seconds(1))
        do {
          _ = try await lost
          Issue.record("answered")
        } catch {
          #expect(error as? RedisError == .unknownOutcome(RedisTrial.closesUnderCommands))
        }
        try await eventually("it waits") { if case .waiting = redis.state { true } else { false } }
        clock.advance(by: .seconds(1))
        try await eventually("it is on trial") { redis.isReady }
        let end = clock.now.advanced(by: RedisTrial.quietLimit)
        #expect(clock.nextTimer == end && redis.outage == RedisTrial.closesUnderCommands)
        clock.advance(by: RedisTrial.quietLimit)
        try await eventually("it is ready") { redis.outage == nil }
        #expect(changes.list == [.ready, Self.closed, Self.closes, .ready])
      }
    }
  }

  @Test func aRestartUnderACommandIsOverWhenTheCommandIsAnswered() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.waitUntilReady(by: shortly())
        async let blocked = redis.command(["BLPOP", "none", "1"], isRepeatable: true, by: shortly(.seconds(30)))
        try await eventually("it blocks") { try server.cli("CLIENT", "LIST").contains("cmd=blpop") }
        try server.restart()
        let answer = try await blocked
        #expect(answer.isNull)
        try await redis.checkHealth(by: shortly())
        #expect(changes.list.first == .ready && changes.list.last == .ready)
        #expect(changes.list.count { $0 == .ready } == 2 && !changes.list.contains(Self.closes))
      }
    }
  }

  @Test func anOperatorWhoKillsConnectionsInALoopCostsReadinessNoLongerThanThat() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url) { redis in
        try await redis.waitUntilReady(by: shortly())
        var lost = 0
        let end = LoopClock.system.now.advanced(by: .seconds(1))
        while LoopClock.system.now < end {
          async let answer = redis.command(["BLPOP", "none", "0.05"], by: shortly())
          try server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
          do {
            _ = try await answer
          } catch {
            lost += 1
          }
        }
        #expect(lost > 2)
        try await redis.command(["BLPOP", "none", "0.05"], isRepeatable: true, by: shortly())
        #expect(redis.outage == nil)
      }
    }
  }

  /// Redis keeps an array elsewhere than a plain number, and counts it against the limit.
  @Test func aLimitOnTheServersOutputIsNamedAndItsEndIsNoticed() async throws {
    let server = try PrivateRedis()
    try server.cli("SET", "large", String(repeating: "x", count: 100_000))
    let check = RedisHealthCheck(script: RedisScript("return 1"), keys: ["health"])
    try await onLoop {
      try await withRedis(server.url, healthCheck: check) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.waitUntilReady(by: shortly())
        try server.cli("CONFIG", "SET", "client-output-buffer-limit", "normal 32768 0 0")
        for _ in 0..<3 { await Self.lose(redis, ["GET", "large"]) }
        try await redis.waitUntilReady(by: shortly())
        #expect(redis.outage == RedisTrial.closesUnderCommands)
        #expect(changes.list == [.ready, Self.closed, Self.closes])
        try server.cli("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
        try await redis.command(["GET", "large"], by: shortly())
        #expect(redis.outage == nil && changes.list.last == .ready)
      }
    }
  }

  @Test func aHealthCheckThatIsCutOffSaysWhereToLook() async throws {
    let server = try PrivateRedis()
    let check = RedisHealthCheck(script: RedisScript("return {1}"), keys: ["health"])
    try server.cli("CONFIG", "SET", "client-output-buffer-limit", "normal 1024 512 1")
    try await onLoop {
      try await withRedis(server.url, healthCheck: check) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await eventually("it tried again and again") { redis.statistics.attempts >= 5 }
        #expect(changes.list == [Self.closed, Self.closes])
        try server.cli("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
        try await redis.waitUntilReady(by: shortly())
        #expect(changes.list == [Self.closed, Self.closes, .ready])
      }
    }
  }

  /// Packets over some size vanish on the way: what is small passes.
  @Test func commandsThatTimeOutAgainAreNotMadeUpForByAHealthCheckThatPasses() async throws {
    let peer = try ScriptedPeer { connection in
      while let bytes = connection.receive() {
        if String(decoding: bytes, as: UTF8.self).contains("PING") { connection.send("+PONG\r\n") }
      }
    }
    try await onLoop {
      try await withRedis("redis://127.0.0.1:\(peer.port)") { redis in
        for _ in 0..<3 {
          await #expect(throws: RedisError.unknownOutcome("timed out")) {
            try await redis.command(["GET", "k"], by: shortly(.milliseconds(200)))
          }
          try await redis.waitUntilReady(by: shortly())
        }
        #expect(redis.outage == RedisTrial.timesOutUnderCommands)
      }
    }
  }
}
