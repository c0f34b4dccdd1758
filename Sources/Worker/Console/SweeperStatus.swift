// The state of one sweeper, from its record in Redis and this command's configuration. Pure.

import Coordination
import Reactor

/// What status reports about one sweeper.
struct SweeperStatus: Sendable {
  enum State: String, Sendable {
    case running, idle, due, failing, paused, settling
    /// Something other than a recorded run holds the lock, with or without an expiry.
    case held, stuck
    case off
    /// No replica attends it.
    case unattended
    /// A key holds a value that no worker wrote.
    case unreadable
  }

  let record: SweeperRecord
  /// Those that attend it.
  let replicas: [SweeperRecord.Replica]
  let state: State
  /// In ms; nil if no replica attends and this command's settings have none.
  let interval: Int64?
  /// When the next run is due, in ms of Redis's clock; nil if none will be.
  let due: Int64?
  /// Further remarks, a sentence each.
  var notes: [String]
  /// Whether it is off, and would also be with the default settings and a complete schema.
  let isOffByDefault: Bool

  /// - Parameters:
  ///   - now: Redis's time in ms.
  ///   - ownInterval: the interval by this command's settings, in ms; nil if they turn the sweeper off.
  ///   - absence: why the sweeper is off by these settings, or what the schema lacks.
  ///   - isAbsentByDefault: whether the default settings have the same reason.
  ///   - probesFirst: whether its replicas do without Redis while PostgreSQL has nothing due for it.
  init(
    _ record: SweeperRecord, at now: Int64, lockKey: String, ownInterval: Int64?, absence: String?,
    isAbsentByDefault: Bool, probesFirst: Bool = false
  ) {
    self.record = record
    interval = record.intervalMilliseconds ?? ownInterval
    replicas = record.attending(at: now)
    let isAttended = record.isAttended(every: interval, at: now)
    let nextDue = interval.map { interval in
      let due = record.due(interval: interval, at: now)
      return probesFirst && due <= now ? Self.quietDue(of: record, every: interval, at: now) ?? due : due
    }
    state = Self.state(of: record, at: now, due: nextDue, isAttended: isAttended, absence: absence)
    isOffByDefault = state == .off && isAbsentByDefault
    switch state {
    case .off, .unattended, .paused, .unreadable, .stuck: due = nil
    default: due = nextDue
    }
    var notes = Self.notes(on: record, state, at: now, lockKey: lockKey)
    switch state {
    case .off: notes.append("off: \(absence ?? "")")
    case .unattended: notes.append("no replica has asked for it in the last 10 minutes or two intervals")
    default: break
    }
    self.notes = notes
  }

  /// The next slot, while replicas that found nothing due since the last run need not have told Redis; nil if one must
  /// ask now.
  private static func quietDue(of record: SweeperRecord, every interval: Int64, at now: Int64) -> Int64? {
    guard !record.isTriggered(at: now), record.number("next_try") == nil,
      let seenAt = record.replicas.map(\.seenAt).max()
    else { return nil }
    let grid = SlotGrid(sweeper: record.sweeper, interval: .milliseconds(interval))
    let asksAt = grid.slot(after: min(seenAt, now) + SweeperLoop.maximumSilence.milliseconds)
    return now < asksAt ? grid.slot(after: now) : nil
  }

  /// The status of each of `records`.
  ///
  /// - Parameters:
  ///   - now: Redis's time in ms.
  ///   - lacks: what the schema lacks, by the names of the sweepers that need it.
  ///   - whose: by whose settings a sweeper is off, in words.
  static func all(
    _ records: [SweeperRecord], at now: Int64, _ settings: Settings, lacks: [String: String], whose: String
  ) -> [SweeperStatus] {
    let absences = Sweepers.absent(settings)
    let intervals = Sweepers.all(settings)
    let probing = Sweepers.declared(settings).filter {
      if case .rows(let sweep) = $0.work { sweep.probesFirst } else { false }
    }.map(\.name)
    return records.map { record in
      let lack = lacks[record.sweeper].map { "the schema has no \($0)" }
      let absence = absences.first { $0.name == record.sweeper }
      let keys = CoordinationScripts.keys(namespace: settings[.redisNamespace], sweeper: record.sweeper)
      return SweeperStatus(
        record, at: now, lockKey: keys.lock,
        ownInterval: intervals.first { $0.name == record.sweeper }?.interval?.milliseconds,
        absence: lack ?? absence.map { "\($0.reason), \(whose)" },
        isAbsentByDefault: lack == nil
          && Sweepers.absentByDefault.contains { $0.name == absence?.name && $0.reason == absence?.reason },
        probesFirst: probing.contains(record.sweeper))
    }
  }

  /// Whether it needs an operator's attention.
  var needsAttention: Bool {
    switch state {
    case .failing, .paused, .held, .stuck, .unattended, .unreadable: true
    case .running, .idle, .due, .settling, .off: record.pause != nil || record.number("failing_since") != nil
    }
  }

  /// Whether its last runs failed only because a server was unavailable. No alert counts them.
  private static func isPrevented(_ record: SweeperRecord) -> Bool {
    record.text("outcome") == "failure" && record.number("failures") ?? 0 > 0 && record.number("failing_since") == nil
  }

  /// The class of its failures; nil if it is not failing.
  var errorClass: String? { record.number("failing_since") == nil ? nil : record.text("error") }

  private static func state(
    of record: SweeperRecord, at now: Int64, due: Int64?, isAttended: Bool, absence: String?
  ) -> State {
    if record.fault != nil { return .unreadable }
    if record.isRunning { return .running }
    if record.pause != nil { return .paused }
    if record.lock != nil { return record.lockRemaining == nil ? .stuck : .held }
    if !isAttended { return absence == nil ? .unattended : .off }
    if record.number("failing_since") != nil || isPrevented(record) { return .failing }
    if let notBefore = record.number("not_before"), notBefore > now { return .settling }
    return due.map { $0 <= now } ?? false ? .due : .idle
  }

  private static func notes(on record: SweeperRecord, _ state: State, at now: Int64, lockKey: String) -> [String] {
    var notes: [String] = []
    func since(_ field: String) -> String {
      GoDuration.text(wholeSecondsOf: .milliseconds(max(0, now - (record.number(field) ?? now))))
    }
    switch state {
    case .unreadable: notes.append("its keys in Redis cannot be read: \(record.fault ?? "")")
    case .running:
      let rows = record.text("rows_so_far").map { ", \($0) rows changed so far" } ?? ""
      notes.append(
        "running for \(since("started")) on \(record.text("replica") ?? "an unknown replica"), epoch "
          + "\(record.text("epoch") ?? "unknown")\(rows)")
    case .stuck: notes.append("the lock has no expiry, so no worker set it. Find out who did, then: DEL \(lockKey)")
    case .held:
      let remaining = GoDuration.text(wholeSecondsOf: .milliseconds(record.lockRemaining ?? 0))
      notes.append("another process holds the lock, for \(remaining) unless it renews it")
    case .settling: notes.append("Redis has no record of earlier runs, and one may still be active")
    default: break
    }
    if record.isTriggered(at: now) { notes.append("triggered: a replica runs it when it next asks Redis") }
    if let pause = record.pause { notes.append(Pause(origin: "", text: pause).description) }
    if record.number("failing_since") != nil {
      let runs = record.number("failures") ?? 0
      let count = runs == 1 ? "1 run" : "\(runs) runs in a row"
      notes.append("failing for \(since("failing_since")), \(count)\(lastError(of: record))")
    }
    if isPrevented(record) {
      let runs = record.number("failures") ?? 0
      let server = record.text("error")?.hasPrefix("redis") ?? false ? "Redis" : "PostgreSQL"
      notes.append("\(server) was unavailable to the last \(runs == 1 ? "run" : "\(runs) runs")")
    }
    if let rows = rowsLeft(by: record) { notes.append(rows) }
    return notes
  }

  private static func lastError(of record: SweeperRecord) -> String {
    guard let error = record.text("error") else { return "" }
    return ", the last with \(error)" + (ErrorClass.meaning(of: error).map { ": \($0)" } ?? "")
  }

  /// What the last run left undone; nil if nothing.
  private static func rowsLeft(by record: SweeperRecord) -> String? {
    let (skipped, refused) = (record.number("skipped") ?? 0, record.number("refused") ?? 0)
    func rows(_ count: Int64) -> String { count == 1 ? "1 row" : "\(count) rows" }
    if record.text("error") == "share" { return "the last run would have changed \(rows(refused))" }
    let locked = "\(rows(skipped)) locked by others"
    // The class of a run that failed for refused rows are their SQLSTATEs.
    let cause = record.text("outcome") == "failure" ? record.text("error").map { " (\($0))" } ?? "" : ""
    switch (skipped > 0, refused > 0) {
    case (false, false): return nil
    case (true, false): return "the last run left \(locked)"
    case (false, true): return "the last run left \(rows(refused)) that PostgreSQL refused to change\(cause)"
    case (true, true):
      return "the last run left \(locked), and \(rows(refused)) that PostgreSQL refused to change\(cause)"
    }
  }
}
