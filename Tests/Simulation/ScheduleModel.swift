// One sweeper's state in Redis and what each script does to it: a model of CoordinationScripts in Swift.
// Invariant: it answers and writes exactly as the scripts do; ScheduleModelTests compares them on a real Redis.

import Coordination
import Reactor

/// The lock, the schedule record and the history of one sweeper.
package struct ScheduleModel {
  /// Rules of the scripts that a test can omit, to check that this is noticed.
  package struct Omissions {
    package var tokenCheck = false
    package var notBefore = false
    package var notAfter = false
    package var epochFollowsTime = false
    package var pauses = false
    package var triggerEnd = false

    package init() {}
  }

  struct Lock: Equatable {
    var token: String
    /// In ms of Redis's clock; nil if it never expires.
    var expiry: Int64?
  }

  struct Line: Equatable {
    let epoch: Int64
    let slot: Int64
    let outcome: String
    let rows: Int64
    let duration: Int64
    let replica: String
    let finished: Int64
    let found: Int64
    let skipped: Int64
    let refused: Int64
    let error: String
  }

  struct Record: Equatable {
    var epoch: Int64
    var token: String?
    var slot: Int64?
    var started: Int64?
    var completed: Int64?
    var notBefore: Int64?
    var nextTry: Int64?
    var failures: Int64?
    var origin: String?
    var paused: String?
    var pausedIn: String?
    var outcome: String?
    var rows: Int64?
    var duration: Int64?
    var progress: String?
    var failingSince: Int64?
    var alerts: Int64?
    var alertedAt: Int64?
    var verdict: Int64?
    var verdictFor: Int64?
    var verdictRuns: Int64?
    var found: Int64?
    var skipped: Int64?
    var refused: Int64?
    var error: String?
    var ended: Int64?
    var by: String?
    var succeeded: Int64?
    var replica: String?
    var rowsSoFar: String?
    /// Nil until a take.
    var presences: [Presence]?
    var pauseTold: String?
    var noticeFor: String?
    var notice: Int64?
    var stop: String?
    var trigger: Int64?
    var triggerUntil: Int64?
    var triggerAccepts: String?
    var triggerRun: Int64?
    var triggerEpoch: Int64?
    var triggered: String?
    var newestTrigger: Int64?
  }

  /// A replica that attends the sweeper. The record stores it as text, which is built only when read.
  struct Presence: Equatable {
    let replica: String
    let seenAt: Int64
    /// What the replica reports: interval, version, settings.
    let words: String

    var text: String { "\(replica) \(seenAt) \(words);" }

    /// Nil if it is not a number.
    var intervalMilliseconds: Int64? { words.split(separator: " ").first.flatMap { Int64($0) } }
  }

  struct Ask {
    let token: String
    var lease: Int64
    let grid: SlotGrid
    let notAfter: Int64
    let mode: TakeMode
    var pause: Pause?
    var replica = "replica"
    /// Empty if the replica is not to be listed.
    var presence = "-"
  }

  enum CompleteAnswer: Equatable {
    case superseded
    case done(verdict: Int64, failingFor: Int64, failures: Int64)
  }

  private(set) var lock: Lock?
  var record: Record?
  private(set) var history: [Line] = []
  /// What the last take learned about the fleet; nil if it was late.
  private(set) var fleet: FleetState?
  package var omissions = Omissions()

  package init() {}

  /// Redis lost its data.
  mutating func flush() {
    let omissions = omissions
    self = ScheduleModel()
    self.omissions = omissions
  }

  /// As `SET key token PX lease`, and without an expiry.
  mutating func setLock(_ token: String, expiry: Int64?) {
    lock = Lock(token: token, expiry: expiry)
  }

  mutating func expire(at now: Int64) {
    if let expiry = lock?.expiry, now > expiry { lock = nil }
  }

  // MARK: The scripts

  mutating func take(_ ask: Ask, at now: Int64) -> TakeAnswer {
    expire(at: now)
    fleet = nil
    if now > ask.notAfter, !omissions.notAfter { return .late }
    let current = ask.grid.slot(at: now)
    let following = ask.grid.slot(after: now)
    let isNew = record == nil
    var record = self.record ?? Record(epoch: now, notBefore: now + ask.lease)
    defer { self.record = record }
    let origin = record.origin ?? ask.token
    record.origin = origin
    noteReplica(ask, in: &record, at: now)
    if record.paused == nil, let pause = ask.pause, pause.origin != origin, pause.origin != record.pausedIn {
      (record.paused, record.pausedIn) = (pause.text, pause.origin)
    }
    let paused = pause(ask, &record, at: now)
    if let paused, !omissions.pauses {
      return .paused(slot: current, Pause(origin: origin, text: paused))
    }
    if isNew { return .settling(slot: current, notBefore: now + ask.lease) }
    let isTriggered = record.isTriggered(at: now)
    if record.token == ask.token {
      return lock?.token == ask.token
        ? taken(record, ask, isTriggered: record.triggerEpoch == record.epoch, slot: current, nextSlot: following)
        : .late
    }
    if let slot = record.slot, slot > now { record.slot = now }
    let slot = record.slot ?? 0
    let started = min(record.started ?? 0, now)
    let isQuiet = now - started < Int64(CoordinationScripts.runOnStartQuietMilliseconds)
    var due = following
    if isTriggered || ask.mode == .force || (ask.mode == .start && !isQuiet) {
      due = now
    } else if slot < current {
      due = (record.started ?? 0) > now ? now : min(record.nextTry ?? 0, following)
    }
    if due > now { return .idle(slot: current, due: due) }
    if let expiry = lock?.expiry {
      let remaining = min(expiry - now, Int64(CoordinationScripts.longestLeaseMilliseconds))
      lock?.expiry = now + remaining
      return .held(slot: current, remaining: remaining)
    }
    if lock != nil { return .stuck(slot: current) }
    if let notBefore = record.notBefore, notBefore > now + Int64(CoordinationScripts.longestLeaseMilliseconds) {
      record.notBefore = now + ask.lease
    }
    let notBefore = omissions.notBefore ? 0 : min(record.notBefore ?? 0, now + ask.lease)
    if notBefore > now { return .settling(slot: current, notBefore: notBefore) }
    record.epoch =
      omissions.epochFollowsTime ? (record.token == nil ? 1 : record.epoch + 1) : max(record.epoch + 1, now)
    lock = Lock(token: ask.token, expiry: now + ask.lease)
    record.token = ask.token
    record.started = now
    record.replica = ask.replica
    record.rowsSoFar = ""
    if isTriggered { (record.triggerRun, record.triggerEpoch) = (record.trigger, record.epoch) }
    return taken(record, ask, isTriggered: isTriggered, slot: current, nextSlot: following)
  }

  private func taken(
    _ record: Record, _ ask: Ask, isTriggered: Bool, slot: Int64, nextSlot: Int64
  ) -> TakeAnswer {
    .taken(
      Run(
        epoch: record.epoch, slot: slot, nextSlot: nextSlot, isForced: isTriggered,
        acceptsAnyShare: isTriggered && record.triggerAccepts == "1", failures: Int(record.failures ?? 0),
        origin: record.origin ?? "", progress: record.progress, token: ask.token,
        takenAt: MonotonicInstant(nanoseconds: 0)))
  }

  /// Lists the asking replica, if it is to be listed, and those seen recently.
  private mutating func noteReplica(_ ask: Ask, in record: inout Record, at now: Int64) {
    let isListed = !ask.presence.isEmpty
    var presences = isListed ? [Presence(replica: ask.replica, seenAt: now, words: ask.presence)] : []
    let horizon = max(Int64(CoordinationScripts.presenceMilliseconds), 2 * ask.grid.intervalMilliseconds)
    for presence in record.presences ?? [] where !isListed || presence.replica != ask.replica {
      let age = now - presence.seenAt
      if age >= 0, age < horizon, presences.count < CoordinationScripts.replicaLimit { presences.append(presence) }
    }
    record.presences = presences
    fleet = FleetState(
      replicas: presences.count, succeededAt: record.succeeded.map { min($0, now) },
      newestTrigger: record.newestTrigger ?? 0, origin: record.origin ?? "")
  }

  /// Whether and how the sweeper is paused, which replica reports it, and which holds the lock for it.
  private mutating func pause(_ ask: Ask, _ record: inout Record, at now: Int64) -> String? {
    if let text = record.paused, let until = Pause(origin: "", text: text).until, until <= now { record.paused = "" }
    let paused = record.paused.flatMap { ["", "0", "false"].contains($0) ? nil : $0 }
    let notedAt = record.pauseTold.flatMap { Int64($0) }
    var notice = PauseNotice.none
    if record.noticeFor == ask.token {
      notice = record.notice.flatMap { PauseNotice(rawValue: $0) } ?? .none
    } else if paused != nil {
      let isDue = notedAt.map { now - $0 >= Int64(CoordinationScripts.pauseReminderMilliseconds) || $0 > now } ?? true
      notice = notedAt == nil ? .begun : isDue ? .reminder : .none
    } else if notedAt != nil {
      notice = .ended
    }
    if notice != .none, record.noticeFor != ask.token {
      (record.noticeFor, record.notice) = (ask.token, notice.rawValue)
      record.pauseTold = notice == .ended ? "" : "\(now)"
    }
    let isFree = lock == nil || lock?.token == CoordinationScripts.pauseToken
    if paused != nil, isFree, !omissions.pauses {
      lock = Lock(
        token: CoordinationScripts.pauseToken, expiry: now + 2 * ask.grid.intervalMilliseconds + ask.lease)
    } else if lock?.token == CoordinationScripts.pauseToken {
      lock = nil
    }
    fleet = fleet.map {
      FleetState(
        replicas: $0.replicas, succeededAt: $0.succeededAt, pause: notice, newestTrigger: $0.newestTrigger,
        origin: $0.origin)
    }
    return paused
  }

  mutating func renew(token: String, lease: Int64, notAfter: Int64, changed: String, at now: Int64) -> Int64 {
    expire(at: now)
    guard now <= notAfter, let held = lock, held.token == token || omissions.tokenCheck else { return 0 }
    lock?.expiry = now + lease
    if record?.token == token { record?.rowsSoFar = changed }
    return record?.stop == token ? 2 : 1
  }

  mutating func release(token: String, at now: Int64) -> Bool {
    expire(at: now)
    guard let held = lock, held.token == token || omissions.tokenCheck else { return false }
    lock = nil
    return true
  }

  mutating func leave(replica: String, listedAt: String) {
    record?.presences?.removeAll { $0.replica == replica && "\($0.seenAt)" == listedAt }
  }

  mutating func complete(
    _ ended: EndedRun, lease: Int64, interval: Int64, replica: String, at now: Int64
  ) -> CompleteAnswer {
    expire(at: now)
    let (run, result) = (ended.run, ended.result)
    let mine = run.epoch
    if lock?.token == run.token || omissions.tokenCheck { lock = nil }
    if let record, record.epoch > mine, record.token != nil { return .superseded }
    if let record, record.completed == mine {
      return .done(verdict: record.verdict ?? 0, failingFor: record.verdictFor ?? 0, failures: record.verdictRuns ?? 0)
    }
    var record = self.record ?? Record(epoch: mine, notBefore: now + lease, origin: run.token)
    record.epoch = max(record.epoch, mine)

    var verdict: Int64 = 0
    let since = min(record.failingSince ?? now, now)
    var runs = record.failures ?? 0
    switch result {
    case .success:
      record.slot = max(record.slot ?? 0, run.slot)
      record.nextTry = nil
      record.succeeded = now
      if !result.isInconclusive {
        if record.failingSince != nil { verdict = 3 }
        (record.failures, record.failingSince, record.alerts, record.alertedAt) = (nil, nil, nil, nil)
      }
    case .failure:
      if !result.isInconclusive { verdict = alert(&record, since: since, at: now) }
      runs += 1
      let phase = (now - run.slot) % interval
      let following = now - (phase < 0 ? phase + interval : phase) + interval
      record.nextTry = min(now + ended.retryDelay.milliseconds, following)
      record.failures = runs
    case .drained, .off:
      break
    }
    record.completed = mine
    record.outcome = result.name
    record.rows = Int64(result.count.changed)
    record.duration = ended.duration.milliseconds
    (record.verdict, record.verdictFor, record.verdictRuns) = (verdict, now - since, runs)
    let error = result.failure?.errorClass ?? ""
    (record.found, record.skipped) = (Int64(result.count.found), Int64(result.count.skipped))
    (record.refused, record.error) = (Int64(result.count.refused), error)
    (record.ended, record.by) = (now, replica)
    if let progress = result.count.progress { record.progress = progress }
    if record.triggerEpoch == mine, result.name != "drained" { endTrigger(ended, replica, &record) }
    self.record = record
    history.insert(
      Line(
        epoch: mine, slot: run.slot, outcome: result.name, rows: Int64(result.count.changed),
        duration: ended.duration.milliseconds, replica: replica, finished: now, found: Int64(result.count.found),
        skipped: Int64(result.count.skipped), refused: Int64(result.count.refused), error: error), at: 0)
    if history.count > CoordinationScripts.historyLimit { history.removeLast() }
    return .done(verdict: verdict, failingFor: now - since, failures: runs)
  }

  /// Records a failure that may be notified.
  private func alert(_ record: inout Record, since: Int64, at now: Int64) -> Int64 {
    let alerts = record.alerts ?? 0
    let alerted = min(record.alertedAt ?? now, now)
    let gaps = CoordinationScripts.reminderGapsMilliseconds
    var verdict: Int64 = 0
    if record.failingSince == nil {
      verdict = 1
    } else if now - alerted >= gaps[max(1, min(Int(alerts), gaps.count)) - 1] {
      verdict = 2
    }
    record.alerts = alerts + (verdict > 0 ? 1 : 0)
    record.alertedAt = verdict > 0 ? now : alerted
    record.failingSince = since
    return verdict
  }
}
