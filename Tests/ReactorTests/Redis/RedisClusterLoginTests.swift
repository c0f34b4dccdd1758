// A Redis Cluster's password that changes while its client runs, and TLS to its nodes. Three real nodes.

import Foundation
import TestSupport
import Testing

@testable import Reactor

/// Runs `body` beside a cluster's client, which ends with it.
@EventLoop
func withCluster(
  _ url: String, healthChecks: [RedisHealthCheck] = [],
  _ body: @escaping @EventLoop (RedisCluster) async throws -> Void
) async throws {
  let redis = RedisCluster(try RedisConfiguration(url: url), healthChecks: healthChecks, clock: .system)
  try await withThrowingTaskGroup(of: Void.self) { group in
    group.addTask { await redis.run() }
    defer { group.cancelAll() }
    try await body(redis)
  }
}

/// A key of each master.
private func keys(of cluster: PrivateCluster) throws -> [String] {
  var keys: [String?] = [nil, nil, nil]
  for number in 0..<64 { keys[try cluster.index(of: "key:\(number)")] = "key:\(number)" }
  return keys.compactMap(\.self)
}

@Suite(.serialized) struct RedisClusterLoginTests {
  @Test func aRotatedPasswordIsReadAgainAndEveryNodeLogsInWithIt() async throws {
    let cluster = try PrivateCluster(user: ("rotated", "planted-0"))
    let keys = try keys(of: cluster)
    #expect(keys.count == 3)
    let newURL = cluster.url(user: "rotated", password: "planted-1")
    try await onLoop {
      try await withCluster(cluster.url(user: "rotated", password: "planted-0")) { redis in
        redis.onLoginRefused = { [unowned redis] in
          do { redis.logIn(as: try RedisConfiguration(url: newURL)) } catch { Issue.record(error) }
        }
        for key in keys { try await redis.command(["SET", key, key], isRepeatable: true, by: shortly()) }
        try cluster.rotate("rotated", to: "planted-1")
        for key in keys {
          #expect(try await redis.command(["GET", key], isRepeatable: true, by: shortly()).text == key)
        }
        #expect(redis.outage == nil && redis.nodes.count == 3)
        // The nodes that were connected before the rotation.
        #expect(redis.statistics.reconnects == 3)
      }
    }
  }

  @Test func aRefusedPasswordIsAnOutageUntilThereIsAnother() async throws {
    let cluster = try PrivateCluster(user: ("rotated", "planted-0"))
    let keys = try keys(of: cluster)
    let script = RedisScript("return redis.call('INCR', KEYS[1])")
    let checks = keys.map { RedisHealthCheck(script: script, keys: [$0 + ":check"], arguments: []) }
    let newURL = cluster.url(user: "rotated", password: "planted-1")
    try await onLoop {
      try await withCluster(cluster.url(user: "rotated", password: "planted-0"), healthChecks: checks) { redis in
        try await redis.waitUntilReady(by: shortly())
        try cluster.rotate("rotated", to: "planted-1")
        try await eventually("it says why") { redis.outage?.contains("AUTH refused: ") == true }
        #expect(redis.outage?.contains("planted") == false && redis.outage?.contains("127.0.0.1") == false)
        await #expect(throws: RedisError.self) {
          let soon = LoopClock.system.now.advanced(by: .milliseconds(200))
          try await redis.command(["GET", keys[0]], isRepeatable: true, by: soon)
        }
        redis.logIn(as: try RedisConfiguration(url: newURL))
        try await redis.waitUntilReady(by: shortly())
        for key in keys { try await redis.command(["GET", key], isRepeatable: true, by: shortly()) }
      }
    }
  }
}

@Suite(.serialized, .enabled(if: RedisTLS.isAvailable, "this hiredis has no TLS (1.0 and later have)"))
struct RedisClusterTLSTests {
  /// Runs `body` with an authority as the system's.
  private func trusting(_ file: String, _ body: () async throws -> Void) async throws {
    // The system's authorities are those of this variable.
    let before = ProcessInfo.processInfo.environment["SSL_CERT_FILE"]
    setenv("SSL_CERT_FILE", file, 1)
    defer { if let before { setenv("SSL_CERT_FILE", before, 1) } else { unsetenv("SSL_CERT_FILE") } }
    try await body()
  }

  @Test func everyNodeIsReachedOverTLSAndASlotThatMovesAndANewPasswordAreFollowed() async throws {
    let authority = try await TestAuthority.shared()
    let cluster = try PrivateCluster(
      user: ("rotated", "planted-0"), tls: ([authority.files(of: .good)], authority.certificateFile))
    let keys = try keys(of: cluster)
    let newURL = cluster.url(user: "rotated", password: "planted-1")
    try await trusting(authority.certificateFile) {
      try await onLoop {
        try await withCluster(cluster.url(user: "rotated", password: "planted-0")) { redis in
          redis.onLoginRefused = { [unowned redis] in
            do { redis.logIn(as: try RedisConfiguration(url: newURL)) } catch { Issue.record(error) }
          }
          for key in keys { try await redis.command(["SET", key, key], isRepeatable: true, by: shortly()) }
          #expect(Set(redis.nodes.map(\.endpoint.port)) == Set(cluster.masters.map(\.tlsPort)))
          for node in redis.nodes {
            #expect(node.client.tlsPeer(at: LoopClock.system.wallTime)?.isVerified == true)
          }
          let slot = Int(ClusterSlot.of(keys[0]))
          try cluster.beginMoving(slot, from: cluster.masters[0], to: cluster.masters[1])
          try cluster.move([keys[0]], from: cluster.masters[0], to: cluster.masters[1])
          // ASK, then MOVED.
          #expect(try await redis.command(["GET", keys[0]], isRepeatable: true, by: shortly()).text == keys[0])
          try cluster.endMoving(slot, from: cluster.masters[0], to: cluster.masters[1])
          #expect(try await redis.command(["GET", keys[0]], isRepeatable: true, by: shortly()).text == keys[0])
          #expect(redis.topology.node(of: UInt16(slot))?.port == cluster.masters[1].tlsPort)
          try cluster.rotate("rotated", to: "planted-1")
          for key in keys {
            #expect(try await redis.command(["GET", key], isRepeatable: true, by: shortly()).text == key)
          }
          #expect(redis.outage == nil)
        }
      }
    }
  }

  @Test func aNodeWithAnotherHostsCertificateIsRefusedAndTheOthersGoOn() async throws {
    let authority = try await TestAuthority.shared()
    let files = [Endpoint.Certificate.otherHost, .good].map { authority.files(of: $0) }
    let cluster = try PrivateCluster(tls: (files, authority.certificateFile))
    let keys = try keys(of: cluster)
    let script = RedisScript("return redis.call('INCR', KEYS[1])")
    let checks = keys.map { RedisHealthCheck(script: script, keys: [$0], arguments: []) }
    try await trusting(authority.certificateFile) {
      try await onLoop {
        try await withCluster(cluster.url, healthChecks: checks) { redis in
          let prefix = "the node of slot \(ClusterSlot.of(keys[0])): certificate refused: "
          try await eventually("it says so") { redis.outage?.hasPrefix(prefix) == true }
          #expect(redis.outage?.contains("127.0.0.1") == false)
          for key in keys[1...] {
            try await redis.evaluate(script, keys: [key], arguments: [], isRepeatable: true, by: shortly())
          }
        }
      }
    }
  }

  @Test func renewedAuthoritiesAreUsedForTheNextConnections() async throws {
    let authority = try await TestAuthority.shared()
    let cluster = try PrivateCluster(tls: ([authority.files(of: .good)], authority.certificateFile))
    try await trusting(authority.strangersFile) {
      try await onLoop {
        try await withCluster(cluster.url) { redis in
          try await eventually("it is refused") { redis.outage?.hasPrefix("certificate refused: ") == true }
          setenv("SSL_CERT_FILE", authority.certificateFile, 1)
          redis.renewAuthorities()
          try await redis.waitUntilReady(by: shortly())
          try await redis.command(["SET", "a", "1"], isRepeatable: true, by: shortly())
        }
      }
    }
  }
}
