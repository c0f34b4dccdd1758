// The Redis client against a real server: commands, scripts, the hello, cancellation, order.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@EventLoop func shortly(_ limit: Duration = .seconds(5)) -> MonotonicInstant {
  LoopClock.system.now.advanced(by: limit)
}

/// Runs `body` beside a client's `run`, which is cancelled at the end.
@EventLoop func withRedis(
  _ url: String, dialTimeout: Duration = .seconds(5),
  backoff: Backoff = Backoff(initial: .milliseconds(10), cap: .milliseconds(500), jitter: 0.2),
  healthCheck: RedisHealthCheck? = nil, clock: LoopClock = .system,
  _ body: @escaping @EventLoop (RedisClient) async throws -> Void
) async throws {
  var configuration = try RedisConfiguration(url: url)
  configuration.dialTimeout = dialTimeout
  let client = RedisClient(configuration, healthCheck: healthCheck, clock: clock, backoff: backoff)
  try await withThrowingTaskGroup(of: Void.self) { group in
    group.addTask { await client.run() }
    defer { group.cancelAll() }
    try await body(client)
  }
}

@Suite struct RedisClientTests {
  @Test func valuesOfEveryKindComeBack() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        #expect(try await redis.command(["SET", "kinds", "v"], by: shortly()).isOK)
        #expect(try await redis.command(["GET", "kinds"], by: shortly()).text == "v")
        #expect(try await redis.command(["GET", "kinds:none"], by: shortly()).isNull)
        #expect(try await redis.command(["STRLEN", "kinds"], by: shortly()) == .integer(1))
        let nested = try await redis.command(["EVAL", "return {1, {'a', false}, {}}", "0"], by: shortly())
        #expect(nested == .array([.integer(1), .array([.string([97]), .null]), .array([])]))
        let refusal = RedisError.server(code: "WRONGTYPE", message: "")
        await #expect { try await redis.command(["LPUSH", "kinds", "x"], by: shortly()) } throws: { error in
          (error as? RedisError)?.publicReason == refusal.publicReason
        }
      }
    }
  }

  @Test func anyBytesAndEmptyWordsAreKept() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        let all = (0...255).map { UInt8($0) } + [0, 13, 10, 0]
        try await redis.command(bytes: [Array("SET".utf8), Array("bytes".utf8), all], by: shortly())
        #expect(try await redis.command(["GET", "bytes"], by: shortly()).bytes == all)
        try await redis.command(["SET", "", ""], by: shortly())
        #expect(try await redis.command(["GET", ""], by: shortly()).bytes == [])
        #expect(try await redis.command(["ECHO", "grüße 🔐"], by: shortly()).text == "grüße 🔐")
      }
    }
  }

  @Test func aBigValueGoesThereAndBack() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        // Far more than the socket's buffers hold: written and read in many pieces.
        var value = Array("0123456789abcdefghijklmnopqrstuvw".utf8)
        while value.count < 16_000_000 { value += value }
        try await redis.command(bytes: [Array("SET".utf8), Array("big".utf8), value], by: shortly(.seconds(20)))
        #expect(try await redis.command(["GET", "big"], by: shortly(.seconds(20))).bytes == value)
        try await redis.command(["DEL", "big"], by: shortly())
      }
    }
  }

  @Test func tenThousandCommandsAtOnceAreExecutedAndAnsweredInTheirOrder() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        try await redis.command(["DEL", "order"], by: shortly())
        let answers = try await withThrowingTaskGroup(of: (Int64, Int64?).self) { group in
          for number in 1...10_000 {
            group.addTask { (Int64(number), try await redis.command(["INCR", "order"], by: shortly()).integer) }
          }
          var answers: [Int64: Int64?] = [:]
          for try await (number, answer) in group { answers[number] = answer }
          return answers
        }
        #expect(answers.count == 10_000)
        #expect(answers.allSatisfy { $0.key == $0.value })
      }
    }
  }

  @Test func aScriptRunsByItsDigestAlsoAfterTheServerForgotIt() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url) { redis in
        let script = RedisScript("return {KEYS[1], ARGV[1], ARGV[2]}")
        let expected = RedisValue.array(["k", "a", "b"].map { .string(Array($0.utf8)) })
        for _ in 0..<2 {
          #expect(try await redis.evaluate(script, keys: ["k"], arguments: ["a", "b"], by: shortly()) == expected)
        }
        try server.cli("SCRIPT", "FLUSH")
        #expect(try await redis.evaluate(script, keys: ["k"], arguments: ["a", "b"], by: shortly()) == expected)
        // Once through EVAL, the server knows it by its digest.
        let calls = try await redis.command(["INFO", "commandstats"], by: shortly()).text ?? ""
        #expect(calls.contains("cmdstat_evalsha:calls=3") && calls.contains("cmdstat_eval:calls=2"))
      }
    }
  }

  @Test func thePasswordTheUserTheDatabaseAndTheNameAreUsed() async throws {
    let server = try PrivateRedis(password: "ses@me", user: ("bridge", "deck"))
    try await onLoop {
      for user in [":ses%40me", "bridge:deck"] {
        try await withRedis("redis://\(user)@localhost:\(server.port)/5?client_name=w1") { redis in
          try await redis.waitUntilReady(by: shortly())
          let info = try await redis.command(["CLIENT", "INFO"], by: shortly()).text ?? ""
          #expect(info.contains(" db=5 ") && info.contains(" name=w1 "))
          #expect(info.contains(user.hasPrefix(":") ? " user=default " : " user=bridge "))
        }
      }
    }
  }

  @Test(arguments: [
    ("", "SELECT refused: a password is required (NOAUTH)"),
    (":wrong@", "AUTH refused: user or password refused (WRONGPASS)"),
    ("nobody:deck@", "AUTH refused: user or password refused (WRONGPASS)"),
  ])
  func aRefusedLoginIsSaidWithoutNames(login: String, reason: String) async throws {
    let server = try PrivateRedis(password: "sesame", user: ("bridge", "deck"))
    try await onLoop {
      try await withRedis("redis://\(login)127.0.0.1:\(server.port)/1") { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        await #expect(throws: RedisError.notSent(reason)) {
          try await redis.waitUntilReady(by: shortly(.milliseconds(50)))
        }
      }
    }
  }

  /// A wrong password, a missing one, and one that a server without passwords refuses.
  @Test(arguments: [("sesame", ":wrong@"), ("sesame", ""), (nil, ":sesame@")])
  func aLoginIsRenewedHoweverItIsRefused(password: String?, login: String) async throws {
    let server = try PrivateRedis(password: password)
    try await onLoop {
      try await withRedis("redis://\(login)127.0.0.1:\(server.port)") { redis in
        redis.onLoginRefused = { [unowned redis] in
          let login = password.map { ":\($0)@" } ?? ""
          do {
            redis.logIn(as: try RedisConfiguration(url: "redis://\(login)127.0.0.1:\(server.port)"))
          } catch {
            Issue.record(error)
          }
        }
        try await redis.waitUntilReady(by: shortly())
        #expect(redis.statistics.attempts <= 3)
      }
    }
  }

  @Test func aDatabaseThatDoesNotExistIsSaid() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url + "/999") { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(redis.outage == "SELECT refused: the server has no database of that number (ERR)")
      }
    }
  }

  @Test func aCommandWaitsForTheConnectionUntilItsDeadline() async throws {
    let port = try freePort()
    try await onLoop {
      try await withRedis("redis://127.0.0.1:\(port)") { redis in
        let start = LoopClock.system.now
        await #expect(throws: RedisError.notSent("connection refused")) {
          try await redis.command(["PING"], by: shortly(.milliseconds(300)))
        }
        #expect(start.duration(to: LoopClock.system.now) >= .milliseconds(300))
        #expect(redis.statistics.timeouts == 1)
      }
    }
  }

  @Test func aCommandBeforeTheConnectionIsSentWhenItIsThere() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        #expect(!redis.isReady)
        let answer = try await redis.command(["PING"], by: shortly())
        #expect(answer == .status("PONG"))
        #expect(redis.isReady)
      }
    }
  }

  @Test(arguments: ["MULTI", "select", "Subscribe", "MONITOR", "client reply", "WATCH", "script debug", "HELLO"])
  func whatWouldChangeTheSharedConnectionIsNotSent(name: String) async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        let words = name.split(separator: " ").map(String.init) + ["1"]
        let reason = "\(name.uppercased()) is not possible on a shared connection"
        await #expect(throws: RedisError.notSent(reason)) { try await redis.command(words, by: shortly()) }
        let answer = try await redis.command(["PING"], by: shortly())
        #expect(answer == .status("PONG"))
      }
    }
  }

  @Test func anEmptyCommandIsNotSent() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        await #expect(throws: RedisError.notSent("an empty command")) { try await redis.command([], by: shortly()) }
      }
    }
  }

  @Test func commandsThatWaitAreBoundInBytes() async throws {
    let port = try freePort()
    try await onLoop {
      try await withRedis("redis://127.0.0.1:\(port)") { redis in
        let large = [UInt8](repeating: 120, count: RedisClient.pendingByteLimit / 2)
        async let waiting = redis.command(bytes: [Array("ECHO".utf8), large], by: shortly(.milliseconds(500)))
        try await eventually("the first one waits") { redis.statistics.commands == 1 }
        await #expect(throws: RedisError.notSent("too many bytes wait")) {
          try await redis.command(bytes: [Array("ECHO".utf8), large], by: shortly())
        }
        do {
          _ = try await waiting
          Issue.record("answered")
        } catch {
          #expect(error as? RedisError == .notSent("connection refused"))
        }
        #expect(redis.pendingBytes == 0)
      }
    }
  }

  @Test func aUnixSocketIsAsGoodAsAPort() async throws {
    let path = NSTemporaryDirectory() + "reactor-\(getpid()).sock"
    defer { unlink(path) }
    let listening = try PrivateRedis(user: ("bridge", "deck"), settings: ["unixsocket \(path)"])
    try await onLoop {
      for url in ["unix://\(path)", "unix://bridge:deck@\(path)?db=3"] {
        try await withRedis(url) { redis in
          let info = try await redis.command(["CLIENT", "INFO"], by: shortly()).text ?? ""
          #expect(info.contains(url.contains("db") ? " db=3 " : " db=0 ") && info.contains(path))
        }
      }
    }
    listening.stop()
  }

  @Test func aDeadlineThatHasPassedSendsNothing() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        try await redis.waitUntilReady(by: shortly())
        await #expect(throws: RedisError.notSent("its deadline had passed")) {
          try await redis.command(["PING"], by: shortly(.zero))
        }
      }
    }
  }

  @Test func aCancelledCommandEndsAtOnceAndTheNextAnswerIsTheNextOnes() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        try await redis.waitUntilReady(by: shortly())
        let start = LoopClock.system.now
        await withTaskGroup { group in
          group.addTask {
            await #expect(throws: RedisError.unknownOutcome("cancelled")) {
              try await redis.command(["BLPOP", "cancelled:none", "1"], by: shortly(.seconds(30)))
            }
          }
          try? await eventually("sent") { redis.statistics.commands == 1 }
          group.cancelAll()
        }
        #expect(start.duration(to: LoopClock.system.now) < .milliseconds(900), "BLPOP itself takes a second")
        #expect(try await redis.command(["ECHO", "mine"], by: shortly()).text == "mine")
        #expect(redis.statistics.connectsTotal == 1)
      }
    }
  }

  @Test func aCommandOfACancelledTaskIsNotSent() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url) { redis in
        try await redis.waitUntilReady(by: shortly())
        await withTaskGroup(of: Void.self) { group in
          group.cancelAll()
          group.addTask {
            await #expect(throws: RedisError.notSent("cancelled")) {
              try await redis.command(["SET", "k", "v"], by: shortly())
            }
          }
        }
        #expect(try await redis.command(["EXISTS", "k"], by: shortly()) == .integer(0))
      }
    }
  }

  @Test func aCancelledRunGivesTheAnswersThatAreAwaitedAndRefusesTheRest() async throws {
    try await onLoop {
      let client = RedisClient(try RedisConfiguration(url: PrivateRedis.shared.url), clock: .system)
      let answer = await withTaskGroup(of: Void.self) { group in
        group.addTask { await client.run() }
        try? await client.waitUntilReady(by: shortly())
        async let slow = client.command(["BLPOP", "drain:none", "0.2"], by: shortly())
        try? await eventually("sent") { client.statistics.commands == 1 }
        group.cancelAll()
        await group.waitForAll()
        return try? await slow
      }
      #expect(answer?.isNull == true)
      #expect(client.state == .stopped)
      await #expect(throws: RedisError.notSent("stopped")) { try await client.command(["PING"], by: shortly()) }
      await #expect(throws: RedisError.notSent("stopped")) { try await client.waitUntilReady(by: shortly()) }
    }
  }

  @Test func anAnsweredCommandsDeadlineIsForgotten() async throws {
    try await onLoop {
      try await withRedis(PrivateRedis.shared.url) { redis in
        try await redis.waitUntilReady(by: shortly())
        try await redis.command(["PING"], by: shortly(.milliseconds(500)))
        // The timer of an answered command is gone with it.
        try await LoopClock.system.sleep(for: .milliseconds(600))
        #expect(redis.isReady && redis.statistics.timeouts == 0)
      }
    }
  }
}
