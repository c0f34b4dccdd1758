// Connections to Redis that end while idle: no outage, and no command fails because of it.

import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct RedisIdleTests {
  @EventLoop private final class Changes {
    var list: [ServerAvailability] = []
    var idleEnds: [String] = []
    nonisolated init() {}

    func follow(_ redis: RedisClient) {
      redis.onStateChange = { self.list.append($0) }
      redis.onIdleEnd = { self.idleEnds.append($0) }
    }
  }

  @Test func aServerThatClosesIdleConnectionsIsNoOutageAndIsNotConnectedToForEver() async throws {
    let server = try PrivateRedis(settings: ["timeout 1"])
    try await onLoop {
      try await withRedis(server.url) { redis in
        let changes = Changes()
        changes.follow(redis)
        for round in 1...2 {
          let answer1 = try await redis.command(["PING"], by: shortly())
          #expect(answer1 == .status("PONG"))
          try await eventually("it rests", within: .seconds(20)) { redis.state == .resting }
          // The one that was used, and the one that looked whether the server is still there.
          #expect(redis.statistics.connectsTotal == 2 * round)
          #expect(changes.idleEnds.count == 2 * round)
        }
        #expect(redis.outage == nil)
        try await redis.waitUntilReady(by: shortly())
        #expect(changes.list == [.ready])
      }
    }
  }

  @Test func aServerThatIsGoneWhileTheClientRestsIsAnOutageOnceItIsNeeded() async throws {
    let server = try PrivateRedis(settings: ["timeout 1"])
    try await onLoop {
      try await withRedis(server.url) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.command(["PING"], by: shortly())
        try await eventually("it rests", within: .seconds(20)) { redis.state == .resting }
        server.stop()
        await #expect(throws: RedisError.notSent("connection refused")) {
          try await redis.command(["PING"], by: shortly(.milliseconds(300)))
        }
        #expect(changes.list == [.ready, .unavailable(reason: "connection refused")])
      }
    }
  }

  @Test func aServerThatIsGoneWhileTheConnectionIsIdleIsNoticedAtOnce() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url) { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.command(["PING"], by: shortly())
        try await LoopClock.system.sleep(for: RedisClient.idleAfter + .milliseconds(100))
        server.stop()
        try await eventually("it is noticed") { redis.outage == "connection refused" }
        #expect(changes.list == [.ready, .unavailable(reason: "connection refused")])
      }
    }
  }

  @Test func unsolicitedDataOnAnIdleConnectionIsReported() async throws {
    let peer = try ScriptedPeer { connection in
      connection.expect("PING")
      connection.send("+PONG\r\n")
      connection.expect("GET")
      connection.send("$1\r\n1\r\n")
      usleep(1_200_000)
      connection.send("+OK\r\n")
      connection.hang()
    }
    try await onLoop {
      try await withRedis("redis://127.0.0.1:\(peer.port)") { redis in
        let changes = Changes()
        changes.follow(redis)
        try await redis.command(["GET", "k"], by: shortly())
        try await eventually("it is told") {
          changes.list.contains(.unavailable(reason: "unsolicited reply"))
        }
      }
    }
  }

  /// A NAT that has forgotten the connection: what is sent vanishes, and nobody says so.
  @Test func anIdleConnectionThatWasForgottenCostsNoCommand() async throws {
    let peer = try Self.forgetful()
    try await onLoop {
      let clock = LoopClock.manual()
      try await withRedis("redis://127.0.0.1:\(peer.port)", clock: clock) { redis in
        let changes = Changes()
        changes.follow(redis)
        let answer2 = try await redis.command(
          ["GET", "k"], isRepeatable: true, by: clock.now.advanced(by: .seconds(5))
        ).text
        #expect(answer2 == "1")
        clock.advance(by: RedisClient.staleAfter)
        async let again = redis.command(["GET", "k"], isRepeatable: true, by: clock.now.advanced(by: .seconds(5)))
        let look = clock.now.advanced(by: RedisClient.staleAnswerLimit)
        try await eventually("an answer is looked out for") { clock.nextTimer == look }
        clock.advance(by: RedisClient.staleAnswerLimit)
        let answer3 = try await again.text
        #expect(answer3 == "2")
        #expect(changes.list == [.ready] && changes.idleEnds == ["timed out while idle"])
        #expect(redis.statistics.timeouts == 0)
      }
    }
  }

  @Test func aCommandThatMustNotBeRepeatedIsNotAndEndsAtItsDeadline() async throws {
    let peer = try Self.forgetful()
    try await onLoop {
      let clock = LoopClock.manual()
      try await withRedis("redis://127.0.0.1:\(peer.port)", clock: clock) { redis in
        try await redis.command(["GET", "k"], by: clock.now.advanced(by: .seconds(5)))
        clock.advance(by: RedisClient.staleAfter)
        let deadline = clock.now.advanced(by: .seconds(1))
        async let lost = redis.command(["GET", "k"], by: deadline)
        try await eventually("the answer is waited for") { clock.nextTimer == deadline }
        clock.advance(by: .seconds(1))
        do {
          let answer = try await lost
          Issue.record("answered: \(answer)")
        } catch {
          #expect(error as? RedisError == .unknownOutcome("timed out"))
        }
      }
    }
  }

  @Test func aRepeatableCommandSurvivesTheLossOfItsConnection() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url) { redis in
        let identifier = try await redis.command(["CLIENT", "ID"], by: shortly()).integer ?? 0
        async let blocked = redis.command(["BLPOP", "none", "1"], isRepeatable: true, by: shortly(.seconds(30)))
        try await eventually("it blocks") { try server.cli("CLIENT", "LIST").contains("cmd=blpop") }
        try server.cli("CLIENT", "KILL", "ID", "\(identifier)")
        let value = try await blocked
        #expect(value.isNull)
        #expect(redis.statistics.reconnects == 1)
      }
    }
  }

  /// A peer that answers one GET on each of its connections with the connection's number, and then nothing more.
  private static func forgetful() throws -> ScriptedPeer {
    let count = Counter()
    return try ScriptedPeer { connection in
      let number = count.next()
      connection.expect("PING")
      connection.send("+PONG\r\n")
      connection.expect("GET")
      connection.send("$1\r\n\(number)\r\n")
      connection.hang()
    }
  }
}

private final class Counter: Sendable {
  private let value = Atomic(0)

  func next() -> Int { value.add(1, ordering: .relaxed).newValue }
}
