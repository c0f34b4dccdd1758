// A control plane's database for one test: the development schema in its own database, as a rule on the shared server.

import Coordination
import Foundation
import Reactor
import TestSupport

@testable import Worker

/// A fresh database with the control plane's tables.
struct ControlPlane: Sendable {
  let url: String
  /// The role that the URL logs in as.
  var user = PrivatePostgres.user
  let name: String
  /// The server that `sql` asks; nil for the shared one.
  var server: PrivatePostgres?

  /// - Parameters:
  ///   - encoding: of the database.
  ///   - migration: the tables' age.
  ///   - own: a server of the test's own; nil for the shared one.
  static func fresh(
    encoding: String = "UTF8", at migration: DevelopmentSchema = .newest, on own: PrivatePostgres? = nil
  ) async throws -> ControlPlane {
    let shared = try await PrivatePostgres.shared
    let url = try await (own ?? shared).freshDatabase(encoding: encoding)
    let plane = ControlPlane(url: url, name: String(url[url.index(after: url.lastIndex(of: "/")!)...]), server: own)
    _ = try await plane.sql(migration.sql)
    return plane
  }

  /// The development schema, whose tables are made in the first schema of the search path.
  static func schema() throws -> String {
    try DevelopmentSchema.newest.sql
  }

  /// What psql prints, tuples only.
  @discardableResult
  func sql(_ text: String) async throws -> String {
    let shared = try await PrivatePostgres.shared
    return try await (server ?? shared).psql(text, database: name).trimmingCharacters(in: .whitespacesAndNewlines)
  }

  /// The same from within the loop, which waits for it: nothing else happens meanwhile.
  func sqlAtOnce(_ text: String) throws -> String {
    try PrivatePostgres.psqlAtOnce(text, through: url)
  }

  /// Sets what each new session of the database begins with.
  func set(_ setting: String, _ value: String, isList: Bool = false) async throws {
    let text = isList ? value : "'\(value.replacing("'", with: "''"))'"
    try await PrivatePostgres.shared.psql("ALTER DATABASE \(name) SET \(setting) = \(text)")
  }

  /// The same database for a new role that has these rights and no others.
  func limited(_ rights: String...) async throws -> ControlPlane { try await limited(rights, query: "") }

  /// The same, with `query` in its URL; `$ROLE` is replaced by the role's name.
  func limited(_ rights: [String], query: String) async throws -> ControlPlane {
    let server = try await PrivatePostgres.shared
    let role = "limited_\(UInt32.random(in: 0...(.max)))"
    try await sql((["CREATE ROLE \(role) LOGIN"] + rights.map { "GRANT \($0) TO \(role)" }).joined(separator: ";"))
    let query = query.replacing("$ROLE", with: role)
    return ControlPlane(url: server.url(user: role, database: name, query: query), user: role, name: name)
  }

  /// A new role with these rights that the other one may switch to.
  func group(of other: ControlPlane, _ rights: String) async throws -> String {
    let role = "group_\(UInt32.random(in: 0...(.max)))"
    try await sql("CREATE ROLE \(role); GRANT \(rights) TO \(role); GRANT \(role) TO \(other.user)")
    return role
  }

  /// Settings with this database, and what a test sets besides.
  func settings(_ more: [String: String] = [:]) throws -> Settings {
    let base = ["DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1"]
    return try Settings.load(environment: base.merging(more) { $1 }).settings
  }

  /// A pool of connections to it.
  @EventLoop
  func pool(connections: Int = 4) throws -> PostgresPool {
    PostgresPool(
      try PostgresConfiguration(url: url, applicationName: "test"), maximumConnections: connections,
      connectionLifetime: .seconds(1_800), clock: .system)
  }

  /// Runs one sweeper's work once, under a fresh lease. `tally` also has the work done before an error.
  @EventLoop
  func sweep(
    _ sweeper: Sweeper, lease: Duration = .seconds(15), epoch: Int64 = 7, slot: Int64 = 1_700_000_000_000,
    progress: String? = nil, noting tally: RunTally = RunTally(), allowsRowSecurity: Bool = false,
    acceptsAnyShare: Bool = false, brakes: BrakeSettings = BrakeSettings(),
    onCovered: @EventLoop ([String]) -> Void = { _ in }
  ) async throws -> SweepCount {
    let pool = try pool(connections: 2)
    let count = try await sweep(
      sweeper, through: pool, lease: lease, epoch: epoch, slot: slot, progress: progress, noting: tally,
      allowsRowSecurity: allowsRowSecurity, acceptsAnyShare: acceptsAnyShare, brakes: brakes, onCovered: onCovered)
    await pool.close()
    return count
  }

  static func runName(_ sweeper: String) -> RunName {
    RunName(namespace: "test", origin: "test", sweeper: sweeper)
  }

  /// The same over connections that outlast the run. `beforeBatch` is called before each batch, at least once.
  @EventLoop
  func sweep(
    _ sweeper: Sweeper, through pool: PostgresPool, lease: Duration = .seconds(15), epoch: Int64 = 7,
    slot: Int64 = 1_700_000_000_000, isForced: Bool = false, progress: String? = nil,
    noting tally: RunTally = RunTally(), knowing memory: TableMemory = TableMemory(), allowsRowSecurity: Bool = false,
    acceptsAnyShare: Bool = false, brakes: BrakeSettings = BrakeSettings(),
    reportStandbys: @escaping @EventLoop (StandbyReports.Change) -> Void = { _ in },
    beforeBatch: @escaping @EventLoop () -> Void = {},
    onCovered: @EventLoop ([String]) -> Void = { _ in }
  ) async throws -> SweepCount {
    let held = HeldLease(Lease(duration: lease, takenAt: LoopClock.system.now))
    let run = Run(
      epoch: epoch, slot: slot, nextSlot: slot + 60_000, isForced: isForced, failures: 0, origin: "o", token: "t",
      takenAt: LoopClock.system.now)
    try await pool.withConnection(by: held.lease.stopAt) { connection in
      let session = GuardedSession(
        connection: connection, held: held, clock: .system, name: Self.runName(sweeper.name), run: run,
        age: sweeper.work.age,
        isDraining: {
          beforeBatch()
          return false
        })
      switch sweeper.work {
      case .rows(let sweep):
        if !brakes.areOff {
          session.brakes = SweepBrakes(
            brakes, every: sweeper.interval ?? .seconds(60), clock: .system, draining: Latch(), report: reportStandbys)
        }
        try await RowSweepRun(
          sweep, in: session, knowing: memory, allowsRowSecurity: allowsRowSecurity,
          acceptsAnyShare: acceptsAnyShare, every: sweeper.interval ?? .seconds(60),
          progress: progress, noting: tally
        ).run()
      case .watch(let watch):
        try await watch.run(
          in: session, knowing: memory, allowsRowSecurity: allowsRowSecurity, progress: progress, noting: tally)
      case .discovery(let discovery):
        try await discovery.run(
          run, in: session, knowing: memory, allowsRowSecurity: allowsRowSecurity, noting: tally)
      case .connections(let discovery):
        try await withLocks { locks in
          try await ConnectionDiscoveryRun(
            discovery, in: session, knowing: ConnectionMemory(), locks: locks, allowsRowSecurity: allowsRowSecurity,
            noting: tally
          ).run(onCovered: onCovered)
        }
      }
    }
    return tally.count
  }

  /// The locks of this database's connections, in a namespace that no other database has.
  @EventLoop
  func withLocks(
    _ redis: PrivateRedis = .shared, _ body: @EventLoop (DiscoverLocks) async throws -> Void
  ) async throws {
    let client = RedisClient(try RedisConfiguration(url: redis.url), clock: .system)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await client.run() }
      try await body(DiscoverLocks(redis: client, clock: .system, random: .system, namespace: name))
      group.cancelAll()
    }
  }
}

/// SQL by which an empty table agents becomes a partitioned one.
enum PartitionedAgents {
  /// In three parts by id.
  static let byID =
    begin("HASH (id)") + (0..<3).map { part("\($0)", "WITH (MODULUS 3, REMAINDER \($0))") }.joined()
  /// In two parts by name: '0' and '1'.
  static let byName = begin("LIST (name)") + ["0", "1"].map { part($0, "IN ('\($0)')") }.joined()

  private static func begin(_ key: String) -> String {
    """
    ALTER TABLE agents RENAME TO plain;
    CREATE TABLE agents (LIKE plain INCLUDING DEFAULTS) PARTITION BY \(key);

    """
  }

  private static func part(_ number: String, _ values: String) -> String {
    "CREATE TABLE agents_\(number) PARTITION OF agents FOR VALUES \(values);\n"
  }
}
