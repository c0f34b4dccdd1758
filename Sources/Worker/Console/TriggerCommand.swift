// The verb trigger: one run of a sweeper now, by whichever replica asks first, and its result.
// Invariant: the end of a trigger's run is reported once; every wait is bounded.

import Coordination
import Logging
import Reactor

extension CommandOption {
  static let wait = CommandOption(
    name: "wait",
    help:
      "Wait for the runs, and set the exit status by their outcomes. A trigger that no replica takes expires after 10m."
  )
  static let accept = CommandOption(
    name: "accept", help: "Let the run flag any share of the rows, whatever SB_WORKER_…_MAX_SHARE allows.")
}

extension Verb {
  static let trigger = Verb(
    name: "trigger",
    help: """
      Run sweepers once now, due or not, on the replica that asks Redis first, within the shortest interval of its \
      sweepers (30s by default) and after a run in progress. The run takes the lock and is counted, logged and \
      notified like any other. Refused for a sweeper that is paused or off.
      """,
    operands: Operands(name: "SWEEPER", count: 1...64, words: { Sweepers.names }), options: [.wait, .accept],
    statuses: [
      ExitStatus(0, "Triggered; with --wait: each run succeeded."),
      ExitStatus(1, "Redis did not answer, or refused the command."),
      ExitStatus(
        TriggerCommand.undoneStatus,
        "A sweeper is paused or attended by no replica; with --wait: a run failed, or none began or ended in time."),
    ],
    perform: { arguments, context in
      let rows = RedisVisit.rows + [Setting.logLevel.row]
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      return EventLoop.run {
        let command = TriggerCommand(namespace: settings[.redisNamespace], context: context)
        do {
          return try await RedisVisit(settings, clock: context.clock).use { client in
            try await command.trigger(
              arguments.operands, accepts: arguments.has(.accept), waits: arguments.has(.wait), client)
          }
        } catch {
          context.logger(settings).error("not done", metadata: ["error": "\(RedisVisit.reason(error))"])
          return 1
        }
      }
    })
}

/// Triggers sweepers, and follows them.
@EventLoop
struct TriggerCommand {
  nonisolated static let undoneStatus: Int32 = 2
  /// How often awaited runs are checked.
  private static let period = Duration.milliseconds(500)

  let namespace: String
  let context: CommandContext

  /// A trigger that was set, and its last reported state.
  private struct Pending {
    let sweeper: String
    let id: Int64
    var reported: TriggerProgress?
  }

  func trigger(_ names: [String], accepts: Bool, waits: Bool, _ client: any RedisScripts) async throws -> Int32 {
    var (pending, text, isUndone): ([Pending], String, Bool) = ([], "", false)
    for name in names where !pending.contains(where: { $0.sweeper == name }) {
      let answer = try await evaluate(CoordinationScripts.trigger, name, [accepts ? "1" : "0"], client)
      guard answer.count == 4, let id = PlausibleNumber.read(answer[2]) else { throw Coordinator.UnexpectedAnswer() }
      text += "\(name): \(ReportTable.printable(Self.line(answer[0].text ?? "", answer[3].text ?? "")))\n"
      if id > 0 { pending.append(Pending(sweeper: name, id: id)) } else { isUndone = true }
    }
    if let newest = pending.map(\.id).max() {
      // Replicas learn of it through their most frequently polled sweepers.
      for name in Sweepers.names {
        _ = try await evaluate(CoordinationScripts.announceTrigger, name, ["\(newest)"], client)
      }
    }
    guard context.show(text) == 0 else { return 1 }
    guard waits else { return isUndone ? Self.undoneStatus : 0 }
    return try await follow(pending, isUndone: isUndone, client)
  }

  private static func line(_ kind: String, _ text: String) -> String {
    switch kind {
    case "paused": "not triggered: \(Pause(origin: "", text: text).description)"
    case "unattended": "not triggered: no replica attends it; it is off, or no worker runs"
    case "joined": "already triggered, and no run has begun: one run serves both"
    default: text == "running" ? "triggered; it begins after the run under way" : "triggered"
    }
  }

  private func follow(_ triggers: [Pending], isUndone: Bool, _ client: any RedisScripts) async throws -> Int32 {
    var (pending, isUndone) = (triggers, isUndone)
    while true {
      for index in pending.indices {
        let progress = try await progress(of: pending[index], client)
        guard progress != pending[index].reported else { continue }
        pending[index].reported = progress
        if let line = progress.line {
          guard context.show("\(pending[index].sweeper): \(ReportTable.printable(line))\n") == 0 else { return 1 }
        }
        if progress.isOver, !progress.isSuccess { isUndone = true }
      }
      pending.removeAll { $0.reported?.isOver ?? false }
      if pending.isEmpty { return isUndone ? Self.undoneStatus : 0 }
      try await context.clock.sleep(for: Self.period)
    }
  }

  private func progress(of trigger: Pending, _ client: any RedisScripts) async throws -> TriggerProgress {
    let answer = try await evaluate(CoordinationScripts.records, trigger.sweeper, SweeperRecord.fields, client)
    guard answer.count == 2, let now = PlausibleNumber.read(answer[0]) else { throw Coordinator.UnexpectedAnswer() }
    return TriggerProgress(of: trigger.id, SweeperRecord(sweeper: trigger.sweeper, answer[1]), at: now)
  }

  private func evaluate(
    _ script: RedisScript, _ sweeper: String, _ arguments: [String], _ client: any RedisScripts
  ) async throws -> [RedisValue] {
    let keys = CoordinationScripts.keys(namespace: namespace, sweeper: sweeper)
    let answer = try await client.evaluate(
      script, keys: [keys.lock, keys.record], arguments: arguments, isRepeatable: true,
      by: context.clock.now.advanced(by: Coordinator.commandLimit))
    return answer.array ?? []
  }
}

/// A trigger's progress, from its sweeper's record. Pure.
enum TriggerProgress: Equatable, Sendable {
  case waiting
  case running(replica: String, epoch: String)
  /// The run ended; rows are as recorded.
  case ended(outcome: String, found: String, changed: String, milliseconds: Int64, replica: String, error: String)
  /// No replica took it, or the one that did died and no other replaced it.
  case expired
  /// The record does not know it: Redis lost its data.
  case lost

  init(of id: Int64, _ record: SweeperRecord, at now: Int64) {
    // A later trigger's run also began after this one was set.
    let words = (record.text("triggered") ?? "").split(separator: " ").map(String.init)
    if words.count >= 7, let ended = Int64(words[0]), ended >= id {
      self = .ended(
        outcome: words[2], found: words[3], changed: words[4], milliseconds: PlausibleNumber.read(words[5]) ?? 0,
        replica: words[6],
        error: words.count > 7 ? words[7] : "")
      return
    }
    let isCurrent = (record.number("trigger") ?? 0) >= id
    if record.isRunning, (record.number("trigger_run") ?? 0) >= id {
      self = .running(
        replica: record.text("replica") ?? "an unknown replica", epoch: record.text("epoch") ?? "unknown")
    } else if !isCurrent {
      self = .lost
    } else {
      self = now < (record.number("trigger_until") ?? 0) ? .waiting : .expired
    }
  }

  var isOver: Bool {
    switch self {
    case .waiting, .running: false
    case .ended, .expired, .lost: true
    }
  }

  var isSuccess: Bool {
    if case .ended("success", _, _, _, _, _) = self { true } else { false }
  }

  /// What to print; nil if there is nothing to say.
  var line: String? {
    switch self {
    case .waiting: nil
    case .running(let replica, let epoch): "running on \(replica), epoch \(epoch)"
    case .ended(let outcome, let found, let changed, let milliseconds, let replica, let error):
      "\(outcome) on \(replica) in \(FleetStatus.duration(milliseconds))\(error.isEmpty ? "" : " with \(error)"): "
        + "\(found) rows found, \(changed) changed"
    case .expired: "expired: no replica has run it within 10m"
    case .lost: "lost: Redis no longer has the trigger"
    }
  }
}
