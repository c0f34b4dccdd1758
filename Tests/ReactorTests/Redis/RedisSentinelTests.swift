// Finding the master through Sentinels that are real, away, silent, or wrong.

import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Reactor

@Suite struct RedisSentinelTests {
  /// A Sentinel that names the server at this port.
  private static func sentinel(naming port: @escaping @Sendable () -> UInt16) throws -> ScriptedPeer {
    try ScriptedPeer { connection in
      guard connection.expect("mymaster") else { return }
      let text = "\(port())"
      connection.send("*2\r\n$9\r\n127.0.0.1\r\n$\(text.utf8.count)\r\n\(text)\r\n")
      connection.hang()
    }
  }

  private static func url(_ ports: UInt16..., query: String = "") -> String {
    "redis+sentinel://" + ports.map { "127.0.0.1:\($0)" }.joined(separator: ",") + "/mymaster" + query
  }

  private static func role(_ redis: RedisClient) async throws -> String? {
    try await redis.command(["ROLE"], by: shortly()).array?.first?.text
  }

  @Test func asksTheNextSentinelWhereOneIsAwayAndAnotherOneHangs() async throws {
    let master = try PrivateRedis()
    let away = try freePort()
    let silent = try ScriptedPeer { $0.hang() }
    let sentinel = try Self.sentinel { master.port }
    try await onLoop {
      try await withRedis(Self.url(away, silent.port, sentinel.port)) { redis in
        try await redis.waitUntilReady(by: shortly())
        #expect(redis.statistics.attempts == 1)
        #expect(try await Self.role(redis) == "master")
      }
    }
  }

  @Test func aReplicaThatAStaleSentinelNamesIsNotUsed() async throws {
    let master = try PrivateRedis()
    let replica = try PrivateRedis(settings: ["replicaof 127.0.0.1 \(master.port)"])
    let (stale, right) = (try Self.sentinel { replica.port }, try Self.sentinel { master.port })
    try await onLoop {
      try await withRedis(Self.url(stale.port, right.port)) { redis in
        try await redis.waitUntilReady(by: shortly())
        #expect(try await Self.role(redis) == "master" && redis.statistics.attempts == 1)
      }
      try await withRedis(Self.url(stale.port)) { redis in
        try await eventually("it says so") { redis.outage == "the server that the Sentinel names is a replica" }
      }
    }
  }

  @Test func aServerThatHangsIsLeftAsSoonAsASentinelNamesAnother() async throws {
    let (old, new) = (try PrivateRedis(), try PrivateRedis())
    let named = Mutex(old.port)
    let peer = try Self.sentinel { named.withLock { $0 } }
    old.pause()
    try await onLoop {
      try await withRedis(Self.url(peer.port), dialTimeout: .seconds(60)) { redis in
        try await eventually("it asks again") { peer.accepted >= 2 }
        named.withLock { $0 = new.port }
        try await redis.waitUntilReady(by: shortly())
        #expect(redis.statistics.attempts == 1 && redis.master?.port == new.port)
      }
    }
    old.resume()
  }

  @Test func theLoginsOfSentinelsAndMasterAreTheirOwn() async throws {
    let master = try PrivateRedis(user: (name: "worker", password: "mas/ter"))
    let sentinel = try PrivateRedis(
      password: "watch", settings: ["sentinel monitor mymaster 127.0.0.1 \(master.port) 1"], isSentinel: true)
    let url = "redis+sentinel://worker:mas%2Fter@127.0.0.1:\(sentinel.port)/mymaster/2"
    try await onLoop {
      try await withRedis(url + "?sentinel_password=watch") { redis in
        let user = try await redis.command(["ACL", "WHOAMI"], by: shortly()).text
        #expect(user == "worker")
      }
      try await withRedis(url) { redis in
        try await eventually("it says so") {
          redis.outage == "no Sentinel names the master: a password is required (NOAUTH)"
        }
      }
    }
  }

  @Test func whatNoSentinelKnowsIsSaid() async throws {
    let sentinel = try PrivateRedis(isSentinel: true)
    let cases = [
      (sentinel.port, "it knows no master of that name"), (PrivateRedis.shared.port, "the server is not a Sentinel"),
      (try freePort(), "connection refused"),
    ]
    for (port, reason) in cases {
      try await onLoop {
        try await withRedis(Self.url(port)) { redis in
          try await eventually(reason) { redis.outage == "no Sentinel names the master: \(reason)" }
        }
      }
    }
  }
}
