// The part of the worker that sweeps and notifies: the sweepers' loops, the notifications, and how both end. It
// knows no sockets: Service runs it on real servers, the simulator on modelled ones, in virtual time.
// Invariant: when `attend` returns, no sweeper's loop is left running.

import Coordination
import Logging
import Reactor

/// All sweepers of one process.
@EventLoop
package final class SweepService {
  let loops: [SweeperLoop]
  let notifier: Notifier
  let shutdown: Shutdown
  private let runsOnStart: Bool

  /// - Parameter replica: for people who read the history; in Kubernetes the pod.
  init(
    _ sweepers: [Sweeper], _ settings: Settings, redis: any RedisScripts, pool: any SweepPool, notifier: Notifier,
    shutdown: Shutdown, clock: LoopClock, random: Random, replica: String, registry: MetricsRegistry, logger: Logger
  ) {
    self.notifier = notifier
    self.shutdown = shutdown
    runsOnStart = settings[.runOnStart]
    let redisClock = RedisClock()
    let standbyNotes = StandbyNotes()
    let triggers = TriggerBoard()
    let schema = SchemaLook(sweepers.filter { $0.interval != nil }, pool: pool, clock: clock)
    let replicas = registry.gauge(
      "worker_replicas", help: "Replicas that share this Redis and namespace, as last reported by Redis; 0 if unknown.")
    // The one that asks most often is the first to notice a replica that has gone.
    let mostFrequent = sweepers.filter { $0.interval != nil }.min { $0.interval ?? .zero < $1.interval ?? .zero }?.name
    loops = sweepers.compactMap { sweeper in
      guard let interval = sweeper.interval else {
        TaskMetrics.enabled(task: sweeper.name, registry: registry)
        return nil
      }
      let coordinator = Coordinator(
        redis: redis, redisClock: redisClock, clock: clock, namespace: settings[.redisNamespace],
        sweeper: sweeper.name, interval: interval, leaseDuration: settings[.lease], replica: replica,
        settings: settings.digest)
      let runner = SweepRunner(
        sweeper: sweeper, coordinator: coordinator, pool: pool, clock: clock, shutdown: shutdown,
        schema: schema, namespace: settings[.redisNamespace], allowsRowSecurity: settings[.allowRowSecurity],
        brakes: BrakeSettings(settings), standbyNotes: standbyNotes,
        locks: DiscoverLocks(redis: redis, clock: clock, random: random, namespace: settings[.redisNamespace]),
        logger: logger)
      return SweeperLoop(
        sweeper: sweeper, coordinator: coordinator, runner: runner, redis: redis, clock: clock, random: random,
        shutdown: shutdown, triggers: triggers,
        metrics: TaskMetrics(
          task: sweeper.name, every: interval, watchesQueue: sweeper.work.watchesQueue, registry: registry),
        replicas: sweeper.name == mostFrequent ? replicas : nil, sink: notifier, logger: logger)
    }
  }

  /// What the schema lacks, by the names of the sweepers that are off for it.
  var lacks: [String: String] {
    var lacks: [String: String] = [:]
    for loop in loops { lacks[loop.sweeper.name] = loop.lack }
    return lacks
  }

  /// Attends every sweeper's slots until the shutdown.
  func attendSlots() async {
    let runsOnStart = runsOnStart
    _ = await attend { await $0.attendSlots(runOnStart: runsOnStart) }
  }

  /// Attends every sweeper once.
  ///
  /// - Returns: each sweeper's result; nil for one that was not due, paused, or run by another replica.
  func attendOnce(_ mode: TakeMode) async -> [RunResult?] {
    let results = await attend { await $0.attendOnce(mode) }
    // The shutdown cut short those that returned nothing.
    return results.map { $0 ?? .drained() }
  }

  /// Has every sweeper's loop do `body`, and ends those that still do when the shutdown is over.
  ///
  /// - Returns: what each loop's `body` returned.
  private func attend<Outcome: Sendable>(
    _ body: @escaping @EventLoop @Sendable (SweeperLoop) async -> Outcome
  ) async -> [Outcome?] {
    await withTaskGroup(of: (Int, Outcome)?.self) { group in
      for (index, loop) in loops.enumerated() { group.addTask { (index, await body(loop)) } }
      group.addTask {
        await self.untilOver()
        return nil
      }
      var outcomes = [Outcome?](repeating: nil, count: loops.count)
      var running = loops.count
      for await ended in group {
        if let (index, outcome) = ended {
          outcomes[index] = outcome
          running -= 1
        }
        if running == 0 { shutdown.begin() }
        if ended == nil || running == 0 { group.cancelAll() }
      }
      return outcomes
    }
  }

  private func untilOver() async {
    do {
      try await shutdown.run()
    } catch {
      // Cancelled: all loops ended in time.
    }
  }
}

// MARK: - Without sockets

extension SweepService {
  /// The same on any servers, for a simulation.
  ///
  /// - Parameters:
  ///   - settings: as `Settings.load` has them; their URLs lead nowhere.
  ///   - sweepers: those of `Sweepers.all` that it is to have.
  package convenience init(
    _ settings: Settings, sweepers: [Sweeper], redis: any RedisScripts, pool: any SweepPool, sender: any EventSender,
    clock: LoopClock, random: Random, replica: String, registry: MetricsRegistry, logger: Logger
  ) {
    let origin = NotificationOrigin(replica: replica, namespace: settings[.redisNamespace])
    let notifications = Notifications(sinks: SinkSet(settings, origin: origin).sinks, client: sender)
    self.init(
      sweepers, settings, redis: redis, pool: pool,
      notifier: Notifier(notifications, clock: clock, random: random, registry: registry, logger: logger),
      shutdown: Shutdown(grace: settings[.shutdownGrace], clock: clock), clock: clock, random: random,
      replica: replica, registry: registry, logger: logger)
  }

  /// Runs until `requestShutdown`, or until it is cancelled.
  package func run() async {
    await withTaskGroup { group in
      group.addTask { await self.notifier.run() }
      await attendSlots()
      await notifier.finish(by: shutdown.deadline)
      group.cancelAll()
    }
  }

  /// How many slots of the sweeper at this index were counted with this outcome.
  package func count(_ outcome: SlotOutcome, sweeper: Int) -> UInt64 {
    loops[sweeper].metrics.count(outcome)
  }

  /// A signal asks to end.
  package func requestShutdown() {
    shutdown.request()
  }
}
