// A control plane of the harness's own: PostgreSQL and Redis with their recorders, and a fleet behind its proxies.
// Invariant: nothing of it outlives this process. Used by the chaos and by the scenarios.

import Foundation
import Reactor
import TestSupport

/// What a fleet is started with.
struct FleetOptions: Sendable {
  var worker: String
  var replicas = 3
  var lease = Duration.seconds(3)
  /// One interval for all sweepers, in place of the chaos's own.
  var interval: Duration?
  var settings: [String: String] = [:]
}

/// The servers and the fleet.
final class Cluster: Sendable {
  static let namespace = "chaos"
  /// How long a worker may take to end after SIGTERM.
  static let grace = Duration.seconds(4)

  let options: FleetOptions
  let postgres: PrivatePostgres
  let redis: PrivateRedis
  let monitor: RedisMonitor
  let links: LinkBoard
  let replicas: [Replica]
  let database: String

  /// Starts the servers and prepares the database; no replica runs yet.
  static func start(_ options: FleetOptions) async throws -> Cluster {
    let postgres = try await PrivatePostgres.start(settings: [
      "track_commit_timestamp=on", "logging_collector=on", "log_destination=jsonlog", "log_statement=all",
      "log_min_messages=error", "log_rotation_size=0", "max_wal_size=512MB",
      "max_connections=\(50 + 2 * options.replicas)",
    ])
    let redis = try PrivateRedis(password: Planted.redisPassword)
    let url = try await postgres.freshDatabase()
    let database = String(url[url.index(after: url.lastIndex(of: "/")!)...])
    for file in ["scripts/dev/schema.sql", "Tests/Chaos/audit.sql"] {
      let sql = try String(contentsOf: repository.appendingPathComponent(file), encoding: .utf8)
      try await postgres.psql(sql, database: database)
    }
    return try Cluster(options, postgres, redis, database)
  }

  private init(
    _ options: FleetOptions, _ postgres: PrivatePostgres, _ redis: PrivateRedis, _ database: String
  ) throws {
    self.options = options
    self.postgres = postgres
    self.redis = redis
    self.database = database
    monitor = RedisMonitor(port: redis.port, password: Planted.redisPassword)
    let links = try LinkBoard(replicas: options.replicas, postgres: UInt16(postgres.port), redis: redis.port)
    self.links = links
    replicas = (0..<options.replicas).map { index in
      var environment = Self.environment(options)
      let password = PrivatePostgres.lockedPassword.addingPercentEncoding(withAllowedCharacters: .alphanumerics)!
      let ports = (links.proxy(index, .postgres).port, links.proxy(index, .redis).port)
      environment["DATABASE_URL"] =
        "postgresql://\(PrivatePostgres.lockedUser):\(password)@127.0.0.1:\(ports.0)/\(database)"
      // One has a sink that nobody answers for: neither a sweep nor a shutdown may mind, and its path is secret.
      if index == 1 { environment["SB_WORKER_WEBHOOK_URL"] = "http://127.0.0.1:9/\(Planted.mark)webhook" }
      environment["REDIS_URL"] = "redis://:\(Planted.redisPassword)@127.0.0.1:\(ports.1)/0"
      return Replica(index, executable: options.worker, environment: environment)
    }
  }

  private static func environment(_ options: FleetOptions) -> [String: String] {
    var environment = [
      "REDIS_NAMESPACE": namespace, "LOG_LEVEL": "debug", "SB_WORKER_LEASE": "\(options.lease.milliseconds)ms",
      "SB_WORKER_SHUTDOWN_GRACE": "\(grace.milliseconds)ms", "SB_DISCOVER_TARGETS_JSON": Targets.json,
      // The jobs of the chaos stay in the queue: nobody claims them.
      "SB_WORKER_DISCOVER_PILE_UP": "true",
    ]
    for sweep in Sweep.allCases {
      environment[sweep.intervalVariable] = "\((options.interval ?? sweep.interval).milliseconds)ms"
    }
    return environment.merging(options.settings) { $1 }
  }

  /// The checkout that the harness was built from.
  static let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  /// Starts every replica and waits until all are ready.
  func startFleet() async throws {
    try await monitor.waitUntilRecording()
    for replica in replicas { try await replica.start() }
    for replica in replicas { try await replica.waitUntilReady(within: .seconds(20)) }
  }

  /// What psql prints for `sql`, rows as lines and columns separated by `|`.
  @discardableResult
  func sql(_ text: String) async throws -> String {
    try await postgres.psql(text, database: database)
  }

  /// Ends every replica that still runs, with SIGTERM.
  func stopFleet() async throws {
    for replica in replicas where replica.process?.ending == nil {
      replica.process?.signal(SIGCONT)
      replica.end(by: SIGTERM)
    }
    for replica in replicas { try await replica.process?.waitForExit(within: Self.grace + .seconds(10)) }
  }

  /// Writes what the workers logged, one file a process, and every command of Redis.
  func copyLogs(to directory: URL) throws {
    for replica in replicas {
      for (number, life) in replica.lives.enumerated() {
        let file = directory.appendingPathComponent("replica-\(replica.index)-\(number).log")
        try Data(life.process.everything.utf8).write(to: file)
      }
    }
    let commands = monitor.lines.joined(separator: "\n") + "\n"
    try Data(commands.utf8).write(to: directory.appendingPathComponent("redis.log"))
  }

  /// Copies PostgreSQL's log of statements.
  func copyStatementLog(to directory: URL) throws -> [URL] {
    let source = URL(fileURLWithPath: postgres.socketDirectory).appendingPathComponent("data/log")
    let names = try FileManager.default.contentsOfDirectory(atPath: source.path).filter { $0.hasSuffix(".json") }
    return try names.sorted().map { name in
      let copy = directory.appendingPathComponent("postgres-\(name)")
      try FileManager.default.copyItem(at: source.appendingPathComponent(name), to: copy)
      return copy
    }
  }

  func stop() async {
    monitor.stop()
    links.stop()
    redis.stop()
    await postgres.stop()
  }
}
