// One virtual run: sets up servers, replicas and faults from a seed, lets time pass, and reports the judge's findings.
// Invariant: the same seed, hours and mutation give the same report and trace. Used by scripts/simulate.

import Reactor

/// The result of one seed.
package struct SimulationReport: Sendable {
  package let seed: UInt64
  package let virtualSeconds: Double
  package let events: Int
  package let runs: Int
  package let scripts: Int
  package let faults: [String: Int]
  /// Average requests of a replica in a slot, over calm times without long runs.
  package let calmLoad: Double?
  /// Each with its virtual time.
  package let violations: [String]
}

@EventLoop
package enum Simulation {
  /// The default virtual time of a seed.
  package nonisolated static let defaultHours = 0.5

  /// One in this many seeds runs later sweepers, in turn those of reveal sessions and those of connections.
  private nonisolated static let laterShare: UInt64 = 4

  /// Runs one seed. One at a time: there is one loop, and so one virtual time.
  ///
  /// - Parameters:
  ///   - calmFleet: number of replicas in a fleet with little to do and no faults.
  ///   - trace: called with a line for each event.
  package static func run(
    seed: UInt64, hours: Double = defaultHours, mutation: Mutation? = nil, calmFleet: Int? = nil,
    trace: ((String) -> Void)? = nil
  ) async -> SimulationReport {
    let world = World(seed: seed, trace: trace)
    let later: Scenario.Later? =
      if calmFleet == nil, seed % laterShare == 0 {
        seed % (2 * laterShare) == 0 ? .reveals : .connections
      } else {
        nil
      }
    let scenario = Scenario(world, hours: hours, later: later, calmFleet: calmFleet, mutation)
    let judge = Judge(world, scenario)
    let redis = RedisServer(world, scenario, judge, mutation)
    judge.redisTimeNow = { [unowned redis] in redis.time }
    let postgres = PostgresServer(world, scenario, redis, judge, mutation)
    let replicas = (0..<scenario.replicas).map { Replica($0, world, scenario, redis, postgres, judge, mutation) }
    let faults = Faults(world, scenario, redis, postgres, replicas, judge)
    world.note("seed \(seed): \(scenario.description)")
    for replica in replicas { world.after(world.any(0...5_000_000)) { replica.start() } }
    faults.plan()
    judge.watchRareSweeper(redis)
    postgres.reveals?.live()
    postgres.connections?.live()
    postgres.secrets?.live()
    await withTaskGroup { group in
      for replica in replicas { group.addTask { await replica.run() } }
      await world.run(until: scenario.length)
      group.cancelAll()
    }
    judge.check(redis)
    postgres.reveals?.checkOpen()
    postgres.connections?.checkDue()
    world.time.clear()
    return SimulationReport(
      seed: seed, virtualSeconds: Double(scenario.length) / 1_000_000, events: world.eventCount, runs: judge.runs,
      scripts: redis.scripts, faults: faults.counts,
      calmLoad: scenario.isCalm ? Double(judge.takes) / scenario.replicaSlots : nil,
      violations: judge.violations.map { "\(World.seconds($0.time)) \($0.text)" })
  }
}
