// The model's triggers: setting one, informing the other sweepers, and the end of a triggered run.
// Invariant: they match TriggerScripts and CoordinationScripts; ScheduleModelTests compares the answers.

import Coordination
import Reactor

extension ScheduleModel {
  /// The answer of the script that sets a trigger.
  struct TriggerAnswer {
    let kind: String
    var id: Int64 = 0
    var text = ""
  }

  mutating func trigger(accepts: String, at now: Int64) -> TriggerAnswer {
    expire(at: now)
    let paused = record?.paused ?? ""
    let hasEnded = Pause(origin: "", text: paused).until.map { $0 <= now } ?? false
    if !["", "0", "false"].contains(paused), !hasEnded { return TriggerAnswer(kind: "paused", text: paused) }
    guard var record, record.isAttended(at: now) else { return TriggerAnswer(kind: "unattended") }
    defer { self.record = record }
    if let id = record.trigger, record.isTriggered(at: now), record.triggerRun != id {
      if accepts == "1" { record.triggerAccepts = "1" }
      return TriggerAnswer(kind: "joined", id: id)
    }
    let id = max(now, (record.newestTrigger ?? 0) + 1)
    (record.trigger, record.newestTrigger, record.triggerAccepts) = (id, id, accepts)
    record.triggerUntil = now + Int64(CoordinationScripts.triggerLifeMilliseconds)
    let isRunning = lock != nil && lock?.token == record.token
    return TriggerAnswer(kind: "triggered", id: id, text: isRunning ? "running" : "")
  }

  /// Another sweeper was triggered.
  mutating func announceTrigger(_ id: Int64) {
    if let record, (record.newestTrigger ?? 0) < id { self.record?.newestTrigger = id }
  }

  /// The run that a trigger started has ended.
  func endTrigger(_ ended: EndedRun, _ replica: String, _ record: inout Record) {
    if record.trigger == record.triggerRun, !omissions.triggerEnd { record.trigger = nil }
    let (run, count) = (ended.run, ended.result.count)
    record.triggered =
      "\(record.triggerRun ?? 0) \(run.epoch) \(ended.result.name) \(count.found) \(count.changed) "
      + "\(ended.duration.milliseconds) \(replica) \(ended.result.failure?.errorClass ?? "")"
  }
}

extension ScheduleModel.Record {
  /// Whether a trigger makes a run due.
  func isTriggered(at now: Int64) -> Bool {
    guard trigger != nil, let triggerUntil else { return false }
    return now < triggerUntil && triggerUntil - now <= Int64(CoordinationScripts.triggerLifeMilliseconds)
  }

  /// The record's replicas; nil if none has asked.
  var replicas: String? { presences?.map(\.text).joined() }

  fileprivate func isAttended(at now: Int64) -> Bool {
    (presences ?? []).contains { presence in
      guard let interval = presence.intervalMilliseconds else { return false }
      return now - presence.seenAt < max(Int64(CoordinationScripts.presenceMilliseconds), 2 * interval)
    }
  }
}
