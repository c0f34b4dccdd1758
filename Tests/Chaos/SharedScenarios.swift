// The scenarios with a competitor: a failing existing worker, and a fleet with another namespace.
// Invariant: as in all scenarios, the recorders judge.

import Foundation
import Reactor
import TestSupport

extension Show {
  /// An existing worker repeatedly takes a sweeper's lock, does nothing, and exits.
  func strangers() async throws -> [Check] {
    let interval = cluster.options.interval!
    let stranger = ExistingWorker(cluster: cluster, interval: .milliseconds(1_700), lease: .seconds(2), fails: true)
    let span = Moment.now...Moment.now.advanced(by: .seconds(60))
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await Workload.run(on: cluster) }
      group.addTask { try await stranger.run(until: span.upperBound) }
      try await sleep(until: span.upperBound)
      group.cancelAll()
    }
    try await cluster.stopFleet()
    let account = try await Account(of: cluster)
    let its = account.locks.holds.filter(\.isStrangers)
    let grid = Grid(name: Sweep.wraps.rawValue, interval: interval)
    let runs = account.successes(of: .wraps)
    let ran = Set(runs.map { grid.slot(at: $0.taken) })
    let slots = grid.slots(in: span).dropLast()
    let kept = slots.filter { slot in its.contains { grid.slot(at: $0.taken) == slot } }
    return [
      Check(
        name: "own-slots", claim: "every slot is run, though a worker that fails keeps taking the lock",
        figures: "\(slots.count) slots; it took the lock \(its.count) times, in \(kept.count) of them",
        faults: slots.filter { !ran.contains($0) }.map { "slot \(Moment(milliseconds: $0)) did not run" }
          + (its.count < 5 ? ["too few to tell"] : [])),
      account.orderly,
    ]
  }

  /// A second fleet sweeps the same tables with another namespace: PostgreSQL's advisory lock alone keeps them apart.
  func rivals() async throws -> [Check] {
    let span = Moment.now...Moment.now.advanced(by: .seconds(40))
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await Workload.run(on: cluster) }
      group.addTask {
        while Moment.now < span.upperBound {
          try await Workload.put("secret_wraps", on: cluster)
          try await Workload.put("agents", on: cluster)
          try await Task.sleep(for: .seconds(9))
        }
      }
      try await sleep(until: span.upperBound)
      group.cancelAll()
    }
    var metrics: [String] = []
    for plane in cluster.planes {
      for replica in plane.replicas { metrics.append(try await replica.process?.get("/metrics").body ?? "") }
    }
    try await cluster.stopFleet()
    let writes = try WriteHistory(rows: await cluster.sql(WriteHistory.query(schema: "public")))
    var runs: [Run] = []
    for plane in cluster.planes { runs += try await Account(of: cluster, plane).runs }
    let texts = cluster.planes.flatMap(\.replicas).flatMap(\.lives).map(\.process.everything)
    return [Self.apart(writes), Self.reported(runs, texts, metrics: metrics)]
  }

  /// Transactions are when work happens: those of different fleets in one sweep must not overlap.
  private static func apart(_ writes: WriteHistory) -> Check {
    let effective = writes.transactions.filter(\.isEffective)
    var faults: [String] = []
    for (sweeper, own) in Dictionary(grouping: effective, by: \.sweeper) {
      let inOrder = own.sorted { $0.began < $1.began }
      for (index, write) in inOrder.enumerated() {
        for other in inOrder[(index + 1)...].prefix(while: { $0.began < write.committed })
        where other.scope != write.scope {
          faults.append("\(sweeper): both wrote from \(other.began) to \(min(write.committed, other.committed))")
        }
      }
    }
    // A scope is one sweeper of one fleet.
    let scopes = Dictionary(grouping: effective, by: \.sweeper).mapValues { own in
      Dictionary(grouping: own, by: \.scope).values.map(\.count).sorted()
    }
    let wrong = writes.transactions.reduce(0) { $0 + $1.wrong }
    return Check(
      name: "apart", claim: "two fleets that do not know of each other never write to a table at once",
      figures: "transactions of each: "
        + scopes.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value.map(String.init).joined(separator: " and "))" }
        .joined(separator: ", "),
      faults: faults
        + Sweep.allCases.filter { $0.writes && $0.runsInEachSlot && scopes[$0.rawValue]?.count != 2 }.map {
          "\(scopes[$0.rawValue]?.count ?? 0) fleets wrote for \($0.rawValue)"
        }
        + (wrong == 0 ? [] : ["\(wrong) rows were changed that were not due"]))
  }

  private static func reported(_ runs: [Run], _ texts: [String], metrics: [String]) -> Check {
    let words = "another worker sweeps these tables with another REDIS_NAMESPACE or Redis"
    let failed = runs.filter { $0.error?.contains(words) ?? false }
    let others = runs.filter { $0.outcome == .failure && !($0.error?.contains(words) ?? false) }
    let counted = metrics.flatMap { $0.split(separator: "\n") }
      .filter { $0.hasPrefix("worker_scheduler_runs_total{") && $0.contains("outcome=\"failure\"") }
      .compactMap { $0.split(separator: " ").last.flatMap { Double($0) } }.reduce(0, +)
    let ended = texts.count { $0.contains("57P01") }
    return Check(
      name: "reported", claim: "a fleet that meets the other one logs that, and counts a failure",
      figures: "\(failed.count) runs gave way to the other fleet, \(Int(counted)) failures counted",
      faults: (failed.isEmpty ? ["no fleet met the other one"] : [])
        + (Int(counted) < failed.count ? ["only \(Int(counted)) were counted"] : [])
        + others.map { "\($0.sweeper) failed otherwise: \($0.error ?? "")" }
        + (ended > 0 ? ["\(ended) processes had a session ended"] : []))
  }
}
