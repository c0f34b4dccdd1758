// The Redis client with a health check: among servers that are there and refuse what is asked of them, it is not ready,
// says why, and says it once.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct RedisHealthTests {
  /// A write that leaves nothing.
  private static let check = RedisHealthCheck(
    script: RedisScript("redis.call('SET', KEYS[1], '1', 'PX', '1000') return redis.call('DEL', KEYS[1])"),
    keys: ["health"])

  @EventLoop private final class Changes {
    var list: [ServerAvailability] = []
    nonisolated init() {}
  }

  /// What makes a server refuse writes, what makes it take them again, and what it is said to be meanwhile.
  struct Refusal: Sendable, CustomTestStringConvertible {
    let name: String
    let begin: [[String]]
    let end: [[String]]
    /// In the words of one version or another of the server.
    let reasons: [String]

    init(name: String, begin: [[String]], end: [[String]], reason: String...) {
      self.name = name
      self.begin = begin
      self.end = end
      reasons = reason
    }

    var testDescription: String { name }

    static let all = [
      Refusal(
        name: "a read-only replica", begin: [["REPLICAOF", "127.0.0.1", "1"]], end: [["REPLICAOF", "NO", "ONE"]],
        reason: "the server is a read-only replica (READONLY)"),
      Refusal(
        name: "a full server", begin: [["CONFIG", "SET", "maxmemory", "1"]],
        end: [["CONFIG", "SET", "maxmemory", "0"]],
        reason: "the server is out of memory and refuses writes (OOM)"),
      Refusal(
        name: "too few replicas", begin: [["CONFIG", "SET", "min-replicas-to-write", "1"]],
        end: [["CONFIG", "SET", "min-replicas-to-write", "0"]],
        reason: "the server has too few replicas and refuses writes (NOREPLICAS)"),
      Refusal(
        name: "a user without scripts", begin: [["ACL", "SETUSER", "default", "-@scripting"]],
        end: [["ACL", "SETUSER", "default", "+@scripting"]], reason: "the user may not run evalsha (NOPERM)"),
      Refusal(
        name: "a user without the key", begin: [["ACL", "SETUSER", "default", "resetkeys", "~other"]],
        end: [["ACL", "SETUSER", "default", "~*"]], reason: "the user may not use a key (NOPERM)"),
      Refusal(
        name: "a user who may not write", begin: [["ACL", "SETUSER", "default", "-set"]],
        end: [["ACL", "SETUSER", "default", "+set"]],
        reason: "the user may not run a command (NOPERM)", "the user may not run set (NOPERM)"),
    ]
  }

  private static func apply(_ commands: [[String]], to server: PrivateRedis) throws {
    for command in commands { try server.cli(command) }
  }

  @Test(arguments: Refusal.all)
  func aServerThatBeginsToRefuseIsUnavailableOnceUntilItTakesWrites(refusal: Refusal) async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        let changes = Changes()
        redis.onStateChange = { changes.list.append($0) }
        try await redis.waitUntilReady(by: shortly())
        try Self.apply(refusal.begin, to: server)
        // A command of the owner's meets it.
        await #expect(throws: RedisError.self) {
          try await redis.evaluate(Self.check.script, keys: ["k"], arguments: [], by: shortly())
        }
        let attempts = redis.statistics.attempts
        try await eventually("it tried again and again") { redis.statistics.attempts >= attempts + 4 }
        let reason = try #require(redis.outage)
        #expect(refusal.reasons.contains(reason))
        #expect(redis.statistics.connectsTotal == 1)
        await #expect(throws: RedisError.notSent(reason)) {
          try await redis.checkHealth(by: shortly(.milliseconds(100)))
        }
        try Self.apply(refusal.end, to: server)
        try await redis.checkHealth(by: shortly())
        #expect(changes.list == [.ready, .unavailable(reason: reason), .ready])
      }
    }
  }

  @Test(arguments: Refusal.all)
  func aServerThatRefusesFromTheStartIsNeverReady(refusal: Refusal) async throws {
    let server = try PrivateRedis()
    try Self.apply(refusal.begin, to: server)
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        let changes = Changes()
        redis.onStateChange = { changes.list.append($0) }
        try await eventually("it tried again and again") { redis.statistics.attempts >= 4 }
        let reason = try #require(redis.outage)
        #expect(refusal.reasons.contains(reason) && changes.list == [.unavailable(reason: reason)])
        try Self.apply(refusal.end, to: server)
        try await redis.waitUntilReady(by: shortly())
        #expect(changes.list == [.unavailable(reason: reason), .ready])
      }
    }
  }

  @Test func aServerThatCannotSaveItsDataIsNotReady() async throws {
    let server = try PrivateRedis(settings: ["save 3600 1"])
    // A name that is no file.
    try server.cli("SET", "k", "v")
    try FileManager.default.createDirectory(atPath: server.directory + "/dump.rdb", withIntermediateDirectories: false)
    try server.cli("BGSAVE")
    try await onLoop {
      try await eventually("the save failed") {
        try server.cli("INFO", "persistence").contains("rdb_last_bgsave_status:err")
      }
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(redis.outage == "the server cannot save its data to disk and refuses writes (MISCONF)")
        try server.cli("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
        try await redis.waitUntilReady(by: shortly())
      }
    }
  }

  @Test func aCheckFindsOutWhatNoCommandHasMet() async throws {
    let server = try PrivateRedis()
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        try await redis.checkHealth(by: shortly())
        try server.cli("REPLICAOF", "127.0.0.1", "1")
        try await eventually("it is found out") {
          do throws(RedisError) {
            try await redis.checkHealth(by: shortly())
            return false
          } catch {
            return error.publicReason == "the server is a read-only replica (READONLY)"
          }
        }
        #expect(!redis.isReady && redis.outage != nil)
      }
    }
  }

  @Test func whatConcernsOneCommandAloneIsNoOutage() async throws {
    let server = try PrivateRedis()
    try server.cli("ACL", "SETUSER", "default", "resetkeys", "~health", "~mine")
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        let changes = Changes()
        redis.onStateChange = { changes.list.append($0) }
        for _ in 0..<3 {
          await #expect(throws: RedisError.server(code: "NOPERM", message: "use a key")) {
            try await redis.command(["GET", "another's"], by: shortly())
          }
          let answer1 = try await redis.command(["SET", "mine", "v"], by: shortly())
          #expect(answer1.isOK)
        }
        #expect(changes.list == [.ready] && redis.statistics.connectsTotal == 1)
      }
    }
  }

  /// An operator's SCRIPT KILL fails the command that it ends, and no other.
  @Test func aScriptThatIsKilledIsAFailedCommandAndNoOutage() async throws {
    let server = try PrivateRedis()
    try server.cli("CONFIG", "SET", "busy-reply-threshold", "20")
    let loop = RedisScript("while redis.call('EXISTS', KEYS[1]) == 1 do end return 'done'")
    func kill() async throws {
      try await eventually("the script is killed") { (try? server.cli("SCRIPT", "KILL")) == "OK" }
    }
    try await onLoop {
      try await withRedis(server.url, healthCheck: RedisHealthCheck(script: loop, keys: ["loop"])) { redis in
        let changes = Changes()
        redis.onStateChange = { changes.list.append($0) }
        try await redis.waitUntilReady(by: shortly())
        try server.cli("SET", "loop", "1")
        async let answer = redis.evaluate(loop, keys: ["loop"], arguments: [], by: shortly())
        try await kill()
        do {
          _ = try await answer
          Issue.record("a script that was killed has an answer")
        } catch {
          #expect((error as? RedisError)?.publicReason == "an operator ended the script (SCRIPT KILL)")
        }
        // The client's own check.
        redis.doubt(RedisErrorReply(code: "READONLY", message: ""))
        try await kill()
        try server.cli("DEL", "loop")
        try await redis.command(["GET", "loop"], by: shortly())
        #expect(redis.isReady && changes.list == [.ready] && redis.statistics.connectsTotal == 1)
      }
    }
  }

  @Test func aClusterNodeIsRefusedByName() async throws {
    let server = try PrivateRedis(settings: ["cluster-enabled yes"])
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(redis.outage == RedisErrorReply.clusterNode && redis.statistics.connectsTotal == 0)
      }
    }
  }

  @Test func aClusterNodeThatDeniesHelloIsRefusedByName() async throws {
    let server = try PrivateRedis(settings: ["cluster-enabled yes", "rename-command HELLO \"\""])
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(redis.outage?.hasPrefix(RedisErrorReply.clusterNode) ?? false, "\(redis.outage ?? "none")")
      }
    }
  }

  @Test func aSentinelIsRefusedByName() async throws {
    let sentinel = try PrivateRedis(isSentinel: true)
    try await onLoop {
      try await withRedis(sentinel.url, healthCheck: Self.check) { redis in
        try await eventually("it said so") { redis.outage == RedisErrorReply.sentinel }
        #expect(redis.statistics.connectsTotal == 0)
      }
    }
  }

  /// As twemproxy does it.
  @Test func aProxyThatClosesOnHelloIsConnectedToWithoutIt() async throws {
    let peer = try ScriptedPeer { connection in
      guard let first = connection.receive() else { return }
      guard !String(decoding: first, as: UTF8.self).contains("HELLO") else { return }
      connection.send(":1\r\n")
      connection.hang()
    }
    try await onLoop {
      try await withRedis("redis://127.0.0.1:\(peer.port)", healthCheck: Self.check) { redis in
        try await redis.waitUntilReady(by: shortly())
        #expect(peer.accepted == 2)
      }
    }
  }

  @Test func renamedScriptCommandsAreNamedAsSuch() async throws {
    let server = try PrivateRedis(settings: ["rename-command EVALSHA \"\"", "rename-command EVAL \"\""])
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(redis.outage == "the server does not know the command, or it is renamed there (ERR)")
      }
    }
  }

  /// As some hosts rename them.
  @Test func aRenamedCommandOfAScriptIsNamedAsSuch() async throws {
    let server = try PrivateRedis(settings: ["rename-command SET \"\""])
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        try await eventually("it tried") { redis.statistics.attempts >= 2 }
        #expect(
          redis.outage == "a command that the worker's scripts run is unknown to the server, or renamed (ERR)")
      }
    }
  }

  @Test func aScriptRunsAsAWholeWhereItsDigestIsNotTaken() async throws {
    let server = try PrivateRedis(settings: ["rename-command EVALSHA \"\""])
    try await onLoop {
      try await withRedis(server.url, healthCheck: Self.check) { redis in
        let script = RedisScript("return 7")
        let answer2 = try await redis.evaluate(script, keys: [], arguments: [], by: shortly())
        #expect(answer2 == .integer(7))
        try await redis.checkHealth(by: shortly())
      }
    }
  }
}
