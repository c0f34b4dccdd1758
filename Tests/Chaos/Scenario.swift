// Named fixed scenarios: what the issue on coordination requires, with its figures.
// Invariant: a scenario judges by the recorders, as a chaos run does. `scripts/chaos --scenario NAME`.

import Foundation
import Reactor
import TestSupport

/// A scenario.
enum Scenario: String, CaseIterable, Sendable {
  /// Three replicas at an interval of 6 s, for 60 s: 10 ± 1 runs of each sweeper.
  case fleet
  /// The only replica is restarted every 3 s: a sweeper with an interval of 8 s runs on time.
  case restarts
  /// SIGTERM in the middle of a run leaves no lock, and another replica finishes the work.
  case drain
  /// A statement behind a table lock ends as a counted failure within the lease, and the lock is free.
  case stuck
  /// Alongside an existing worker: never two in the same sweep, and its lock completes no slot.
  case mixed
  /// A hundred idle replicas: each asks Redis once per slot.
  case idle
  /// An existing worker takes a lock and fails: the slot still runs.
  case strangers
  /// A second fleet on the same tables with another namespace: they never work at once, and each reports the other.
  case rivals

  func play(worker: String) async throws -> [Check] {
    var options = FleetOptions(worker: worker)
    switch self {
    case .fleet: options.interval = .seconds(6)
    case .restarts: (options.interval, options.replicas) = (.seconds(8), 1)
    case .drain: options.replicas = 2
    case .stuck: options.replicas = 1
    case .mixed: (options.interval, options.replicas) = (.seconds(4), 2)
    case .idle: (options.interval, options.replicas) = (.seconds(6), 100)
    case .strangers: (options.interval, options.replicas) = (.seconds(4), 2)
    case .rivals: (options.replicas, options.rivals) = (2, 2)
    }
    let cluster = try await Cluster.start(options)
    do {
      try await cluster.startFleet()
      // Workers leave a new Redis alone for one lease.
      try await Task.sleep(for: options.lease + .milliseconds(500))
      let checks = try await play(on: cluster)
      await cluster.stop()
      return checks
    } catch {
      await cluster.stop()
      throw error
    }
  }

  private func play(on cluster: Cluster) async throws -> [Check] {
    switch self {
    case .fleet: try await Show(cluster).fleet()
    case .restarts: try await Show(cluster).restarts()
    case .drain: try await Show(cluster).drain()
    case .stuck: try await Show(cluster).stuck()
    case .mixed: try await Show(cluster).mixed()
    case .idle: try await Show(cluster).idle()
    case .strangers: try await Show(cluster).strangers()
    case .rivals: try await Show(cluster).rivals()
    }
  }
}

/// The scenarios' steps and verdicts.
struct Show: Sendable {
  let cluster: Cluster

  init(_ cluster: Cluster) {
    self.cluster = cluster
  }

  // MARK: The shows

  fileprivate func fleet() async throws -> [Check] {
    let span = Moment.now...Moment.now.advanced(by: .seconds(60))
    try await sleep(until: span.upperBound)
    try await cluster.stopFleet()
    let account = try await Account(of: cluster)
    return Sweep.allCases.filter(\.runsInEachSlot).map { sweep in
      let taken = account.successes(of: sweep).filter { span.contains($0.taken) }
      return Check(
        name: "runs", claim: "\(sweep.rawValue) runs 10 ± 1 times in 60 s at an interval of 6 s",
        figures: "\(taken.count) runs by 3 replicas",
        faults: (9...11).contains(taken.count) ? [] : ["\(taken.count) runs"])
    } + [account.orderly]
  }

  fileprivate func restarts() async throws -> [Check] {
    let interval = Duration.seconds(8)
    let span = Moment.now...Moment.now.advanced(by: .seconds(66))
    let replica = cluster.replicas[0]
    var starts = 0
    while Moment.now < span.upperBound {
      try await Task.sleep(for: .seconds(3))
      replica.end(by: SIGTERM)
      try await replica.process?.waitForExit(within: Cluster.grace + .seconds(5))
      try await replica.start()
      starts += 1
    }
    try await cluster.stopFleet()
    let account = try await Account(of: cluster)
    return Sweep.allCases.filter(\.runsInEachSlot).map { sweep in
      let grid = Grid(name: sweep.rawValue, interval: interval)
      let slots = grid.slots(in: span).dropLast()
      let taken = Dictionary(grouping: account.successes(of: sweep)) { grid.slot(at: $0.taken) }
      let delays = slots.compactMap { slot in taken[slot]?.first?.taken.since(Moment(milliseconds: slot)) }
      let missing = slots.filter { taken[$0] == nil }.map { "slot \(Moment(milliseconds: $0)) did not run" }
      let late = delays.filter { $0 > .seconds(2) }.map { "one ran \($0.text) late" }
      return Check(
        name: "on-time", claim: "\(sweep.rawValue) runs in every slot of 8 s, though it is restarted every 3 s",
        figures:
          "\(slots.count) slots, \(starts) restarts, at the latest \((delays.max() ?? .zero).text) after its start",
        faults: missing + late)
    } + [account.orderly]
  }

  fileprivate func drain() async throws -> [Check] {
    try await Workload.put("secret_wraps", on: cluster)
    let key = "\(Cluster.namespace):\(Sweep.lockKey(Sweep.wraps.rawValue))"
    try await until("a batch of the load was swept") {
      try await cluster.sql("SELECT count(*) FROM secret_wraps") != "\(Workload.loadRows)"
    }
    let holder = try await busiest()
    let asked = Moment.now
    cluster.replicas[holder].end(by: SIGTERM)
    let ending = try await cluster.replicas[holder].process?.waitForExit(within: Cluster.grace + .seconds(5))
    let ended = Moment.now
    let token = try cluster.redis.cli("GET", key)
    let own = try await Account(of: cluster).locks.holds.last { $0.sweeper == Sweep.wraps.rawValue && $0.taken < asked }
    try await until("the other replica finished the load", within: .seconds(30)) {
      try await cluster.sql("SELECT count(*) FROM secret_wraps") == "0"
    }
    try await cluster.stopFleet()
    let account = try await Account(of: cluster)
    let next = account.locks.holds.first { $0.sweeper == Sweep.wraps.rawValue && $0.taken > asked }
    return [
      Check(
        name: "drained", claim: "SIGTERM in mid-run ends with 0 within the grace, and leaves no lock",
        figures: "ended \(ended.since(asked).text) after it, the lock given back after "
          + "\((own?.released ?? ended).since(asked).text)",
        faults: (ending == .exited(0) ? [] : ["\(String(describing: ending))"])
          + (ended.since(asked) < Cluster.grace + .seconds(1) ? [] : ["later than the grace"])
          + (own?.released == nil || token == own?.token ? ["its lock was left"] : [])),
      Check(
        name: "taken-over", claim: "another replica takes the work over before the lease would have ended",
        figures: "\((next?.taken ?? ended).since(asked).text) after SIGTERM",
        faults: next.map { $0.taken.since(asked) < .seconds(3) ? [] : ["only at \($0.taken)"] } ?? ["nobody did"]),
      account.orderly,
    ]
  }

  fileprivate func stuck() async throws -> [Check] {
    let lease = cluster.options.lease
    let held = Duration.seconds(9)
    let begin = Moment.now
    async let lock = cluster.sql("BEGIN; LOCK TABLE agents; SELECT pg_sleep(\(held.seconds)); COMMIT")
    try await sleep(until: begin.advanced(by: held - .seconds(1)))
    let key = "\(Cluster.namespace):\(Sweep.lockKey(Sweep.agents.rawValue))"
    let process = cluster.replicas[0].process
    let metrics = try await process?.get("/metrics").body ?? ""
    _ = try await lock
    let end = Moment.now
    try await until("the sweep of agents runs again") {
      try await Account(of: cluster).successes(of: .agents).contains { $0.taken > end }
    }
    try await cluster.stopFleet()
    let left = try cluster.redis.cli("EXISTS", key)
    let account = try await Account(of: cluster)
    let failed = account.runs.filter { $0.sweeper == Sweep.agents.rawValue && $0.outcome == .failure }
    let holds = account.locks.holds.filter { $0.sweeper == Sweep.agents.rawValue && $0.taken > begin && $0.taken < end }
    let longest = failed.map(\.duration).max() ?? .zero
    let others = [Sweep.wraps, .secrets, .jobs].map { sweep in
      (sweep, account.successes(of: sweep).count { $0.taken > begin && $0.taken < end })
    }
    let counted = metrics.contains(#"worker_scheduler_runs_total{outcome="failure",task="agents-stale"} 0"#) ? 0 : 1
    return [
      Check(
        name: "counted", claim: "a statement behind a table lock ends as a counted failure within the lease",
        figures:
          "\(failed.count) failures while the table was locked for \(held.text), the longest took \(longest.text)",
        faults: (failed.isEmpty || counted == 0 ? ["no failure was counted"] : [])
          + (longest < lease ? [] : ["one took longer than the lease"])),
      Check(
        name: "free", claim: "the lock is free after each of them",
        figures: "\(holds.count) locks taken meanwhile, held for at most "
          + "\((holds.map { $0.ends.since($0.taken) }.max() ?? .zero).text)",
        faults: holds.filter { $0.released == nil }.map { "epoch \($0.epoch ?? 0) left its lock" }
          + (left == "0" ? [] : ["a lock is left at the end"])),
      Check(
        name: "others", claim: "no other sweeper is held up",
        figures: others.map { "\($0.0.rawValue) \($0.1) runs" }.joined(separator: ", "),
        faults: others.filter { $0.1 < 3 }.map { "\($0.0.rawValue) ran \($0.1) times only" }),
      account.orderly,
    ]
  }

  fileprivate func mixed() async throws -> [Check] {
    let standIn = ExistingWorker(cluster: cluster, interval: .seconds(4), lease: .seconds(3))
    let span = Moment.now...Moment.now.advanced(by: .seconds(40))
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await Workload.run(on: cluster) }
      group.addTask { try await standIn.run(until: span.upperBound) }
      try await sleep(until: span.upperBound)
      group.cancelAll()
    }
    try await cluster.stopFleet()
    let account = try await Account(of: cluster)
    let its = account.locks.holds.filter { $0.epoch == nil }
    var faults: [String] = []
    for hold in its {
      for write in account.writes.transactions where write.sweeper == hold.sweeper && write.isEffective {
        if (write.began...write.committed).overlaps(hold.taken...hold.ends) {
          faults.append("\(hold.sweeper): epoch \(write.epoch) wrote at \(write.began) beside the existing worker")
        }
      }
    }
    let ours = account.runs.count { $0.outcome == .success }
    let grid = Grid(name: Sweep.wraps.rawValue, interval: .seconds(4))
    let slots = grid.slots(in: span)
    let run = Set(account.successes(of: .wraps).map { grid.slot(at: $0.taken) })
    let missed = slots.filter { !run.contains($0) }
    return [
      Check(
        name: "apart", claim: "the two kinds of worker are never at the same sweep",
        figures: "\(its.count) runs of the existing kind, \(ours) of ours",
        faults: faults + (its.count < 5 || ours < 5 ? ["too few to tell"] : [])),
      Check(
        name: "own-slots", claim: "a lock of the other kind makes no slot done: ours run once it is free",
        figures:
          "\(slots.count - missed.count) of \(slots.count) slots were run by ours; the lock was held in the others",
        faults: missed.count * 2 > slots.count ? ["most of them were not run by ours"] : []),
      account.orderly,
    ]
  }

  fileprivate func idle() async throws -> [Check] {
    let interval = Duration.seconds(6)
    let replicas = cluster.replicas.count
    // By now every replica has learned its slots.
    try await Task.sleep(for: interval * 2)
    let span = Moment.now...Moment.now.advanced(by: interval * 10)
    try await sleep(until: span.upperBound)
    try await cluster.stopFleet()
    let account = try await Account(of: cluster)
    let scripts = cluster.monitor.lines.lazy.compactMap { RedisCommand(line: $0[...]) }
      .filter { $0.name == "EVALSHA" && $0.words.count > 3 && span.contains($0.at) }
    return Sweep.allCases.filter(\.runsInEachSlot).map { sweep in
      let key = "\(Cluster.namespace):\(Sweep.lockKey(sweep.rawValue))"
      // A take names the lock and the record; a completion also names the history.
      let own = scripts.filter { $0.words[3] == key }.map(\.words[2])
      let (takes, completions) = (own.count { $0 == "2" }, own.count { $0 == "3" })
      let load = Double(takes) / Double(10 * replicas)
      let runs = account.successes(of: sweep).count { span.contains($0.taken) }
      return Check(
        name: "asked-once", claim: "\(sweep.rawValue): each of \(replicas) replicas asks Redis once a slot",
        figures: "\(takes) questions in 10 slots, \(String(format: "%.3f", load)) a replica and slot; \(runs) runs, "
          + "\(completions) completions",
        faults: (load < 1.01 ? [] : ["that is more"]) + ((9...11).contains(runs) ? [] : ["\(runs) runs"]))
    } + [account.orderly]
  }

  // MARK: Steps

  /// The replica that is sweeping a load: it sends by far the most to PostgreSQL.
  private func busiest() async throws -> Int {
    // A batch takes a second at most.
    let before = cluster.replicas.indices.map { cluster.links.proxy($0, .postgres).statistics.bytesToServer }
    try await Task.sleep(for: .milliseconds(1_300))
    let after = cluster.replicas.indices.map { cluster.links.proxy($0, .postgres).statistics.bytesToServer }
    return zip(before, after).map { $1 - $0 }.enumerated().max { $0.element < $1.element }!.offset
  }

  private func until(
    _ what: String, within limit: Duration = .seconds(20), _ condition: () async throws -> Bool
  ) async throws {
    let deadline = Moment.now.advanced(by: limit)
    while try await !condition() {
      guard Moment.now < deadline else { throw HarnessFault("not within \(limit.text): \(what)") }
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}

/// A scenario's recorders.
struct Account: Sendable {
  let locks: LockHistory
  let writes: WriteHistory
  let runs: [Run]

  init(of cluster: Cluster, _ plane: Plane? = nil) async throws {
    let plane = plane ?? cluster.planes[0]
    let commands = cluster.monitor.lines.lazy.compactMap { RedisCommand(line: $0[...]) }
    locks = LockHistory(commands, namespace: plane.namespace, restarts: [])
    writes = try WriteHistory(rows: await cluster.sql(WriteHistory.query(schema: plane.schema)))
    runs = plane.replicas.flatMap { replica in
      replica.lives.flatMap { LogHistory($0.process.log, replica: replica.index).runs }
    }
  }

  /// The locks of a sweeper's successful runs.
  func successes(of sweep: Sweep) -> [Hold] {
    runs.filter { $0.sweeper == sweep.rawValue && $0.outcome == .success }
      .compactMap { locks.hold(sweeper: $0.sweeper, epoch: $0.epoch) }
  }

  var orderly: Check {
    Check(
      name: "holders", claim: "a lock is taken only when it is free, and renewed and deleted only by its holder",
      figures: "\(locks.holds.count) locks taken", faults: locks.trespasses)
  }
}
