// A private Redis with failover: a master, its replicas, and three Sentinels that watch them.

import Foundation

/// A master with replicas and Sentinels, all on loopback ports.
public final class PrivateSentinels: Sendable {
  public static let masterName = "mymaster"

  /// The first one is the master at the beginning.
  public let servers: [PrivateRedis]
  public let sentinels: [PrivateRedis]

  /// Starts all of them, and waits until the Sentinels know each other and the replicas. The master counts as down
  /// after half a second without an answer.
  public static func start(replicas: Int) async throws -> PrivateSentinels {
    try await offLoop {
      let quick = ["repl-diskless-sync-delay 0", "repl-ping-replica-period 1"]
      let master = try PrivateRedis(settings: quick)
      let others = try (0..<replicas).map { _ in
        try PrivateRedis(settings: quick + ["replicaof 127.0.0.1 \(master.port)"])
      }
      try wait("the replicas are in step") {
        try others.allSatisfy { try $0.cli("INFO", "replication").contains("master_link_status:up") }
      }
      let sentinels = try (0..<3).map { _ in
        try PrivateRedis(
          settings: [
            "sentinel monitor \(masterName) 127.0.0.1 \(master.port) 2",
            "sentinel down-after-milliseconds \(masterName) 500", "sentinel failover-timeout \(masterName) 4000",
          ], isSentinel: true)
      }
      try wait("the Sentinels know each other") {
        try sentinels.allSatisfy {
          try $0.cli("INFO", "sentinel").contains("slaves=\(replicas),sentinels=\(sentinels.count)")
        }
      }
      return PrivateSentinels(servers: [master] + others, sentinels: sentinels)
    }
  }

  private init(servers: [PrivateRedis], sentinels: [PrivateRedis]) {
    (self.servers, self.sentinels) = (servers, sentinels)
  }

  /// `redis+sentinel://`, with every Sentinel.
  public var url: String {
    let hosts = sentinels.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
    return "redis+sentinel://\(hosts)/\(Self.masterName)"
  }

  /// The master according to the last Sentinel.
  public func master() throws -> PrivateRedis? {
    let address = try sentinels[2].cli("SENTINEL", "get-master-addr-by-name", Self.masterName)
    return servers.first { address.hasSuffix("\n\($0.port)") }
  }

  private static func wait(_ what: String, until isSo: () throws -> Bool) throws {
    for _ in 0..<600 {
      if try isSo() { return }
      usleep(50_000)
    }
    throw PrivateRedis.Failure(description: "never happened: \(what)")
  }
}
