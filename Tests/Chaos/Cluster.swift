// The harness's own servers: PostgreSQL and Redis with their recorders, the control planes on them, their fleets. A
// failover replaces a server, at the address that the fleet uses.
// Invariant: none of it outlives this process. Used by chaos runs and scenarios.

import Foundation
import Reactor
import Synchronization
import TestSupport

/// What the fleet's Redis is.
enum RedisKind: String, Sendable {
  case single
  /// A Redis Cluster of three masters, to which the replicas connect without proxies.
  case cluster
}

/// A fleet's start options.
struct FleetOptions: Sendable {
  var worker: String
  var replicas = 3
  var lease = Duration.seconds(3)
  /// One interval for all sweepers, in place of the defaults.
  var interval: Duration?
  var settings: [String: String] = [:]
  var surroundings = Surroundings.plain
  var redis = RedisKind.single
  /// Whether rows are deleted a day after their end.
  var retains = false
  /// Replicas with another namespace on the same tables.
  var rivals = 0
  /// Whether this process has a private mount namespace and so can create a small file system.
  var ownsMounts = false
}

/// The servers and the fleet.
final class Cluster: Sendable {
  static let namespace = "chaos"
  /// How long a worker may take to end after SIGTERM.
  static let grace = Duration.seconds(4)

  let options: FleetOptions
  let monitor: RedisMonitors
  /// The Redis Cluster; nil: there is a single server.
  let nodes: PrivateCluster?
  /// Faults affect the first one.
  let planes: [Plane]
  let database: String
  private let pooler: PrivatePgBouncer?
  /// Where the pooler finds PostgreSQL; nil without one.
  private let address: FaultProxy?
  private let inUse: Mutex<InUse>
  /// All PostgreSQL servers log here, one after another.
  private let logs: URL

  private struct InUse {
    var postgres: PrivatePostgres
    var redis: PrivateRedis
    var disk: SmallDisk?
  }

  /// The servers that the fleet uses now.
  var postgres: PrivatePostgres { inUse.withLock { $0.postgres } }
  /// Of a Redis Cluster, its first master.
  var redis: PrivateRedis { inUse.withLock { $0.redis } }
  var redisPorts: [UInt16] { nodes?.masters.map(\.port) ?? [redis.port] }
  /// The file system of the first control plane's tables; nil: they are in the default location.
  var disk: SmallDisk? { inUse.withLock { $0.disk } }

  var links: FaultyLinks { planes[0].links }
  var replicas: [Replica] { planes[0].replicas }

  /// Starts the servers and prepares the database; no replica runs yet.
  static func start(_ options: FleetOptions) async throws -> Cluster {
    let isPooled = options.surroundings.way != .direct
    let logs = try logDirectory()
    let postgres = try await PrivatePostgres.start(settings: [
      "track_commit_timestamp=on", "logging_collector=on", "log_destination=jsonlog", "log_statement=all",
      "log_min_messages=error", "log_rotation_size=0", "log_directory=\(logs.path)", "max_wal_size=512MB",
      "max_connections=\((isPooled ? 100 : 70) + 2 * options.replicas)",
    ])
    let nodes = options.redis == .cluster ? try await offLoop { try PrivateCluster(settings: redisUsers) } : nil
    let redis = try nodes?.masters[0] ?? startRedis()
    let url = try await postgres.freshDatabase()
    let database = String(url[url.index(after: url.lastIndex(of: "/")!)...])
    let disk = options.ownsMounts ? try SmallDisk(size: SurroundingsMaker.diskSize) : nil
    let maker = SurroundingsMaker(
      surroundings: options.surroundings, postgres: postgres, database: database, disk: disk?.path,
      worker: options.worker, environment: environment(options))
    try await maker.make(schemas: ["public"] + (options.surroundings.neighbours > 0 ? ["second"] : []))
    let address = isPooled ? try FaultProxy(to: UInt16(postgres.port)) : nil
    var pooler: PrivatePgBouncer?
    if let address { pooler = try await maker.pooler(at: address.port) }
    let inUse = InUse(postgres: postgres, redis: redis, disk: disk)
    return try Cluster(options, inUse, nodes, database, logs, pooler, address)
  }

  /// Lines of redis.conf for the planes' users.
  private static var redisUsers: [String] {
    [Plane.Kind.first, .neighbour, .rival].map { Plane.redisUser(Plane.namespace($0)) }
  }

  /// An empty Redis with the planes' users.
  static func startRedis() throws -> PrivateRedis {
    try PrivateRedis(
      password: Planted.redisPassword,
      settings: redisUsers + ["masterauth \(Planted.redisPassword)", "repl-diskless-sync-delay 0"])
  }

  private init(
    _ options: FleetOptions, _ inUse: InUse, _ nodes: PrivateCluster?, _ database: String, _ logs: URL,
    _ pooler: PrivatePgBouncer?, _ address: FaultProxy?
  ) throws {
    let (postgres, redis) = (inUse.postgres, inUse.redis)
    self.options = options
    self.inUse = Mutex(inUse)
    self.nodes = nodes
    self.database = database
    self.logs = logs
    self.pooler = pooler
    self.address = address
    let masters = nodes?.masters.map(\.port) ?? []
    monitor = RedisMonitors(ports: nodes == nil ? [redis.port] : masters, password: redis.password)
    let fleets: [(Plane.Kind, Int)] = [
      (.first, options.replicas), (.neighbour, options.surroundings.neighbours), (.rival, options.rivals),
    ]
    planes = try fleets.filter { $0.1 > 0 }.map { kind, count in
      try Plane(
        kind, replicas: count, executable: options.worker, postgres: pooler?.port ?? postgres.port, redis: redis.port,
        nodes: masters, database: database, surroundings: options.surroundings, environment: Self.environment(options))
    }
  }

  private static func environment(_ options: FleetOptions) -> [String: String] {
    var environment = [
      "LOG_LEVEL": "debug", "SB_WORKER_AUDIT_EVENTS": "true", "SB_WORKER_LEASE": "\(options.lease.milliseconds)ms",
      "SB_WORKER_SHUTDOWN_GRACE": "\(grace.milliseconds)ms", "SB_DISCOVER_TARGETS_JSON": Targets.json,
      // The harness's jobs stay in the queue: nothing claims them.
      "SB_WORKER_DISCOVER_PILE_UP": "true",
    ]
    for sweep in Sweep.allCases {
      environment[sweep.intervalVariable] = sweep.setting(for: options.interval ?? sweep.interval)
    }
    if options.retains {
      for retained in Retained.all(in: options.surroundings) { environment[retained.variable] = Retained.time }
    }
    return environment.merging(options.settings) { $1 }
  }

  /// A directory of PostgreSQL's account.
  private static func logDirectory() throws -> URL {
    let name = "chaos-log-\(UUID().uuidString.prefix(8))"
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent(name)
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    if geteuid() == 0, let account = getpwnam("postgres") {
      chown(directory.path, account.pointee.pw_uid, account.pointee.pw_gid)
    }
    return directory
  }

  /// Makes the fleet's address of PostgreSQL that of another server.
  func use(_ postgres: PrivatePostgres, disk: SmallDisk?) {
    inUse.withLock { ($0.postgres, $0.disk) = (postgres, disk) }
    let port = UInt16(postgres.port)
    if let address { address.upstream = port } else { for plane in planes { plane.links.move(.postgres, to: port) } }
  }

  /// Makes the fleet's address of Redis that of another server.
  func use(_ redis: PrivateRedis) {
    inUse.withLock { $0.redis = redis }
    for plane in planes { plane.links.move(.redis, to: redis.port) }
  }

  /// Starts every replica and waits until all are ready.
  func startFleet() async throws {
    try await monitor.waitUntilRecording()
    let replicas = planes.flatMap(\.replicas)
    for replica in replicas { try await replica.start() }
    for replica in replicas { try await replica.waitUntilReady(within: .seconds(20)) }
  }

  /// What psql prints for `sql`, rows as lines and columns separated by `|`.
  @discardableResult
  func sql(_ text: String, schema: String = "public") async throws -> String {
    // VACUUM must run alone: a search path in the same text would put it into a transaction.
    let path = schema == "public" || text.hasPrefix("VACUUM") ? "" : "SET search_path = \(schema); "
    return try await postgres.psql(path + text, database: database)
  }

  /// Ends every replica that still runs, with SIGTERM.
  func stopFleet() async throws {
    let replicas = planes.flatMap(\.replicas)
    for replica in replicas where replica.process?.ending == nil {
      replica.process?.signal(SIGCONT)
      replica.end(by: SIGTERM)
    }
    for replica in replicas { try await replica.process?.waitForExit(within: Self.grace + .seconds(10)) }
  }

  /// Writes what the workers logged, one file a process, and every command of Redis.
  func copyLogs(to directory: URL) throws {
    for plane in planes {
      let prefix = plane.kind == .first ? "replica" : plane.kind.rawValue
      for replica in plane.replicas {
        for (number, life) in replica.lives.enumerated() {
          let file = directory.appendingPathComponent("\(prefix)-\(replica.index)-\(number).log")
          try Data(life.process.everything.utf8).write(to: file)
        }
      }
    }
    let commands = monitor.lines.joined(separator: "\n") + "\n"
    try Data(commands.utf8).write(to: directory.appendingPathComponent("redis.log"))
  }

  /// Copies the PostgreSQL servers' logs of statements.
  func copyStatementLog(to directory: URL) throws -> [URL] {
    let names = try FileManager.default.contentsOfDirectory(atPath: logs.path).filter { $0.hasSuffix(".json") }
    return try names.sorted().map { name in
      let copy = directory.appendingPathComponent("postgres-\(name)")
      try FileManager.default.copyItem(at: logs.appendingPathComponent(name), to: copy)
      return copy
    }
  }

  func stop() async {
    monitor.stop()
    for plane in planes { plane.links.stop() }
    redis.stop()
    for node in nodes?.masters ?? [] { node.stop() }
    await pooler?.stop()
    address?.stop()
    await postgres.stop()
    disk?.remove()
    // At the latest, scripts/chaos removes it.
    try? FileManager.default.removeItem(at: logs)
  }
}
