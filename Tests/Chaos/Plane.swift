// One control plane of the cluster, and the fleet that sweeps it: a schema, a namespace in Redis, replicas and their
// proxies. Invariant: two planes share the servers, the database and the worker's role, and nothing else.

import Foundation
import Reactor
import TestSupport

/// A control plane.
final class Plane: Sendable {
  /// The kinds of additional planes.
  enum Kind: String, Sendable {
    case first
    /// Another control plane, in a schema of its own.
    case neighbour
    /// A fleet on the first one's tables, with another namespace.
    case rival
  }

  let kind: Kind
  let links: FaultyLinks
  let replicas: [Replica]

  var schema: String { kind == .neighbour ? "second" : "public" }
  var namespace: String { Self.namespace(kind) }
  static func namespace(_ kind: Kind) -> String { kind == .first ? Cluster.namespace : kind.rawValue }

  /// A redis.conf line for the user of a plane's workers, with the rights that docs/on-call.md lists, and those that
  /// docs/install.md adds for a Redis Cluster.
  static func redisUser(_ namespace: String) -> String {
    let commands = [
      "evalsha", "eval", "time", "get", "exists", "pttl", "set", "pexpire", "del", "hmget", "hset", "hdel", "lpush",
      "ltrim", "cluster|slots", "asking",
    ]
    let keys = ["lock:worker:sweeper:", "schedule:", "history:", "lock:discover:", "outage:"]
    return "user \(namespace) on >\(Planted.redisPassword) -@all "
      + (commands.map { "+\($0)" } + keys.map { "~\(namespace):\($0)*" }).joined(separator: " ")
  }

  /// The Redis settings of this plane's processes.
  func redisEnvironment(ports: [UInt16]) -> [String: String] {
    ["REDIS_NAMESPACE": namespace, "LOG_LEVEL": "error", "REDIS_URL": Self.redisURL(kind, ports: ports)]
  }

  /// Of a Redis Cluster if it has several ports.
  private static func redisURL(_ kind: Kind, ports: [UInt16]) -> String {
    (ports.count > 1 ? "redis+cluster" : "redis") + "://\(namespace(kind)):\(Planted.redisPassword)@"
      + ports.map { "127.0.0.1:\($0)" }.joined(separator: ",") + "/0"
  }

  /// - Parameters:
  ///   - postgres: the port of PostgreSQL or its pooler.
  ///   - nodes: the ports of a Redis Cluster, whose nodes have no proxies.
  ///   - environment: the environment of all replicas.
  init(
    _ kind: Kind, replicas count: Int, executable: String, postgres: Int, redis: UInt16, nodes: [UInt16] = [],
    database: String, surroundings: Surroundings, environment: [String: String]
  ) throws {
    self.kind = kind
    let links = try FaultyLinks(
      replicas: count, postgres: UInt16(postgres), redis: redis,
      delays: [.postgres: surroundings.postgresDelay, .redis: surroundings.redisDelay])
    self.links = links
    replicas = (0..<count).map { index in
      var environment = environment
      environment["REDIS_NAMESPACE"] = Self.namespace(kind)
      let password = PrivatePostgres.lockedPassword.addingPercentEncoding(withAllowedCharacters: .alphanumerics)!
      let ports = (links.proxy(index, .postgres).port, links.proxy(index, .redis).port)
      environment["DATABASE_URL"] =
        "postgresql://\(PrivatePostgres.lockedUser):\(password)@127.0.0.1:\(ports.0)/\(database)"
        + (kind == .neighbour ? "?search_path=second" : "")
      // One has a sink that never answers: this must affect neither sweeps nor shutdown, and its path is secret.
      if index == 1 { environment["SB_WORKER_WEBHOOK_URL"] = "http://127.0.0.1:9/\(Planted.mark)webhook" }
      environment["REDIS_URL"] = Self.redisURL(kind, ports: nodes.isEmpty ? [ports.1] : nodes)
      return Replica(index, executable: executable, environment: environment)
    }
  }
}
