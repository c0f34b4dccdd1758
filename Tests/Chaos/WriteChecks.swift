// The checks of PostgreSQL: which run wrote what and when, and what was left undone.

import Foundation
import Reactor

extension Evidence {
  var writeChecks: [Check] { [overlap, afterLease, untouched, swept, named] + discovery }

  private var overlap: Check {
    var faults: [String] = []
    var longest = Duration.zero
    let effective = writes.transactions.filter(\.isEffective)
    for (sweeper, transactions) in Dictionary(grouping: effective, by: \.sweeper) {
      let epochs = Dictionary(grouping: transactions, by: \.epoch)
      var before: (epoch: Int64, ends: Moment)?
      for (epoch, own) in epochs.sorted(by: { $0.key < $1.key }) {
        let begins = own.map(\.began).min() ?? span.lowerBound
        let ends = own.map(\.committed).max() ?? begins
        longest = max(longest, ends.since(begins))
        if let before, before.ends > begins {
          faults.append(
            "\(sweeper): epoch \(before.epoch) wrote until \(before.ends), epoch \(epoch) from \(begins) on")
        }
        before = (epoch, max(ends, before?.ends ?? ends))
      }
    }
    // Without a run that outlives its first lease, renewals and faults during a run would not be tested.
    if longest <= lease, kind == .first { faults.append("no run wrote for longer than a lease") }
    return Check(
      name: "overlap", claim: "no two runs of a sweeper write concurrently, and no lower epoch after a higher one",
      figures: "\(effective.count) transactions, \(writes.transactions.count - effective.count) more refused; "
        + "the longest run wrote for \(longest.text)",
      faults: faults)
  }

  private var afterLease: Check {
    var faults: [String] = []
    var closest = lease
    for write in writes.transactions where write.isEffective {
      guard let hold = locks.hold(sweeper: write.sweeper, epoch: write.epoch) else {
        faults.append("\(write.committed) \(write.sweeper): epoch \(write.epoch) never had the lock")
        continue
      }
      closest = min(closest, hold.leaseEnds.since(write.committed))
      if write.committed > hold.leaseEnds {
        faults.append(
          "\(write.sweeper): epoch \(write.epoch) committed at \(write.committed), its lease ended at \(hold.leaseEnds)"
        )
      }
    }
    return Check(
      name: "lease", claim: "nothing is written after its lease",
      figures: "the closest commit came \(closest.text) before its end", faults: faults)
  }

  private var untouched: Check {
    let wrong = writes.transactions.filter { $0.wrong > 0 }
    return Check(
      name: "untouched", claim: "only due rows are changed, and only as the sweeper declares",
      figures: "\(writes.transactions.reduce(0) { $0 + $1.changed }) rows changed",
      faults: wrong.map { "\($0.committed) \($0.sweeper): \($0.wrong) of \($0.changed) rows" })
  }

  private var swept: Check {
    Check(
      name: "swept", claim: "due rows are swept within two intervals and a lease after the last fault",
      figures: left.isEmpty ? "no table checked" : left.sorted { $0.key < $1.key }.map(\.key).joined(separator: ", "),
      faults: left.filter { $0.value > 0 }.map { "\($0.key): \($0.value) due rows are left" }
        + (left.isEmpty ? ["nothing was checked"] : []))
  }

  private var named: Check {
    Check(
      name: "named", claim: "every writing statement has its sweeper and epoch in application_name",
      figures: "\(statements.statements) statements of workers in PostgreSQL's log",
      faults: statements.nameless + writes.nameless + (statements.statements == 0 ? ["the log has none"] : []))
  }

  private var discovery: [Check] {
    let sweep = Sweep.discover
    let widened = span.lowerBound.advanced(by: .seconds(-60))...span.upperBound.advanced(by: .seconds(60))
    var known: [String: (target: String, slot: Int64)] = [:]
    for slot in sweep.grid.slots(in: widened) {
      for target in Targets.names { known[Targets.jobID(target, slot: slot)] = (target, slot) }
    }
    let strangers = jobs.keys.filter { known[$0] == nil }
    let doubled = jobs.filter { $0.value > 1 }
    let ran = Set(
      runs.filter { $0.sweeper == sweep.rawValue && $0.outcome == .success }.compactMap { run in
        locks.hold(sweeper: run.sweeper, epoch: run.epoch).map { sweep.slot(of: $0) }
      })
    let owed = ran.union(disturbances.promised(sweep, in: span))
    let missing = owed.flatMap { slot in
      Targets.names.filter { jobs[Targets.jobID($0, slot: slot)] == nil }.map { "\($0), slot \(slot)" }
    }
    return [
      Check(
        name: "discovery-once", claim: "a target's slot has at most one discover job",
        figures: "\(jobs.count) jobs",
        faults: strangers.map { "job \($0) is of no target and slot" }
          + doubled.map { "job \($0.key) is there \($0.value) times" }),
      Check(
        name: "discovery-all", claim: "every slot that ran, or could have run, has a job for each target",
        figures: "\(owed.count) slots", faults: missing.sorted() + (owed.isEmpty ? ["there was no such slot"] : [])),
    ]
  }
}
