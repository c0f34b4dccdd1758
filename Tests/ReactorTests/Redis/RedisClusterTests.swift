// The client of a Redis Cluster, with three real nodes: slots, slots that move, nodes that are away or refuse.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct RedisClusterTests {
  private static let cluster = Result { try PrivateCluster() }
  private static let add = RedisScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
  private static let both = RedisScript("return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}")

  @Test func commandsAndScriptsReachTheNodeThatHasTheirKey() async throws {
    let cluster = try Self.cluster.get()
    let keys = (1...12).map { "spread:\($0)" }
    #expect(Set(try keys.map(cluster.index)).count == 3)
    try await onLoop {
      try await withCluster(cluster.url) { redis in
        for key in keys {
          let sum = try await redis.evaluate(
            Self.add, keys: [key], arguments: ["7"], isRepeatable: false, by: shortly())
          #expect(sum == .integer(7))
          #expect(try await redis.command(["GET", key], isRepeatable: true, by: shortly()).text == "7")
          #expect(try await redis.time(near: key, by: shortly()).array?.count == 2)
        }
        #expect(redis.nodes.count == 3 && redis.outage == nil && redis.statistics.reconnects == 0)
      }
    }
  }

  @Test func aSlotThatMovesIsFollowedAndItsCommandsWaitUntilTheirKeysAreTogether() async throws {
    let cluster = try Self.cluster.get()
    let (slot, keys) = (Int(ClusterSlot.of("{moving}")), ["1{moving}", "2{moving}"])
    let source = cluster.masters[try cluster.index(of: "{moving}")]
    let target = try #require(cluster.masters.first { $0 !== source })
    try await onLoop {
      try await withCluster(cluster.url) { redis in
        for key in keys { try await redis.command(["SET", key, key], isRepeatable: true, by: shortly()) }
        try cluster.beginMoving(slot, from: source, to: target)
        try cluster.move([keys[0]], from: source, to: target)
        // ASK, without and with a script that the other node does not know yet.
        #expect(try await redis.command(["GET", keys[0]], isRepeatable: true, by: shortly()).text == keys[0])
        #expect(try await redis.command(["GET", keys[1]], isRepeatable: true, by: shortly()).text == keys[1])
        let added = try await redis.evaluate(
          Self.add, keys: ["3{moving}"], arguments: ["3"], isRepeatable: false, by: shortly())
        #expect(added == .integer(3))
        await #expect(throws: RedisError.notSent("slot \(slot) is being moved to another node")) {
          let soon = LoopClock.system.now.advanced(by: .milliseconds(300))
          try await redis.evaluate(Self.both, keys: keys, arguments: [], isRepeatable: false, by: soon)
        }
        async let answer = redis.evaluate(Self.both, keys: keys, arguments: [], isRepeatable: false, by: shortly())
        try cluster.move([keys[1]], from: source, to: target)
        try cluster.endMoving(slot, from: source, to: target)
        #expect(try await answer.array?.map(\.text) == keys)
        // MOVED.
        #expect(try await redis.command(["GET", keys[1]], isRepeatable: true, by: shortly()).text == keys[1])
        #expect(redis.topology.node(of: UInt16(slot))?.port == target.port && redis.outage == nil)
      }
    }
  }

  @Test func asksTheNextNodeWhereOneIsAwayAndAnotherOneHangs() async throws {
    let cluster = try Self.cluster.get()
    let (away, silent) = (try freePort(), try ScriptedPeer { $0.hang() })
    let url = "redis+cluster://127.0.0.1:\(away),127.0.0.1:\(silent.port),127.0.0.1:\(cluster.masters[1].port)"
    try await onLoop {
      try await withCluster(url) { redis in
        try await redis.command(["SET", "seed", "1"], isRepeatable: true, by: shortly())
        #expect(redis.outage == nil)
      }
    }
  }

  @Test func aNodeThatRefusesWritesIsNamedByASlotAndTheOthersGoOn() async throws {
    let cluster = try Self.cluster.get()
    let keys = ["a", "b", "c"].map { "refusal:\($0)" }
    let checks = keys.map { RedisHealthCheck(script: Self.add, keys: [$0], arguments: ["1"]) }
    let refusing = cluster.masters[try cluster.index(of: keys[0])]
    let others = try keys.filter { try cluster.index(of: $0) != cluster.index(of: keys[0]) }
    try #require(!others.isEmpty)
    try await onLoop {
      try await withCluster(cluster.url, healthChecks: checks) { redis in
        try await redis.waitUntilReady(by: shortly())
        try await redis.checkHealth(by: shortly())
        try refusing.cli("CONFIG", "SET", "maxmemory", "1")
        defer { _ = try? refusing.cli("CONFIG", "SET", "maxmemory", "0") }
        let outage =
          "the node of slot \(ClusterSlot.of(keys[0])): the server is out of memory and refuses writes (OOM)"
        try await eventually("it says so") {
          do throws(RedisError) {
            try await redis.checkHealth(by: shortly())
            return false
          } catch {
            return error == .notSent(outage)
          }
        }
        #expect(redis.outage == outage)
        let sum = try await redis.evaluate(
          Self.add, keys: [others[0]], arguments: ["1"], isRepeatable: false, by: shortly())
        #expect(sum.integer ?? 0 > 0)
        try refusing.cli("CONFIG", "SET", "maxmemory", "0")
        try await redis.waitUntilReady(by: shortly())
      }
    }
  }

  /// Each node takes longer than the pause before the next one is asked, too, and the first one never answers.
  @Test func aDistantClusterIsFoundBesideANodeThatHangs() async throws {
    let proxies = try Self.cluster.get().masters.map { try FaultProxy(to: $0.port) }
    proxies[0].set(.blackHole)
    for proxy in proxies.dropFirst() { proxy.set(.delay(.milliseconds(700))) }
    try await onLoop {
      let seeds = proxies.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
      let configuration = try RedisConfiguration(url: "redis+cluster://\(seeds)")
      let began = LoopClock.system.now
      let found = await ClusterSearch(configuration: configuration, tls: nil, clock: .system)
        .topology(askingInTurn: configuration.clusterSeeds, by: began.advanced(by: .seconds(5)))
      #expect((try? found.get()) != nil, "\(found)")
      // Not kept by those that are still being asked.
      #expect(LoopClock.system.now < began.advanced(by: .seconds(4)))
    }
    for proxy in proxies { proxy.stop() }
  }

  @Test func whatIsNoClusterIsSaid() async throws {
    let empty = try PrivateRedis(settings: ["cluster-enabled yes", "cluster-port \(try freePort())"])
    let cases = [
      (PrivateRedis.shared.port, "the server is no Redis Cluster node: write redis://HOST:PORT (ERR)"),
      (empty.port, "no node of the cluster has slots"), (try freePort(), "connection refused"),
    ]
    for (port, reason) in cases {
      try await onLoop {
        try await withCluster("redis+cluster://127.0.0.1:\(port)") { redis in
          try await eventually(reason) { redis.outage == reason }
          await #expect(throws: RedisError.notSent(reason)) {
            let soon = LoopClock.system.now.advanced(by: .milliseconds(150))
            try await redis.command(["GET", "a"], isRepeatable: true, by: soon)
          }
        }
      }
    }
  }
}
