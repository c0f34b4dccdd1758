// The Redis client against peers that do not keep to the protocol: nothing that they send ends the process, is taken
// for another command's answer, or holds memory beyond a bound.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct RedisHostilePeerTests {
  /// A client of a peer that greets properly, and then does what `play` says.
  private func withClient(
    of play: @escaping @Sendable (ScriptedPeer.Connection) -> Void,
    _ body: @escaping @EventLoop (RedisClient) async throws -> Void
  ) async throws {
    let peer = try ScriptedPeer { connection in
      connection.expect("PING")
      connection.send("+PONG\r\n")
      play(connection)
    }
    try await onLoop { try await withRedis("redis://127.0.0.1:\(peer.port)") { try await body($0) } }
  }

  /// Waits for a command, answers with `words`, and keeps silent.
  private func answering(_ words: String) -> @Sendable (ScriptedPeer.Connection) -> Void {
    { connection in
      connection.expect("GET")
      connection.send(words)
      connection.hang()
    }
  }

  @Test(arguments: [
    "+OK\r\n", ":1\r\n", "$3\r\nabc\r\n", "*1\r\n:1\r\n", "$-1\r\n", "-ERR what\r\n", "\0\0\0", "hello",
  ])
  func whoSpeaksUnaskedIsLeft(words: String) async throws {
    let unasked: @Sendable (ScriptedPeer.Connection) -> Void = { connection in
      connection.send(words)
      connection.hang()
    }
    try await withClient(of: unasked) { redis in
      try await eventually("it left twice") { redis.statistics.attempts >= 3 }
    }
  }

  @Test(arguments: ["+OK\r\n+OK\r\n", "+OK\r\n+OK\r\n+OK\r\n", "+OK\r\n+", "+OK\r\n\0\0"])
  func moreAnswersThanCommandsMakeAllOfThemDoubtful(words: String) async throws {
    try await withClient(of: answering(words)) { redis in
      await #expect(throws: RedisError.unknownOutcome("unsolicited reply")) {
        try await redis.command(["GET", "k"], by: shortly())
      }
      try await eventually("it left") { redis.statistics.reconnects >= 1 }
    }
  }

  @Test func halfAnAnswerIsNoneAndTheConnectionIsReplaced() async throws {
    try await withClient(of: answering("$10\r\n01234")) { redis in
      await #expect(throws: RedisError.unknownOutcome("timed out")) {
        try await redis.command(["GET", "k"], by: shortly(.milliseconds(200)))
      }
      try await eventually("it left") { redis.statistics.reconnects >= 1 }
    }
  }

  /// A string of half a gigabyte, an array of two thousand million numbers, a line, and a length that never end.
  @Test(arguments: [("$536870912\r\n", "xxxx"), ("*2147483647\r\n", ":1\r\n"), ("+", "xxxx"), ("$", "1111")])
  func anAnswerWithoutEndIsGivenUpAtABound(beginning: String, rest: String) async throws {
    let flood: @Sendable (ScriptedPeer.Connection) -> Void = { connection in
      connection.expect("GET")
      connection.send(beginning)
      let bytes = Array(String(repeating: rest, count: 16_384).utf8)
      while connection.send(bytes) {}
    }
    try await withClient(of: flood) { redis in
      let before = residentBytes()
      let start = LoopClock.system.now
      await #expect(throws: RedisError.self) { try await redis.command(["GET", "k"], by: shortly(.seconds(20))) }
      #expect(start.duration(to: LoopClock.system.now) < .seconds(5), "not the deadline: the bound")
      // Other suites run meanwhile. Without a bound it is hundreds of megabytes a second.
      #expect((residentBytes() - before) / 1_024 < 100_000)
    }
  }

  /// Else a few bytes for an array in an array, and in that one, would take a hundred times the memory.
  @Test func arraysWithinAnArrayCountTowardsItsBound() async throws {
    for (count, isTaken) in [(20_000, true), (30_000, false)] {
      let pairs = "*\(count)\r\n" + String(repeating: "*2\r\n:1\r\n:1\r\n", count: count)
      try await withClient(of: answering(pairs)) { redis in
        do {
          let answer = try await redis.command(["GET", "k"], by: shortly(.seconds(10)))
          #expect(isTaken && answer.array?.count == count)
        } catch {
          #expect(!isTaken, "\(error)")
        }
      }
    }
  }

  /// What frees and copies an answer calls itself for each level.
  @Test(arguments: [(7, true), (8, true), (9, false), (64, false), (65_000, false)])
  func arraysInArraysHaveABoundOfTheirDepth(depth: Int, isTaken: Bool) async throws {
    let nested = String(repeating: "*1\r\n", count: depth) + ":1\r\n"
    try await withClient(of: answering(nested)) { redis in
      do {
        var answer = try await redis.command(["GET", "k"], by: shortly(.seconds(10)))
        var levels = 0
        while let inner = answer.array?.first { (answer, levels) = (inner, levels + 1) }
        #expect(isTaken && levels == depth)
      } catch {
        // hiredis before 1.0 takes one level less.
        #expect(!isTaken || depth == 8, "\(error)")
        #expect(error as? RedisError == .unknownOutcome("an answer beyond the limit"))
      }
    }
  }

  /// Each string of it is within its own bound.
  @Test func theStringsOfAnAnswerHaveOneBoundTogether() async throws {
    let string = "$1048576\r\n" + String(repeating: "x", count: 1_048_576) + "\r\n"
    let flood: @Sendable (ScriptedPeer.Connection) -> Void = { connection in
      connection.expect("GET")
      connection.send("*65536\r\n")
      while connection.send(string) {}
    }
    try await withClient(of: flood) { redis in
      let before = residentBytes()
      await #expect(throws: RedisError.unknownOutcome("an answer beyond the limit")) {
        try await redis.command(["GET", "k"], by: shortly(.seconds(20)))
      }
      #expect((residentBytes() - before) / 1_024 < 100_000)
    }
  }

  @Test func anAnswerAsLargeAsTheBoundIsTakenAgainAndAgain() async throws {
    let half = String(repeating: "x", count: 15_000_000)
    let echo: @Sendable (ScriptedPeer.Connection) -> Void = { connection in
      while connection.expect("GET") {
        connection.send("*2\r\n$15000000\r\n\(half)\r\n$15000000\r\n\(half)\r\n")
      }
    }
    try await withClient(of: echo) { redis in
      for _ in 0..<3 {
        let answer = try await redis.command(["GET", "k"], by: shortly(.seconds(20)))
        #expect(answer.array?.map { $0.bytes?.count } == [15_000_000, 15_000_000])
      }
    }
  }

  @Test(arguments: ["+HELLO\r\n", ":1\r\n", "$4\r\nPONG\r\n", "*0\r\n", "$-1\r\n"])
  func aHelloThatIsNotAnsweredByPongIsNotRedis(words: String) async throws {
    let peer = try ScriptedPeer { connection in
      connection.expect("PING")
      connection.send(words)
      connection.hang()
    }
    try await onLoop {
      try await withRedis("redis://127.0.0.1:\(peer.port)") { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(redis.outage == "not the Redis protocol" && redis.statistics.connectsTotal == 0)
      }
    }
  }

  @Test func whoClosesRightAfterTheHelloIsTriedAgainWithPauses() async throws {
    let closing: @Sendable (ScriptedPeer.Connection) -> Void = { _ in }
    try await withClient(of: closing) { redis in
      let start = LoopClock.system.now
      try await eventually("it came back") { redis.statistics.attempts >= 6 }
      // 10, 20, 40, 80, 160 ms, less the jitter.
      #expect(start.duration(to: LoopClock.system.now) > .milliseconds(200))
      await #expect(throws: RedisError.self) { try await redis.command(["GET", "k"], by: shortly(.milliseconds(300))) }
    }
  }
}
