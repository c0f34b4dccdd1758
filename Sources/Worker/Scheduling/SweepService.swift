// The part of the worker that sweeps and notifies: the sweepers' loops, the notifications, and their shutdown. It has
// no sockets: Service runs it on real servers, the simulator on modelled ones in virtual time.
// Invariant: when `attend` returns, no sweeper's loop is left running.

import Coordination
import Logging
import Reactor

/// All sweepers of one process.
@EventLoop
package final class SweepService {
  /// The loops of sweepers that are on, or have been.
  private(set) var loops: [SweeperLoop] = []
  let notifier: Notifier
  let shutdown: Shutdown
  private let redis: any RedisScripts
  private let pool: any SweepPool
  private let clock: LoopClock
  private let random: Random
  private let replica: String
  private let registry: MetricsRegistry
  private let logger: Logger
  private let runsOnStart: Bool
  private let redisClock = RedisClock()
  private let standbyReports = StandbyReports()
  private let triggers = TriggerBroadcast()
  private let schema: SchemaCheck
  private let replicas: Gauge
  /// The gauges of sweepers that have always been off.
  private var enabled: [String: Gauge] = [:]
  /// Fires when a loop was added that `attend` has yet to start.
  private let changed = WakeUp()

  /// - Parameter replica: this replica's name in the history; in Kubernetes the pod's.
  init(
    _ sweepers: [Sweeper], _ settings: Settings, redis: any RedisScripts, pool: any SweepPool, notifier: Notifier,
    shutdown: Shutdown, clock: LoopClock, random: Random, replica: String, registry: MetricsRegistry, logger: Logger
  ) {
    (self.redis, self.pool, self.notifier, self.shutdown) = (redis, pool, notifier, shutdown)
    (self.clock, self.random, self.replica) = (clock, random, replica)
    (self.registry, self.logger) = (registry, logger)
    runsOnStart = settings[.runOnStart]
    schema = SchemaCheck(sweepers.filter { $0.interval != nil }, pool: pool, clock: clock)
    replicas = registry.gauge(
      "worker_replicas", help: "Replicas that share this Redis and namespace, as last reported by Redis; 0 if unknown.")
    for sweeper in sweepers {
      if let coordinator = coordinator(of: sweeper, settings) {
        loops.append(loop(of: sweeper, coordinator, settings))
      } else {
        enabled[sweeper.name] = TaskMetrics.enabled(task: sweeper.name, registry: registry)
      }
    }
    assignReplicaGauge()
  }

  /// Uses new settings from now on. A run under way finishes with the old ones.
  ///
  /// - Parameter sweepers: the same, in the same order.
  func change(to sweepers: [Sweeper], _ settings: Settings) {
    schema.require(sweepers.filter { $0.interval != nil })
    for sweeper in sweepers {
      let coordinator = coordinator(of: sweeper, settings)
      if let loop = loops.first(where: { $0.sweeper.name == sweeper.name }) {
        loop.change(to: coordinator, runner(of: sweeper, coordinator ?? loop.coordinator, settings))
      } else if let coordinator {
        loops.append(loop(of: sweeper, coordinator, settings))
        changed.fire()
      }
    }
    assignReplicaGauge()
  }

  /// Nil if the sweeper is off.
  private func coordinator(of sweeper: Sweeper, _ settings: Settings) -> Coordinator? {
    sweeper.interval.map { interval in
      Coordinator(
        redis: redis, redisClock: redis.isOneServer ? redisClock : RedisClock(), clock: clock,
        namespace: settings[.redisNamespace],
        sweeper: sweeper.name, interval: interval, leaseDuration: settings[.lease], replica: replica,
        settings: settings.digest)
    }
  }

  private func runner(of sweeper: Sweeper, _ coordinator: Coordinator, _ settings: Settings) -> SweepRunner {
    SweepRunner(
      sweeper: sweeper, coordinator: coordinator, pool: pool, clock: clock, shutdown: shutdown,
      schema: schema, namespace: settings[.redisNamespace], allowsRowSecurity: settings[.allowRowSecurity],
      brakes: BrakeSettings(settings), standbyReports: standbyReports,
      locks: DiscoverLocks(redis: redis, clock: clock, random: random, namespace: settings[.redisNamespace]),
      logger: logger)
  }

  private func loop(of sweeper: Sweeper, _ coordinator: Coordinator, _ settings: Settings) -> SweeperLoop {
    SweeperLoop(
      sweeper: sweeper, coordinator: coordinator, runner: runner(of: sweeper, coordinator, settings), redis: redis,
      clock: clock, random: random, shutdown: shutdown, triggers: triggers,
      metrics: TaskMetrics(
        task: sweeper.name, every: sweeper.interval ?? .zero, watchesQueue: sweeper.work.watchesQueue,
        enabled: enabled.removeValue(forKey: sweeper.name), registry: registry),
      receiver: notifier, logger: logger)
  }

  /// Gives the gauge of replicas to the sweeper with the shortest interval, which is the first to notice that a replica
  /// is gone.
  private func assignReplicaGauge() {
    let intervals = loops.map { $0.latestSweeper.interval ?? .seconds(Int64.max) }
    let shortest = intervals.indices.min { intervals[$0] < intervals[$1] }
    for (index, loop) in loops.enumerated() { loop.replicas = index == shortest ? replicas : nil }
  }

  /// What the schema lacks, by the names of the sweepers that are off because of it.
  var lacks: [String: String] {
    var lacks: [String: String] = [:]
    for loop in loops where loop.sweeper.interval != nil { lacks[loop.sweeper.name] = loop.missing }
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
    // Loops without a result were cut short by the shutdown.
    return results.map { $0 ?? .drained() }
  }

  private enum Ended<Outcome: Sendable>: Sendable {
    case loop(Int, Outcome)
    case shutdown
    /// The wait for a loop to start.
    case wait
  }

  /// Runs `body` on every sweeper's loop, including loops that are added meanwhile. Cancels those that still run when
  /// the shutdown is over.
  ///
  /// - Returns: what each loop's `body` returned.
  private func attend<Outcome: Sendable>(
    _ body: @escaping @EventLoop @Sendable (SweeperLoop) async -> Outcome
  ) async -> [Outcome?] {
    await withTaskGroup(of: Ended<Outcome>.self) { group in
      for (index, loop) in loops.enumerated() { group.addTask { .loop(index, await body(loop)) } }
      group.addTask {
        await self.untilOver()
        return .shutdown
      }
      group.addTask { await self.untilChanged() }
      var outcomes = [Outcome?](repeating: nil, count: loops.count)
      var running = loops.count
      for await ended in group {
        switch ended {
        case .loop(let index, let outcome):
          outcomes[index] = outcome
          running -= 1
          guard running == 0 else { break }
          shutdown.begin()
          group.cancelAll()
        case .shutdown: group.cancelAll()
        case .wait where group.isCancelled: break
        case .wait:
          for index in outcomes.count..<loops.count {
            let loop = loops[index]
            group.addTask { .loop(index, await body(loop)) }
            outcomes.append(nil)
            running += 1
          }
          group.addTask { await self.untilChanged() }
        }
      }
      return outcomes
    }
  }

  private func untilChanged<Outcome: Sendable>() async -> Ended<Outcome> {
    do {
      try await clock.sleep(until: .never, orUntil: changed)
    } catch {
      // Cancelled: the shutdown is over, or all loops have ended.
    }
    return .wait
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
  /// A service on any servers, for a simulation.
  ///
  /// - Parameters:
  ///   - settings: as from `Settings.load`. Their URLs are not used.
  ///   - sweepers: a part of `Sweepers.all`.
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

  /// A signal requests the shutdown.
  package func requestShutdown() {
    shutdown.request()
  }
}
