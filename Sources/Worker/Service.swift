// The worker as a whole: makes its parts, runs them as children of one task, and takes them down in order.
// Invariant: nothing outlives `run`; sweeps stop first, then notifications, the probes, the servers' connections last.

import Coordination
import Logging
import Reactor

/// One worker process.
@EventLoop
final class Service {
  /// The exit status after a second signal, as a shell reports the first kind of termination signal.
  private static let killedStatus: Int32 = 128 + 15
  /// The idle time after which a second connection to PostgreSQL is closed. Sweepers rarely overlap except at boot, and
  /// a connection costs the server a process.
  private static let idleConnectionTimeout = Duration.seconds(10)
  /// The time by which the first sweeps are over: on a new Redis they wait for a lease, 15 s by default.
  private static let startLength = Duration.seconds(30)
  /// How long `run --once` waits for PostgreSQL's first answer.
  private static let onceConnectLimit = Duration.seconds(10)
  /// How long the host name of the listen address may take to resolve.
  private static let listenNameLimit = Duration.seconds(5)
  let settings: Settings
  private let logger: Logger
  let clock: LoopClock
  let pool: PostgresPool
  let redis: any RedisBackend
  private let shutdown: Shutdown
  private let readiness: Readiness
  private let registry = MetricsRegistry()
  private let processMetrics: ProcessMetrics
  let notifier: Notifier
  private let postgresOutages: OutageReporter
  private let redisOutages: OutageReporter
  let sweeping: SweepService
  let reloader: Reloader
  let readEnvironment: @Sendable () -> [String: String]
  let log: LogOutput
  private let managerReport: ManagerReport
  private let sandbox: Sandbox
  /// Whether it was not ready at boot, and has not been since.
  private var isReadyAwaited = false
  /// Stored here because a local variable's watchers, and with them signal handling, end after its last use.
  private var signals: [SignalWatcher] = []

  init(
    _ settings: Settings, notifications: Notifications, sandbox: Sandbox, clock: LoopClock, log: LogOutput,
    logger: Logger, readEnvironment: @escaping @Sendable () -> [String: String]
  ) {
    self.settings = settings
    self.clock = clock
    (self.logger, self.log, self.readEnvironment) = (logger, log, readEnvironment)
    let postgres = settings.workerDatabase
    pool = PostgresPool(
      postgres, maximumConnections: postgres.maximumConnections ?? settings[.databaseMaxConnections],
      connectionLifetime: postgres.connectionLifetime ?? settings[.databaseConnectionLifetime],
      idleTimeout: Self.idleConnectionTimeout, connectTimeout: settings[.databaseConnectTimeout], clock: clock)
    var redisConfiguration = settings[.redisURL]
    redisConfiguration.dialTimeout = redisConfiguration.dialTimeout ?? settings[.redisDialTimeout]
    let namespace = settings[.redisNamespace]
    let sweepers = Sweepers.declared(settings)
    redis = redisBackend(
      redisConfiguration,
      checks: (
        CoordinationScripts.healthCheck(namespace: namespace),
        sweepers.filter { $0.interval != nil }.map {
          CoordinationScripts.healthCheck(namespace: namespace, inSlotOf: $0.name)
        }
      ), clock: clock)
    shutdown = Shutdown(grace: settings[.shutdownGrace], clock: clock)
    readiness = Readiness(pool: pool, redis: redis, clock: clock, shutdown: shutdown)
    self.sandbox = sandbox
    managerReport = ManagerReport(ServiceManager(environment: readEnvironment()), clock: clock)
    reloader = Reloader(
      settings, readEnvironment: readEnvironment, manager: managerReport, shutdown: shutdown, clock: clock,
      logger: logger)
    processMetrics = ProcessMetrics(clock: clock)
    processMetrics.register(in: registry, namespace: settings[.redisNamespace])
    ProcessMetrics.registerLoop(in: registry)
    ServerMetrics.register(pool, redis, in: registry)
    notifier = Notifier(notifications, clock: clock, random: .system, registry: registry, logger: logger)
    let claim = OutageClaim(
      redis: redis, clock: clock, namespace: settings[.redisNamespace], component: "postgres")
    postgresOutages = OutageReporter(
      component: "postgres", server: "PostgreSQL", reportAfter: settings[.outageAfter], claim: claim, sink: notifier,
      clock: clock, random: .system)
    redisOutages = OutageReporter(
      component: "redis", server: "Redis", reportAfter: settings[.outageAfter], claim: nil, sink: notifier,
      clock: clock, random: .system)
    sweeping = SweepService(
      sweepers, settings, redis: redis, pool: pool, notifier: notifier, shutdown: shutdown,
      clock: clock, random: .system, replica: settings.replicaName, registry: registry, logger: logger)
  }

  /// Runs until a termination signal, and returns the process's exit status.
  func run() async -> Int32 {
    watchSignals()
    let routes = ProbeRoutes(readiness: readiness, metrics: registry, status: statusRoutes())
    let server = HTTPServer(clock: clock) { request in routes.answer(request) }
    server.onAcceptFailure = { [logger] reason in
      logger.error("cannot accept connections: probes and metrics go unanswered", metadata: ["error": "\(reason)"])
    }
    do {
      let limit = clock.now.advanced(by: Self.listenNameLimit)
      try server.listen(on: try await settings[.localAddress].resolved(by: limit, on: clock))
    } catch {
      logger.error(
        "cannot serve probes",
        metadata: ["variable": "\(Setting.localAddress.name)", "error": "\(Setting.localAddress.name): \(error)"])
      return ConfigurationFaults.exitStatus
    }
    // Everything is loaded, the listener is open, and no server has been contacted.
    let confinement = sandbox.enter()
    logger.info("starting", metadata: StartingLine.fields(settings, sandbox: confinement))
    watchServers()
    prepareReloads()
    await withTaskGroup { group in
      group.addTask { await self.redis.run() }
      group.addTask { await self.pool.run() }
      group.addTask { await server.run() }
      group.addTask { await self.notifier.run() }
      group.addTask { await self.postgresOutages.run() }
      group.addTask { await self.redisOutages.run() }
      group.addTask { await self.managerReport.run() }
      // Check readiness first, which takes at most 2 s. A connection's handshake costs more than a run with nothing to
      // do: concurrent sweeps would each open one; later ones reuse the check's.
      await boot()
      group.addTask { await self.giveBackStart() }
      group.addTask { await self.reloader.run() }
      await sweeping.attendSlots()
      endedSweeping()
      await notifier.finish(by: shutdown.deadline)
      await server.drain(within: shutdown.isOver ? .zero : .seconds(1))
      group.cancelAll()
    }
    logger.info("shutdown complete")
    return 0
  }

  private func statusRoutes() -> StatusRoutes? {
    guard settings[.statusPage] else { return nil }
    let (pool, sweeping, reloader) = (pool, sweeping, reloader)
    return StatusRoutes(
      { reloader.settings }, redis: redis, postgresOutage: { pool.outage }, lacks: { sweeping.lacks }, clock: clock)
  }

  /// Attends every sweeper once, and returns the process's exit status: 1 if a run failed or was cut short by a signal,
  /// or if a server did not answer, whether anything was due or not.
  func runOnce(_ options: RunOptions) async -> Int32 {
    watchSignals()
    _ = sandbox.enter()
    let (results, fault) = await withTaskGroup { group in
      group.addTask { await self.redis.run() }
      group.addTask { await self.pool.run() }
      group.addTask { await self.notifier.run() }
      let mode: TakeMode = options.force ? .force : .due
      let notice = SettlingNotice(
        redis: redis, namespace: settings[.redisNamespace], lease: settings[.lease],
        sweepers: sweeping.loops.map(\.sweeper.name), clock: clock, logger: logger)
      group.addTask { await notice.report() }
      let fault = await postgresFault()
      if let fault { logger.error("PostgreSQL does not answer", metadata: ["error": "\(fault)"]) }
      let results = await sweeping.attendOnce(mode)
      endedSweeping()
      await notifier.finish(by: shutdown.deadline)
      group.cancelAll()
      return (results: results, fault: fault)
    }
    if let format = options.output { OnceTable.show(rows(of: results), as: format, clock: clock) }
    let undone = results.count { $0?.isUndone ?? false } + (fault == nil ? 0 : 1)
    if shutdown.isRequested, undone > 0 { logger.warning("interrupted by a signal before all sweepers had run") }
    return undone > 0 ? 1 : 0
  }

  /// Every sweeper, on or off, in declaration order.
  private func rows(of results: [RunResult?]) -> [OnceTable.Row] {
    var rows = zip(sweeping.loops, results).map { loop, result in
      OnceTable.Row(sweeper: loop.sweeper.name, result: result, skip: loop.onceSkip)
    }
    for absent in Sweepers.absent(settings) {
      rows.append(OnceTable.Row(sweeper: absent.name, result: nil, absence: absent.reason))
    }
    let names = Sweepers.names
    return names.compactMap { name in rows.first { $0.sweeper == name } }
  }

  /// Why PostgreSQL does not answer, or nil; checked until a termination signal. If nothing is due, nothing else would
  /// notice.
  private func postgresFault() async -> String? {
    await withTaskGroup(of: String?.self) { group in
      group.addTask { await self.pingFault() }
      group.addTask {
        do {
          try await self.clock.sleep(until: .never, orUntil: self.shutdown.draining)
        } catch {
          // The answer came first.
        }
        return nil
      }
      defer { group.cancelAll() }
      return await group.next() ?? nil
    }
  }

  private func pingFault() async -> String? {
    do {
      try await pool.ping(by: clock.now.advanced(by: Self.onceConnectLimit))
      return nil
    } catch {
      return (error as? PostgresError)?.publicReason ?? "cancelled"
    }
  }

  /// Frees memory that only startup needed: once after boot, and once more after the first sweeps, which open their own
  /// connections.
  private func giveBackStart() async {
    LoadedCode.giveBackPages()
    do {
      try await clock.sleep(until: clock.now.advanced(by: Self.startLength), orUntil: shutdown.draining)
    } catch {
      // Cancelled: freeing memory no longer matters.
      return
    }
    LoadedCode.giveBackPages()
  }

  private func boot() async {
    let state = await readiness.boot()
    switch state {
    case .ready: sayReady()
    case .booting, .draining: break
    case .notReady(let failing):
      logger.warning("not ready", metadata: ["failing": .dictionary(failing.mapValues { "\($0)" })])
      isReadyAwaited = true
      reportServers()
    }
  }

  /// Once per process, when it is first ready.
  private func sayReady() {
    isReadyAwaited = false
    logger.info("worker ready")
    managerReport.becameReady()
  }

  /// Does not wait for servers that have not answered a cancellation by the end of the grace.
  private func endedSweeping() {
    if shutdown.isOver { pool.waitNoLonger() }
  }

  private func watchSignals() {
    let ask = { @EventLoop [weak self] in
      guard let self else { return }
      if self.shutdown.isDraining { HostProcess.exit(Self.killedStatus) }
      self.logger.info("shutting down: signal received")
      self.managerReport.stops()
      self.shutdown.request()
    }
    signals = [
      SignalWatcher(.terminate, callback: ask),
      SignalWatcher(.interrupt, callback: ask),
      // A closed terminal does not end a service.
      SignalWatcher(.hangUp) { [weak self] in self?.reloader.request() },
    ]
    guard HostProcess.isFirst else { return }
    signals.append(SignalWatcher(.childEnded) { HostProcess.reapChildren() })
    // Those that ended before the watcher existed.
    HostProcess.reapChildren()
  }

  private func watchServers() {
    redis.onStateChange = { [weak self] availability in
      guard let self else { return }
      switch availability {
      case .ready: self.serverChanged("Redis", outage: nil, self.redisOutages)
      case .unavailable(let reason): self.serverChanged("Redis", outage: reason, self.redisOutages)
      }
    }
    redis.onIdleEnd = { [weak self] reason in
      self?.logger.debug("idle Redis connection closed", metadata: ["error": "\(reason)"])
    }
    pool.onStateChange = { [weak self] availability in
      guard let self else { return }
      switch availability {
      case .ready: self.serverChanged("PostgreSQL", outage: nil, self.postgresOutages)
      case .unavailable(let reason): self.serverChanged("PostgreSQL", outage: reason, self.postgresOutages)
      }
    }
  }

  /// A server became ready or unavailable: once per change, not per attempt.
  private func serverChanged(_ server: String, outage: String?, _ outages: OutageReporter) {
    if let outage {
      logger.warning("\(server) is unavailable", metadata: ["error": "\(outage)"])
    } else {
      logger.info("\(server) is ready")
      Reloader.Server(rawValue: server).map(reloader.recovered)
      if isReadyAwaited, pool.outage == nil, redis.outage == nil { sayReady() }
    }
    if readiness.hasBooted { reportServers() }
    outages.changed(to: outage)
  }

  /// Tells the service manager which servers are unavailable, if any. The worker may have been ready before.
  private func reportServers() {
    var failing: [(server: String, reason: String)] = []
    if let outage = pool.outage { failing.append(("PostgreSQL", outage)) }
    if let outage = redis.outage { failing.append(("Redis", outage)) }
    if !failing.isEmpty {
      managerReport.becameUnready(failing)
    } else if !isReadyAwaited {
      managerReport.becameReady()
    }
  }
}
