// The checks of the workers' reports and costs: runs, slots, counters, ends, logs, secrets.

import Foundation
import Reactor
import TestSupport

extension Evidence {
  var runChecks: [Check] {
    [
      atMostOnce, atLeastOnce, failures, reportedOnce, countedOnce, countersAgree, ready, endings, footprints, logLines,
      secrets,
    ]
  }

  /// A success, with the lock that it held.
  private var successes: [(run: Run, hold: Hold)] {
    runs.filter { $0.outcome == .success }.compactMap { run in
      locks.hold(sweeper: run.sweeper, epoch: run.epoch).map { (run, $0) }
    }
  }

  private var atMostOnce: Check {
    var faults: [String] = []
    var doubled = 0
    for sweep in Sweep.allCases {
      let own = successes.filter { $0.run.sweeper == sweep.rawValue }
      for (slot, ran) in Dictionary(grouping: own, by: { sweep.grid.slot(at: $0.hold.taken) }) where ran.count > 1 {
        let inOrder = ran.sorted { $0.hold.taken < $1.hold.taken }
        let excused = zip(inOrder, inOrder.dropFirst()).count { earlier, later in
          // Lost with the record, or cut off between its last batch and its completion.
          locks.losses.contains { $0 > earlier.hold.taken && $0 <= later.hold.taken }
            || (earlier.hold.completed ?? later.hold.taken) >= later.hold.taken
        }
        doubled += ran.count - 1
        if ran.count > 1 + excused { faults.append("\(sweep.rawValue): slot \(slot) ran \(ran.count) times") }
      }
    }
    return Check(
      name: "at-most-once",
      claim: "a slot runs once, but for data losses and runs cut before their completion",
      figures: "\(successes.count) successful runs, \(doubled) repeated", faults: faults)
  }

  private var atLeastOnce: Check {
    var faults: [String] = []
    var promised = 0
    for sweep in Sweep.allCases where sweep.runsInEachSlot {
      let own = successes.filter { $0.run.sweeper == sweep.rawValue }
      let ran = Set(own.map { sweep.grid.slot(at: $0.hold.taken) })
      for slot in disturbances.promised(sweep, in: span) {
        promised += 1
        if !ran.contains(slot) { faults.append("\(sweep.rawValue): slot \(Moment(milliseconds: slot)) did not run") }
      }
    }
    if promised == 0 { faults.append("no slot was undisturbed") }
    return Check(
      name: "at-least-once", claim: "every undisturbed slot has a successful run",
      figures: "\(promised) undisturbed slots", faults: faults)
  }

  private var failures: Check {
    let failed = runs.filter { $0.outcome == .failure }
    return Check(
      name: "failures", claim: "no run fails without a fault",
      figures: "\(failed.count) of \(runs.count) runs failed",
      faults: failed.filter { !disturbances.explain($0.sweeper, $0.span) }.map {
        "\($0.ended) \($0.sweeper), replica \($0.replica): \($0.error ?? "") after \($0.duration.text)"
      })
  }

  private var reportedOnce: Check {
    let reported = Dictionary(grouping: runs) { "\($0.sweeper), epoch \($0.epoch)" }
    var faults = reported.filter { $0.value.count > 1 }.map { "\($0.key) ended \($0.value.count) times" }
    let unreported = locks.holds.filter { hold in
      hold.epoch.map { reported["\(hold.sweeper), epoch \($0)"] == nil } ?? false
    }
    faults += unreported.filter { !disturbances.explain($0.sweeper, $0.taken...$0.ends) }
      .map { "\($0.taken) \($0.sweeper), epoch \($0.epoch ?? 0) never ended, without a fault" }
    return Check(
      name: "reported-once", claim: "a run's end is logged once, unless a fault cut it off",
      figures: "\(reported.count) runs logged, \(unreported.count) cut off", faults: faults)
  }

  private var countedOnce: Check {
    var faults: [String] = []
    var slots = 0
    for (begin, end) in zip(quietBegin, quietEnd) {
      for sweep in Sweep.allCases {
        let due = sweep.grid.slots(in: begin.at...end.at).count
        // A failed run leaves its slot open, so the retry counts too.
        let counted = end.slots(of: sweep) - begin.slots(of: sweep)
        slots += due
        // At each end of the period, one slot can be known and another about to be requested.
        if abs(counted - due) > 2 {
          faults.append("replica \(end.replica), \(sweep.rawValue): \(counted) counted, \(due) slots began")
        }
      }
    }
    if slots == 0 { faults.append("no slot began in the quiet time") }
    return Check(
      name: "counted-once", claim: "in quiet times every replica counts every slot once",
      figures: "\(slots) slots of \(quietEnd.count) replicas", faults: faults)
  }

  /// Live replicas' counters match their logs.
  private var countersAgree: Check {
    var faults: [String] = []
    for sample in quietEnd {
      guard let log = logs.last(where: { $0.log.replica == sample.replica })?.log else { continue }
      for sweep in Sweep.allCases {
        func counted(_ outcome: String) -> Int {
          sample.value("worker_scheduler_runs_total", ["task": sweep.rawValue, "outcome": outcome]) ?? -1
        }
        func logged(_ outcome: Run.Outcome) -> Int {
          log.runs.count { $0.sweeper == sweep.rawValue && $0.outcome == outcome && $0.ended <= sample.at }
        }
        let skipped = sample.value("worker_scheduler_lock_skipped_total", ["task": sweep.rawValue])
        let place = "replica \(sample.replica), \(sweep.rawValue)"
        // A line can be logged while the response with the counters is in transit.
        let unlogged = logged(.success) - counted("success")
        // A slot in which nothing was due is a success without a run.
        if unlogged > 1 || (unlogged < 0 && sweep.runsInEachSlot) {
          faults.append("\(place): \(counted("success")) successes counted, \(logged(.success)) logged")
        }
        if logged(.failure) > counted("failure") { faults.append("\(place): failures logged that were not counted") }
        if skipped != counted("skipped_lock") { faults.append("\(place): two counts of what was skipped") }
      }
    }
    return Check(
      name: "counters", claim: "the counters agree with the log",
      figures: "\(quietEnd.count) living replicas", faults: faults)
  }

  private var ready: Check {
    Check(
      name: "ready", claim: "every replica is ready again once the traces of the last fault are gone",
      figures: "\(quietEnd.count) replicas", faults: unready.map { "replica \($0) is not" })
  }

  private var endings: Check {
    var faults: [String] = []
    var ended: [String: Int] = [:]
    for (life, log) in logs {
      switch (life.ended?.by, life.process.ending) {
      case (SIGKILL?, .signalled(SIGKILL)?): ended["killed", default: 0] += 1
      case (SIGTERM?, .exited(0)?): ended["drained", default: 0] += 1
      case (_, let ending):
        faults.append("replica \(log.replica), started \(life.began): \(String(describing: ending))")
      }
    }
    return Check(
      name: "endings", claim: "no replica ended but by the harness's hand, and each SIGTERM ended with 0",
      figures: ended.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", "), faults: faults)
  }

  /// In kB. At first a lone replica has not yet used as many connections at once as it will.
  private static let dirtyGrowthLimit = 1_536

  private var footprints: Check {
    let dirty = first.map(\.footprint.dirtyKilobytes).max() ?? 0
    let descriptors = first.map(\.footprint.descriptors).max() ?? 0
    let faults = quietEnd.filter { sample in
      // A pool of ten and one more Redis connection than at the start can be open briefly.
      sample.footprint.threads != 1 || sample.footprint.descriptors > descriptors + 11
        || sample.footprint.dirtyKilobytes > dirty + Self.dirtyGrowthLimit
    }
    return Check(
      name: "footprint", claim: "descriptors and memory have not grown, and there is one thread",
      figures: "at first \(descriptors) descriptors, \(dirty) kB dirty; at the end at most "
        + "\(quietEnd.map(\.footprint.descriptors).max() ?? 0) and "
        + "\(quietEnd.map(\.footprint.dirtyKilobytes).max() ?? 0) kB",
      faults: faults.map { "replica \($0.replica): \($0.footprint)" })
  }

  private var logLines: Check {
    let broken = logs.flatMap { log in log.log.broken.map { "replica \(log.log.replica): \($0.prefix(100))" } }
    let lines = logs.reduce(0) { $0 + $1.log.lines }
    return Check(
      name: "log", claim: "every line of every log is a JSON object with time, level and message",
      figures: "\(lines) lines of \(logs.count) processes", faults: broken + (lines == 0 ? ["there is none"] : []))
  }

  private var secrets: Check {
    let password = PrivatePostgres.lockedPassword
    let forms = [
      Planted.mark, Data(Planted.mark.utf8).base64EncodedString().prefix(16).description,
      Data(Planted.mark.utf8).map { String(format: "%02x", $0) }.joined(), password,
      password.addingPercentEncoding(withAllowedCharacters: .alphanumerics)!,
    ]
    let faults = texts.flatMap { text in
      forms.filter { text.text.contains($0) }.map { "\(text.place) has \"\($0.prefix(8))…\"" }
    }
    return Check(
      name: "secrets", claim: "no planted secret is in a log, a metric or Redis",
      figures: "\(texts.reduce(0) { $0 + $1.text.utf8.count } / 1024) kB of text from \(texts.count) places",
      faults: faults)
  }

  /// Whether the recorders are complete, and how the machine behaved.
  var witnesses: Check {
    let kinds = Set(disturbances.incidents.map(\.fault.kind.rawValue))
    return Check(
      name: "witnesses", claim: "nothing happened unseen",
      figures: "\(locks.commands) commands in Redis; \(disturbances.incidents.count) faults of \(kinds.count) kinds, "
        + "\(disturbances.loads.count) loads; longest stall of the machine \(longestStall.text)",
      faults: unexpectedGaps > 0 ? ["MONITOR was cut off \(unexpectedGaps) times"] : [])
  }
}
