// The checks of a fleet's surroundings: a neighbour in its database, the existing worker, rows and databases that
// refuse writes, servers that fail over. Each checks times without other faults, and prints how many there were.

import Foundation
import Reactor

extension Evidence {
  var surroundingChecks: [Check] { [stranger, poisoned, readOnly, failovers] }

  /// A lock that an existing worker took and abandoned does not complete its slot, which runs once the lock is free.
  private var stranger: Check {
    var faults: [String] = []
    var checked = 0
    for incident in disturbances.incidents where incident.fault.kind == .strangersLock {
      guard let hold = locks.holds.first(where: { $0.isStrangers && incident.span.contains($0.taken) }),
        let sweep = Sweep(rawValue: hold.sweeper), disturbances.isAlone(incident, sweep)
      else { continue }
      let slot = Moment(milliseconds: sweep.grid.slot(at: hold.leaseEnds))
      let runs = locks.holds.filter { $0.sweeper == hold.sweeper && $0.outcome == "success" }
      if runs.contains(where: { (slot...hold.taken.max(slot)).contains($0.taken) }) { continue }
      checked += 1
      let limit = hold.leaseEnds.advanced(by: .seconds(2) + disturbances.slack)
      if !runs.contains(where: { (hold.leaseEnds.advanced(by: .milliseconds(-5))...limit).contains($0.taken) }) {
        faults.append("\(hold.sweeper): slot \(slot) was not run after \(hold.leaseEnds)")
      }
    }
    return Check(
      name: "stranger", claim: "a slot whose lock another worker took and left is run once the lock is free",
      figures: "\(checked) such slots", faults: faults)
  }

  /// A row that cannot be changed does not stop the others, and is reported with its SQLSTATE.
  private var poisoned: Check {
    var faults: [String] = []
    var checked = 0
    for incident in disturbances.incidents where incident.fault.kind == .poison {
      guard let sweep = Sweep.allCases.first(where: { $0.table == incident.fault.table }),
        incident.fault.length > sweep.interval * 2 + disturbances.slack, disturbances.isAlone(incident, sweep)
      else { continue }
      checked += 1
      if incident.neglected > 0 { faults.append("#\(incident.fault.number): \(incident.neglected) others were left") }
      let reported =
        runs.filter { $0.sweeper == sweep.rawValue && incident.span.contains($0.ended) }.compactMap(\.error)
      if !reported.contains(where: { $0.contains("1 row refused (23503)") }) {
        faults.append("#\(incident.fault.number): no run logged it; \(reported.first ?? "none failed")")
      }
    }
    return Check(
      name: "poison", claim: "a row that cannot be changed is logged with its SQLSTATE, and does not stop the others",
      figures: "\(checked) such rows", faults: faults)
  }

  /// While the database is read-only, runs wait: that is an outage, not a failure.
  private var readOnly: Check {
    var faults: [String] = []
    var checked = 0
    for incident in disturbances.incidents where incident.fault.kind == .readOnly {
      // A run whose session was ended may fail.
      let inside = incident.began.advanced(by: .seconds(1) + disturbances.slack)
      guard inside < incident.ended else { continue }
      for sweep in Sweep.allCases where disturbances.isAlone(incident, sweep) {
        checked += 1
        let failed = runs.filter {
          $0.sweeper == sweep.rawValue && $0.outcome == .failure && $0.began > inside && $0.ended < incident.ended
        }
        faults += failed.map { "#\(incident.fault.number), \($0.sweeper): \($0.error ?? "") at \($0.ended)" }
      }
    }
    return Check(
      name: "read-only", claim: "runs wait while the database is read-only, and do not fail",
      figures: "\(checked) times a sweeper met it", faults: faults)
  }

  /// Sweeps run before and after each failover or move. Of PostgreSQL, the last primary still has what was written
  /// before.
  private var failovers: Check {
    let kinds: [FaultKind] = [.failOverPostgres, .failOverRedis, .moveSlot]
    let failovers = disturbances.incidents.filter { kinds.contains($0.fault.kind) }
    var faults: [String] = []
    var delays: [Duration] = []
    for incident in failovers {
      let name = "#\(incident.fault.number), \(incident.fault.kind.rawValue)"
      let work = work(judging: incident.fault)
      if !work.contains(where: { $0 < incident.began }) { faults.append("\(name): nothing is there from before it") }
      let later = work.contains { $0 > incident.ended }
      let next = runs.filter { $0.outcome == .success && $0.began > incident.ended }.map(\.began).min()
      guard later, let delay = next?.since(incident.ended) else {
        faults.append("\(name): nothing was done after it")
        continue
      }
      // A slot begins every second, so only what disturbs many sweepers could delay the first run.
      guard Sweep.allCases.count(where: { disturbances.isAlone(incident, $0) }) > Sweep.allCases.count / 2 else {
        continue
      }
      delays.append(delay)
      if delay > disturbances.traces { faults.append("\(name): the first run began \(delay.text) later") }
    }
    return Check(
      name: "failovers", claim: "sweeps run before and soon after each failover, and each move of their keys",
      figures: "\(failovers.count) of them, \(delays.count) without other faults; after those the first run began "
        + "\((delays.max() ?? .zero).text) later at the most",
      faults: faults)
  }

  /// The moments that show whether the server, or the node, does its work.
  private func work(judging fault: PlannedFault) -> [Moment] {
    switch fault.kind {
    case .failOverPostgres: writes.transactions.map(\.committed)
    case .moveSlot:
      locks.holds.filter { hold in Sweep.allCases.first { $0.table == fault.table }?.rawValue == hold.sweeper }
        .map(\.taken)
    default: locks.holds.map(\.taken)
    }
  }

  /// Two control planes in one database do not affect each other.
  static func apart(_ all: [Evidence]) -> Check {
    var faults: [String] = []
    let scopes = all.map { Set($0.writes.transactions.map(\.scope)) }
    for (number, own) in scopes.enumerated() {
      for other in scopes.dropFirst(number + 1) where !own.isDisjoint(with: other) {
        faults.append("both have written as \(own.intersection(other).sorted().joined(separator: ", "))")
      }
      if own.isEmpty { faults.append("\(all[number].kind.rawValue) has written nothing") }
    }
    return Check(
      name: "apart", claim: "no worker writes to another control plane's tables in its database",
      figures: all.map { "\($0.kind.rawValue): \($0.writes.transactions.count) transactions" }.joined(separator: ", "),
      faults: faults)
  }
}

extension Moment {
  fileprivate func max(_ other: Moment) -> Moment { Swift.max(self, other) }
}
