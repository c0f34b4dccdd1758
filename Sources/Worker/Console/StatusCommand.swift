// The verb status: what the whole fleet does, from any host with the two URLs.
// Invariants: it changes nothing; each server has its own deadline, and one is reported even without the other.

import Coordination
import Reactor

extension Verb {
  static let status = Verb(
    name: "status",
    help: """
      Show the fleet: both servers; each sweeper with its last run, its state and its next run; failures, with their \
      start, number and cause; replicas, and the settings in which they differ; sessions that lock swept tables; \
      workers with another Redis namespace. Changes nothing.
      """,
    options: [.json],
    statuses: [
      ExitStatus(0, "Every sweeper is healthy."),
      ExitStatus(FleetStatus.unreachableStatus, "A server cannot be used: what is known without it was printed."),
      ExitStatus(
        FleetStatus.attentionStatus,
        "A sweeper fails, is paused, held up or attended by no replica, or replicas or namespaces differ."),
    ],
    perform: { arguments, context in
      let rows =
        [Setting.databaseURL.row, Setting.databaseConnectTimeout.row, Setting.logLevel.row] + RedisVisit.rows
        + SettingRow.sweepers
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      return EventLoop.run {
        let status = await StatusCommand(settings: settings, clock: context.clock).status()
        let shown = context.show(status.text(as: arguments.has(.json) ? .json : .text))
        return shown == 0 ? status.exitStatus : shown
      }
    })
}

/// Queries both servers.
@EventLoop
struct StatusCommand {
  /// Total time limit of one server, once connected.
  private static let limit = Duration.seconds(10)
  /// The minimum age at which a transaction that holds row locks is shown.
  var longTransaction = Duration.seconds(30)

  let settings: Settings
  let clock: LoopClock

  init(settings: Settings, clock: LoopClock, longTransaction: Duration = .seconds(30)) {
    self.settings = settings
    self.clock = clock
    self.longTransaction = longTransaction
  }

  /// What PostgreSQL knows.
  private struct Database: Sendable {
    var server = FleetStatus.Server(name: "PostgreSQL")
    var runs: [FleetStatus.Run]?
    var holders: [FleetStatus.Holder] = []
    var strangers: [FleetStatus.Stranger] = []
    var grant: String?
    /// What each sweeper's schema lacks.
    var lacks: [String: String] = [:]
  }

  func status() async -> FleetStatus {
    async let database = askPostgres()
    let (redis, time, records) = await askRedis()
    let known = await database
    var status = FleetStatus()
    status.servers = [known.server, redis]
    (status.runs, status.holders, status.grant) = (known.runs, known.holders, known.grant)
    status.strangers = known.strangers
    status.redisTime = time
    guard let time else { return status }
    let sweepers = SweeperStatus.all(
      records, at: time, settings, lacks: known.lacks, whose: "by this command's settings")
    let causes = known.server.fault == nil ? await causes(of: sweepers) : [:]
    status.sweepers = sweepers.map { sweeper in
      var sweeper = sweeper
      sweeper.notes += causes[sweeper.record.sweeper] ?? []
      return sweeper
    }
    return status
  }

  private func keys(_ sweeper: String) -> (lock: String, record: String, history: String) {
    CoordinationScripts.keys(namespace: settings[.redisNamespace], sweeper: sweeper)
  }

  // MARK: Redis

  private func askRedis() async -> (FleetStatus.Server, Int64?, [SweeperRecord]) {
    var server = FleetStatus.Server(name: "Redis", detail: settings[.redisURL].redactedURL)
    do {
      let (time, records, fault) = try await RedisVisit(settings, clock: clock).use { client in
        let (time, records) = try await client.readRecords(
          namespace: self.settings[.redisNamespace], clock: self.clock)
        return (time, records, await self.writeFault(client))
      }
      server.fault = fault
      return (server, time, records)
    } catch {
      server.fault = RedisVisit.reason(error)
      return (server, nil, [])
    }
  }

  /// Why Redis refuses writes; nil if it accepts them.
  private func writeFault(_ client: any RedisScripts) async -> String? {
    do {
      _ = try await client.evaluate(
        CoordinationScripts.writeTrial, keys: [keys(CoordinationScripts.writeTrialName).lock], arguments: [],
        isRepeatable: true, by: clock.now.advanced(by: Coordinator.commandLimit))
      return nil
    } catch {
      return RedisVisit.reason(error)
    }
  }

  // MARK: PostgreSQL

  /// - Throws: `PostgresError`.
  func connect() async throws -> ReadOnlySession {
    let limit = clock.now.advanced(by: settings[.databaseConnectTimeout])
    let connection = try await PostgresConnection.connect(settings[.databaseURL], by: limit, on: clock)
    return ReadOnlySession(
      connection: connection, clock: clock, deadline: clock.now.advanced(by: Self.limit),
      answerLimit: DeploymentCheck.answerLimit)
  }

  private func askPostgres() async -> Database {
    var database = Database()
    database.server.detail = settings[.databaseURL].redactedURL
    do {
      let session = try await connect()
      defer { session.connection.close() }
      try await readSessions(session, &database)
    } catch {
      database.server.fault = CertificateHint.added(to: (error as? PostgresError)?.publicReason ?? "\(error)")
    }
    return database
  }

  private func readSessions(_ session: ReadOnlySession, _ database: inout Database) async throws {
    let role = try await session.query(PostgresStatement(SessionSQL.role))
    if role[row: 0, column: 5] == "t" { database.server.fault = "a standby: nothing is swept through it" }
    let runs = try await session.query(PostgresStatement(StatusSQL.runs))
    database.runs = (0..<runs.rowCount).compactMap { Self.run(runs, $0) }
    let sweepers = Sweepers.declared(settings)
    var tables: [String] = []
    for sweeper in sweepers {
      let table = SweepNeeds(sweeper.work).table
      if !tables.contains(table) { tables.append(table) }
      guard !sweeper.requires.isEmpty else { continue }
      let lacks = try await session.query(SchemaCheck.statement(sweeper.requires))
      database.lacks[sweeper.name] = SchemaCheck.lacks(in: lacks, of: sweeper.requires).first?.lack
    }
    let holders = try await session.query(
      PostgresStatement(StatusSQL.holders, ["{\(tables.joined(separator: ","))}", "\(longTransaction.milliseconds)"]))
    let blocking = Set((database.runs ?? []).flatMap(\.blockers))
    database.holders = (0..<holders.rowCount).map { row in
      var holder = Self.holder(holders, row)
      // A prepared transaction has no session: pg_blocking_pids returns 0 for it.
      holder.isBlocking = holder.isOfTable || blocking.contains(holder.prepared == nil ? holder.process : "0")
      return holder
    }
    let name = WorkerSession.name(namespace: settings[.redisNamespace])
    let strangers = try await session.query(PostgresStatement(StatusSQL.strangers, [WorkerSession.prefix, name]))
    database.strangers = (0..<strangers.rowCount).map { row in
      FleetStatus.Stranger(
        process: strangers[row: row, column: 0] ?? "", user: strangers[row: row, column: 1],
        namespace: strangers[row: row, column: 2] ?? "", address: strangers[row: row, column: 3],
        sessions: strangers[row: row, column: 4].flatMap { Int($0) } ?? 0)
    }
    if database.holders.contains(where: { $0.state == nil && $0.prepared == nil }) {
      database.grant = "GRANT pg_read_all_stats TO \(SQLName.quoted(role[row: 0, column: 0] ?? ""));"
    }
  }

  private static func run(_ result: PostgresResult, _ row: Int) -> FleetStatus.Run? {
    let words = (result[row: row, column: 1] ?? "").split(separator: " ")
    guard words.count == 4 else { return nil }
    return FleetStatus.Run(
      process: result[row: row, column: 0] ?? "", sweeper: String(words[2]), epoch: String(words[3]),
      state: result[row: row, column: 2], seconds: result[row: row, column: 3].flatMap { Int($0) },
      blockers: (result[row: row, column: 4] ?? "").split(separator: " ").map(String.init))
  }

  private static func holder(_ result: PostgresResult, _ row: Int) -> FleetStatus.Holder {
    // Only letters: what follows may quote a row.
    let statement = (result[row: row, column: 6] ?? "").prefix { $0.isASCII && $0.isLetter }.prefix(20)
    return FleetStatus.Holder(
      process: result[row: row, column: 0] ?? "", prepared: result[row: row, column: 7],
      user: result[row: row, column: 1], state: result[row: row, column: 2],
      seconds: result[row: row, column: 3].flatMap { Int($0) }, relation: result[row: row, column: 4] ?? "",
      mode: result[row: row, column: 5] ?? "", statement: statement.isEmpty ? nil : statement.uppercased())
  }
}

/// The queries about sessions.
enum StatusSQL {
  /// Returns, for the sessions in which sweepers run, pid, application_name, state, age of the transaction in s, and
  /// the pids that it waits for.
  static let runs = CatalogSQL.qualified(
    """
    SELECT activity.pid, activity.application_name, activity.state,
           (extract(epoch FROM (clock_timestamp() - activity.xact_start)))::bigint,
           array_to_string(pg_blocking_pids(activity.pid), ' ')
      FROM "pg_catalog"."pg_stat_activity" AS activity
     WHERE (activity.datname = current_database()) AND (activity.state <> 'idle')
       AND starts_with(activity.application_name, 'sb-worker ')
     ORDER BY activity.pid LIMIT 20
    """)

  /// Parameters: the name prefix of workers' sessions, and the name of this fleet's. Returns, for the others, a pid,
  /// the user, the namespace, the client's address and the number of sessions of each of these. Between runs a worker
  /// keeps one session open.
  static let strangers = CatalogSQL.qualified(
    """
    SELECT min(activity.pid), activity.usename, substr(activity.application_name, (length($1::text) + 1)),
           host(activity.client_addr), count(*)
      FROM "pg_catalog"."pg_stat_activity" AS activity
     WHERE (activity.datname = current_database()) AND starts_with(activity.application_name, $1::text)
       AND (activity.application_name <> $2::text)
     GROUP BY activity.usename, activity.application_name, activity.client_addr
     ORDER BY 1 LIMIT 20
    """)

  /// Parameters: the tables' names, and the age in ms from which a transaction that may hold rows is shown. Answers
  /// pid, user, state, age of the transaction in s, table, lock mode, the statement's first word and the prepared
  /// transaction's gid of who locks one of the tables: of those that lock it as a whole whatever their age. State, age
  /// and statement are null, and the age counts as reached, where the role may not see them.
  static let holders = CatalogSQL.qualified(
    """
    SELECT lock.pid, coalesce(activity.usename, prepared.owner), min(activity.state),
           min((extract(epoch FROM (clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))))::bigint),
           class.relname, max(lock.mode), min(split_part(ltrim(activity.query), ' ', 1)), prepared.gid
      FROM "pg_catalog"."pg_locks" AS lock
      JOIN "pg_catalog"."pg_class" AS class ON (class.oid = lock.relation) AND (class.relname = ANY ($1::name[]))
      JOIN "pg_catalog"."pg_database" AS base ON (base.oid = lock.database) AND (base.datname = current_database())
      LEFT JOIN "pg_catalog"."pg_stat_activity" AS activity ON (activity.pid = lock.pid)
      \(PreparedTransaction.join)
     WHERE (lock.locktype = 'relation') AND lock.granted AND coalesce((lock.pid <> pg_backend_pid()), true)
       AND NOT starts_with(coalesce(activity.application_name, ''), 'sb-worker ')
       AND ((lock.mode = ANY ('{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::text[]))
         OR ((lock.mode = ANY ('{RowShareLock,RowExclusiveLock}'::text[]))
           AND coalesce(((clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))
             >= ($2::int * '1 millisecond'::interval)), true)))
     GROUP BY lock.pid, activity.usename, prepared.owner, prepared.gid, class.relname
     ORDER BY lock.pid LIMIT 20
    """)
}
