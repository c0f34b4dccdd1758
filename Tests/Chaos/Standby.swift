// A standby of PostgreSQL or Redis, and the failover to it: the primary ends at once, the standby takes its address.
// Invariant: whatever a client waited for is also on the standby, so no check is relaxed. Used by FaultDriver.

import Foundation
import TestSupport

/// A server in step with the primary.
enum Standby: Sendable {
  /// With the file system of its copies of the first control plane's tables.
  case postgres(PrivatePostgres, SmallDisk?)
  case redis(PrivateRedis)

  /// The standby that a fault needs; nil: none.
  static func build(for kind: FaultKind, of cluster: Cluster) async throws -> Standby? {
    switch kind {
    case .failOverPostgres: try await postgres(of: cluster)
    case .failOverRedis: try await redis(of: cluster)
    default: nil
    }
  }

  private static func postgres(of cluster: Cluster) async throws -> Standby {
    let disk = try cluster.disk.map { _ in try SmallDisk(size: SurroundingsMaker.diskSize) }
    var tablespaces: [String: String] = [:]
    if let from = cluster.disk, let disk { tablespaces[from.path] = disk.path }
    let standby = try await cluster.postgres.startStandby(tablespaces: tablespaces)
    try await cluster.postgres.synchronizeStandby()
    return .postgres(standby, disk)
  }

  private static func redis(of cluster: Cluster) async throws -> Standby {
    let master = cluster.redis
    return try await offLoop {
      let replica = try Cluster.startRedis()
      try replica.cli("REPLICAOF", "127.0.0.1", "\(master.port)")
      try wait("the replica is in step") {
        try replica.cli("INFO", "replication").contains("master_link_status:up")
      }
      return .redis(replica)
    }
  }

  /// Ends the primary, and promotes the standby when `length` has passed.
  func takeOver(in cluster: Cluster, after length: Duration) async throws {
    switch self {
    case .postgres(let standby, let disk):
      let (primary, oldDisk) = (cluster.postgres, cluster.disk)
      await primary.stop()
      oldDisk?.remove()
      // At first nothing answers at the address, then a server that is read-only.
      try await Task.sleep(for: length / 2)
      cluster.use(standby, disk: disk)
      try await Task.sleep(for: length / 2)
      try await standby.psql("SELECT pg_promote()")
    case .redis(let replica):
      let master = cluster.redis
      try await offLoop { try Self.fence(master, until: replica) }
      try await Task.sleep(for: length)
      _ = try await offLoop { try replica.cli("REPLICAOF", "NO", "ONE") }
      // The fleet cannot reach it before it is recorded.
      try await cluster.monitor.follow(to: replica.port)
      cluster.use(replica)
    }
  }

  /// Ends a master that executes no more writes, once its replica has all earlier ones.
  private static func fence(_ master: PrivateRedis, until replica: PrivateRedis) throws {
    try master.cli("CLIENT", "PAUSE", "60000", "WRITE")
    try wait("the replica has everything") {
      let offsets = try [master, replica].map { server in
        try server.cli("INFO", "replication").split(whereSeparator: \.isNewline)
          .first { $0.hasPrefix("master_repl_offset:") }
      }
      return offsets[0] != nil && offsets[0] == offsets[1]
    }
    master.stop()
  }

  private static func wait(_ what: String, until isSo: () throws -> Bool) throws {
    for _ in 0..<1_000 {
      if try isSo() { return }
      usleep(10_000)
    }
    throw HarnessFault("never happened: \(what)")
  }
}
