// A private Redis Cluster: three masters on loopback ports, with replicas if a test needs them.

import Foundation

/// Three masters that split the slots evenly, in order.
public final class PrivateCluster: Sendable {
  public let masters: [PrivateRedis]
  /// The first one is the first master's, and so on.
  public let replicas: [PrivateRedis]

  private static let rangeLength = 5462

  /// Starts the nodes and waits until all of them see a complete cluster. A master counts as down after half a second
  /// without an answer.
  ///
  /// - Parameters:
  ///   - replicas: the number of masters with a replica.
  ///   - user: an additional user of each node, name and password.
  ///   - settings: additional lines of each node's redis.conf.
  ///   - tls: the nodes' certificates and keys, in order, the last one for all remaining nodes; and the authority that
  ///     they trust. The nodes then also use TLS with each other.
  public init(
    replicas replicaCount: Int = 0, user: (name: String, password: String)? = nil,
    tls: (files: [(certificate: String, key: String)], authority: String)? = nil, settings: [String] = []
  ) throws {
    let nodes = try (0..<3 + replicaCount).map { index in
      let busPort = try freePort()
      let node = try PrivateRedis(
        user: user, tls: tls.map { ($0.files[min(index, $0.files.count - 1)], $0.authority) },
        settings: [
          "cluster-enabled yes", "cluster-node-timeout 500", "cluster-port \(busPort)", "repl-diskless-sync-delay 0",
          "cluster-replica-validity-factor 0", "cluster-allow-replica-migration no",
        ] + (tls == nil ? [] : ["tls-cluster yes", "tls-replication yes"]) + settings)
      return (node: node, busPort: busPort)
    }
    masters = nodes.prefix(3).map(\.node)
    replicas = nodes.dropFirst(3).map(\.node)
    for (index, master) in masters.enumerated() {
      let first = index * Self.rangeLength
      try Self.expectOK(master.cli("CLUSTER", "SET-CONFIG-EPOCH", "\(index + 1)"))
      try Self.expectOK(
        master.cli("CLUSTER", "ADDSLOTSRANGE", "\(first)", "\(min(first + Self.rangeLength, 16_384) - 1)"))
    }
    for (node, busPort) in nodes.dropFirst() {
      try Self.expectOK(masters[0].cli("CLUSTER", "MEET", "127.0.0.1", "\(Self.port(of: node))", "\(busPort)"))
    }
    try Self.wait("the nodes know each other") {
      try nodes.allSatisfy {
        let information = try $0.node.cli("CLUSTER", "INFO")
        return information.contains("cluster_known_nodes:\(nodes.count)")
      }
    }
    for (master, replica) in zip(masters, replicas) {
      let identifier = try master.cli("CLUSTER", "MYID")
      try Self.wait("the replica knows its master") { try replica.cli("CLUSTER", "REPLICATE", identifier) == "OK" }
    }
    try Self.wait("the cluster is whole") {
      try nodes.allSatisfy { try $0.node.cli("CLUSTER", "INFO").contains("cluster_state:ok") }
        && replicas.allSatisfy { try $0.cli("INFO", "replication").contains("master_link_status:up") }
    }
  }

  /// `redis+cluster://`, with every master; `rediss+cluster://` with TLS.
  public var url: String { url(login: "") }

  /// The same with a user and a password.
  public func url(user: String, password: String) -> String { url(login: "\(user):\(password)@") }

  private func url(login: String) -> String {
    (masters[0].tlsPort == nil ? "redis" : "rediss") + "+cluster://" + login
      + masters.map { "127.0.0.1:\(Self.port(of: $0))" }.joined(separator: ",")
  }

  /// The node's client port.
  private static func port(of node: PrivateRedis) -> UInt16 { node.tlsPort ?? node.port }

  /// Changes the user's password, and makes it log in again.
  public func rotate(_ user: String, to password: String) throws {
    for node in masters + replicas {
      try Self.expectOK(node.cli("ACL", "SETUSER", user, "resetpass", ">\(password)"))
    }
    for node in masters + replicas { try node.cli("CLIENT", "KILL", "USER", user) }
  }

  /// The index of the master that had a key's slot at the start.
  public func index(of key: String) throws -> Int {
    try slot(of: key) / Self.rangeLength
  }

  /// Begins to move a slot, without moving its keys.
  public func beginMoving(_ slot: Int, from source: PrivateRedis, to target: PrivateRedis) throws {
    try Self.expectOK(
      target.cli("CLUSTER", "SETSLOT", "\(slot)", "IMPORTING", source.cli("CLUSTER", "MYID")))
    try Self.expectOK(
      source.cli("CLUSTER", "SETSLOT", "\(slot)", "MIGRATING", target.cli("CLUSTER", "MYID")))
  }

  /// Moves keys.
  public func move(_ keys: [String], from source: PrivateRedis, to target: PrivateRedis) throws {
    try Self.expectOK(
      source.cli(["MIGRATE", "127.0.0.1", "\(Self.port(of: target))", "", "0", "5000", "KEYS"] + keys))
  }

  /// Finishes the move: the target owns the slot.
  public func endMoving(_ slot: Int, from source: PrivateRedis, to target: PrivateRedis) throws {
    let identifier = try target.cli("CLUSTER", "MYID")
    for node in [target, source] {
      try Self.expectOK(node.cli("CLUSTER", "SETSLOT", "\(slot)", "NODE", identifier))
    }
  }

  /// Moves a slot with all its keys to another master, within about `time`: for most of it, some keys are here and some
  /// there. Returns the number of keys.
  @discardableResult
  public func move(_ slot: Int, to target: PrivateRedis, taking time: Duration = .zero) async throws -> Int {
    let source = try owner(of: slot)
    try await offLoop { try self.beginMoving(slot, from: source, to: target) }
    var moved = 0
    while true {
      // A sweeper has three keys, and at times others. A new one is made on the target.
      if moved < 4 { try await Task.sleep(for: time / 4) }
      let keys = try await offLoop { try source.cli("CLUSTER", "GETKEYSINSLOT", "\(slot)", "1") }
      if keys.isEmpty { break }
      // It may have expired by now.
      do { try await offLoop { try self.move([keys], from: source, to: target) } } catch {
        guard "\(error)".hasSuffix("NOKEY") else { throw error }
      }
      moved += 1
    }
    try await offLoop { try self.endMoving(slot, from: source, to: target) }
    return moved
  }

  /// The master that has a slot now.
  public func owner(of slot: Int) throws -> PrivateRedis {
    let owner = try masters.first { node in
      let own = try node.cli("CLUSTER", "NODES").split(separator: "\n").first { $0.contains("myself") } ?? ""
      return own.split(separator: " ").dropFirst(8).contains { range in
        let ends = range.split(separator: "-").compactMap { Int($0) }
        return ends.first.map { ($0...(ends.last ?? $0)).contains(slot) } ?? false
      }
    }
    guard let owner else { throw PrivateRedis.Failure(description: "no master has slot \(slot)") }
    return owner
  }

  /// The slot of a key.
  public func slot(of key: String) throws -> Int { Int(try masters[0].cli("CLUSTER", "KEYSLOT", key))! }

  private static func expectOK(_ answer: String) throws {
    guard answer == "OK" else { throw PrivateRedis.Failure(description: "not OK: \(answer)") }
  }

  private static func wait(_ what: String, until isSo: () throws -> Bool) throws {
    for _ in 0..<600 {
      if try isSo() { return }
      usleep(50_000)
    }
    throw PrivateRedis.Failure(description: "never happened: \(what)")
  }
}
