// One chaos run, from starting the servers to the verdict.
// Invariant: the evidence directory is kept, and named, only if a check failed or an option asks for it.

import Foundation
import Reactor
import TestSupport

/// Performs a run.
struct ChaosRun: Sendable {
  /// How long the fleet is watched at the end without faults.
  static let quietTime = Duration.seconds(10)

  let options: Options

  func perform() async throws -> [Check] {
    let plan = FaultPlan.draw(
      seed: options.seed, length: .seconds(options.seconds), replicas: options.replicas, kinds: options.kinds,
      links: options.redis == .single ? Link.allCases : [.postgres])
    var surroundings = options.drawsSurroundings ? Surroundings.draw(seed: options.seed) : .plain
    if options.redis == .cluster { surroundings.redisDelay = 0 }
    say("seed \(options.seed), \(options.seconds) s, \(options.replicas) replicas, \(plan.faults.count) faults")
    say("surroundings: \(surroundings.description)")
    if plan.faults.contains(where: { $0.kind == .fillDisk }), !options.ownsMounts, !options.showsPlan {
      say("no disk is filled: mounting needs root")
    }
    if options.showsPlan {
      say(plan.description)
      return []
    }
    let directory = options.evidence.appendingPathComponent("seed-\(options.seed)-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    let journal = Journal(directory.appendingPathComponent("plan.txt"), isVerbose: options.isVerbose)
    journal.write("seed \(options.seed)\nsurroundings: \(surroundings.description)\n\(plan.description)\n")
    let checks: [Check]
    do {
      checks = try await judge(plan, surroundings, journal, directory)
    } catch {
      say("the evidence so far is in \(directory.path)")
      throw error
    }
    for check in checks {
      say(check)
      journal.write("\(check)")
    }
    if options.keeps || checks.contains(where: { !$0.isOK }) {
      say("the evidence is in \(directory.path)")
    } else {
      try FileManager.default.removeItem(at: directory)
    }
    return checks
  }

  private func judge(
    _ plan: FaultPlan, _ surroundings: Surroundings, _ journal: Journal, _ directory: URL
  ) async throws -> [Check] {
    let cluster = try await Cluster.start(
      FleetOptions(
        worker: options.worker, replicas: options.replicas, surroundings: surroundings, redis: options.redis,
        retains: true, ownsMounts: options.ownsMounts))
    let stalls = StallWatch()
    let evidence: [Evidence]
    do {
      evidence = try await watch(cluster, plan, journal, stalls, directory)
    } catch {
      try cluster.copyLogs(to: directory)
      await cluster.stop()
      throw error
    }
    await cluster.stop()
    return evidence.flatMap(\.checks) + (evidence.count > 1 ? [Evidence.apart(evidence)] : [])
  }

  private func watch(
    _ cluster: Cluster, _ plan: FaultPlan, _ journal: Journal, _ stalls: StallWatch, _ directory: URL
  ) async throws -> [Evidence] {
    try await cluster.startFleet()
    // Workers leave a new Redis alone for one lease.
    try await Task.sleep(for: cluster.options.lease + .seconds(1))
    var watches = try await Self.each(cluster) { PlaneWatch(first: try await samples(of: $0)) }
    let begin = Moment.now
    let now = DiscoverNow()
    let driver = FaultDriver(cluster: cluster) { journal.write($0) }
    let disturbances = try await withThrowingTaskGroup(of: Void.self) { group in
      for plane in cluster.planes {
        group.addTask { await Workload.run(on: cluster, schema: plane.schema) }
        group.addTask { await RetentionTriggers.run(on: cluster, plane) }
      }
      group.addTask { await now.run(on: cluster, cluster.planes[0]) }
      let (incidents, loads) = try await driver.perform(plan)
      let felt = Disturbances(
        incidents: incidents, loads: loads, stalls: [], replicas: cluster.replicas.count,
        slack: cluster.options.surroundings.slack, loadTime: cluster.options.surroundings.loadTime)
      try await sleep(until: begin.advanced(by: .seconds(options.seconds)))
      try await sleep(until: (incidents.map(\.ended).max() ?? begin).advanced(by: felt.traces))
      for (index, plane) in cluster.planes.enumerated() {
        for replica in plane.replicas where await replica.process?.status(of: "/readyz") != 200 {
          watches[index].unready.append(replica.index)
        }
      }
      let ends =
        [begin] + incidents.map(\.ended) + stalls.stalls.map(\.upperBound)
        + (felt.loadsEnd.map { [$0] } ?? [])
      let left = try await dueRows(cluster, since: ends, traces: felt.traces)
      for index in watches.indices { watches[index].left = left[index] }
      let quietBegin = try await Self.each(cluster) { try await samples(of: $0) }
      try await Task.sleep(for: Self.quietTime)
      let quietEnd = try await Self.each(cluster) { try await samples(of: $0) }
      for index in watches.indices {
        (watches[index].quietBegin, watches[index].quietEnd) = (quietBegin[index], quietEnd[index])
      }
      group.cancelAll()
      return felt
    }
    let end = Moment.now
    try await cluster.stopFleet()
    stalls.stop()
    for (index, plane) in cluster.planes.enumerated() {
      watches[index].reveals = try await RevealHistory.collect(plane, of: cluster)
      watches[index].trail = try await AuditTrail.collect(plane, of: cluster)
    }
    watches[0].nows = now.nows
    return try await collect(cluster, plan, disturbances, watches, begin...end, stalls, directory)
  }

  private func collect(
    _ cluster: Cluster, _ plan: FaultPlan, _ disturbances: Disturbances, _ watches: [PlaneWatch],
    _ span: ClosedRange<Moment>, _ stalls: StallWatch, _ directory: URL
  ) async throws -> [Evidence] {
    try cluster.copyLogs(to: directory)
    let statements = try StatementLog(
      try cluster.copyStatementLog(to: directory), role: PrivatePostgres.lockedUser)
    var all = disturbances
    all.stalls = stalls.stalls
    var evidence: [Evidence] = []
    for (plane, watch) in zip(cluster.planes, watches) {
      evidence.append(
        try await Evidence.collect(
          plane, of: cluster, plan, all, watch, span: span, stalls: stalls, statements: statements, in: directory))
    }
    return evidence
  }

  private static func each<Value>(
    _ cluster: Cluster, _ body: (Plane) async throws -> Value
  ) async throws -> [Value] {
    var values: [Value] = []
    for plane in cluster.planes { values.append(try await body(plane)) }
    return values
  }

  /// Waits until each sweeper has had time to recover from the last fault, then counts the remaining due rows by
  /// control plane.
  private func dueRows(_ cluster: Cluster, since ends: [Moment], traces: Duration) async throws -> [[String: Int]] {
    var left = cluster.planes.map { _ in [String: Int]() }
    let calm = ends.max() ?? .now
    let bySlowness = Sweep.allCases.sorted { $0.interval < $1.interval }
    func count(_ sweeper: String, _ table: String, _ due: String) async throws {
      for (index, plane) in cluster.planes.enumerated() {
        let count = try await cluster.sql("SELECT count(*) FROM \(table) WHERE \(due)", schema: plane.schema)
        left[index][sweeper] = Int(count) ?? -1
      }
    }
    for sweep in bySlowness {
      let time = sweep.interval * 2 + traces
      guard let due = sweep.due(lag: time) else { continue }
      try await sleep(until: calm.advanced(by: time))
      try await count(sweep.rawValue, sweep.dueTable, due)
    }
    let time = RetentionTriggers.period + RetentionTriggers.runLimit + traces
    try await sleep(until: calm.advanced(by: time))
    for retained in Retained.all(in: cluster.options.surroundings) {
      try await count(retained.sweeper, retained.table, retained.due(lag: time))
    }
    return left
  }

  private func samples(of plane: Plane) async throws -> [Sample] {
    var samples: [Sample] = []
    for replica in plane.replicas {
      guard let process = replica.process else { continue }
      do {
        samples.append(
          Sample(
            replica: replica.index, at: .now, metrics: try await process.get("/metrics").body,
            footprint: try Footprint(of: process)))
      } catch {
        // A replica that died by itself is reported by the check of endings.
        say("replica \(replica.index) gave no sample: \(error)")
      }
    }
    return samples
  }
}

/// The harness's actions, as lines in a file and, on request, on standard output.
final class Journal: Sendable {
  private let descriptor: Int32
  private let isVerbose: Bool

  init(_ file: URL, isVerbose: Bool) {
    descriptor = open(file.path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    self.isVerbose = isVerbose
  }

  deinit { close(descriptor) }

  func write(_ text: String) {
    let line = text + "\n"
    _ = Foundation.write(descriptor, line, line.utf8.count)
    if isVerbose { say(text) }
  }
}
