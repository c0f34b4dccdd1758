// Reports a sweeper's runs and changes: log lines, metrics and events. Invariant: it decides nothing. Used by
// SweeperLoop.

import Coordination
import Logging
import Reactor

/// Reports what one sweeper does.
@EventLoop
struct SweeperReporter {
  /// With its current settings.
  var sweeper: Sweeper
  let metrics: TaskMetrics
  let receiver: any EventReceiver
  let clock: LoopClock
  let random: Random
  let logger: Logger

  /// - Parameter isOutageLogged: whether a server's outage under way has been logged. It explains the failure of every
  ///   run that it prevents.
  func report(_ ended: EndedRun, isOutageLogged: Bool) {
    let (result, count) = (ended.result, ended.result.count)
    var fields: Logger.Metadata = [
      "epoch": .stringConvertible(ended.run.epoch), "duration_ms": .stringConvertible(ended.duration.milliseconds),
    ]
    if count.changed > 0 || result.failure == nil {
      for count in counts(of: count) { fields[count.name] = .stringConvertible(count.count) }
    }
    if count.isPartial { fields["partial"] = "true" }
    if count.skipped > 0 { fields["skipped"] = .stringConvertible(count.skipped) }
    metrics.record(count)
    metrics.record(result.slotOutcome)
    switch result {
    case .success:
      metrics.observe(ended.duration)
      logger.log(level: count.found > count.seen ? .info : .debug, "swept", metadata: fields)
    case .failure(let failure, _):
      metrics.observe(ended.duration)
      fields["error"] = "\(failure.reason)"
      fields["title"] = "\(sweeper.report.failureTitle)"
      // The existing worker's text, which alerts match.
      logger.log(
        level: failure.isOutage && isOutageLogged ? .debug : .error, "scheduler: task failed", metadata: fields)
    case .drained(let reason, _):
      logger.info("run returned: \(reason.rawValue)", metadata: fields)
    case .off:
      // `report(SchemaWatch.Change)` logs what is missing.
      break
    }
    // Also for a run that failed: its changes remain, and no later run counts them.
    if count.changed - count.exhausted + count.linked > 0 { notifyOfChanges(count) }
    if count.exhausted > 0, let texts = sweeper.report.exhausted {
      send(
        .report, sweeper.report.severity, texts.title, texts.detail, at: clock.wallTime,
        [Event.Count(texts.countName, count.exhausted)])
    }
    if result.isSuccess, let queue = metrics.queue {
      queue.set(count.waits)
      for wait in count.waits { report(wait) }
    }
  }

  func report(_ change: SchemaWatch.Change?) {
    switch change {
    case nil: return
    case .off(let missing):
      logger.info("sweeper is off: the schema lacks what it requires", metadata: ["missing": "\(missing)"])
    case .on:
      logger.info("sweeper is on: the schema has what it requires")
    }
    metrics.setEnabled(change == .on)
  }

  /// Queued jobs of one type have begun to wait for too long, or no longer do. Each type is a component, so that it has
  /// its own incident.
  private func report(_ wait: QueueWait) {
    let component = "\(sweeper.name)/\(wait.jobType)"
    switch wait.change {
    case .none: break
    case .began:
      send(
        .failure, sweeper.report.severity, sweeper.report.title,
        "job_type=\(wait.jobType): the oldest has waited for \(GoDuration.text(wholeSecondsOf: wait.oldest))",
        at: clock.wallTime, [Event.Count(sweeper.report.countName, wait.jobs)], component: component)
    case .ended:
      send(
        .recovery, .info, "queued jobs no longer wait for too long", "job_type=\(wait.jobType)", at: clock.wallTime, [],
        component: component, ends: sweeper.report.severity)
    }
  }

  /// Sends the event that Redis decided on, if any.
  func notify(_ decision: AlertDecision, of ended: EndedRun) {
    let failing = "failing for \(GoDuration.text(wholeSecondsOf: decision.failingFor))"
    let failures = Event.Count("failures", decision.failures)
    let reason = ended.result.failure?.reason ?? ""
    switch decision.kind {
    case .none: break
    case .first: sendFailure(reason, at: ended.endedAt)
    case .reminder: sendFailure("\(failing): \(reason)", at: ended.endedAt, metadata: [failures])
    case .recovered: sendRecovery("it was \(failing)", at: ended.endedAt, metadata: [failures])
    }
  }

  /// Redis began to refuse this sweeper's commands, or no longer does. Meanwhile Redis cannot decide which replica
  /// notifies, so each one does.
  func report(_ change: RefusalWatch.Change) {
    switch change {
    case .refused(let reason, let key):
      sendFailure("Redis refuses its commands: \(reason): \(key)", at: clock.wallTime)
    case .answered: sendRecovery("Redis takes its commands again", at: clock.wallTime)
    }
  }

  func report(_ change: PauseState.Change?) {
    switch change {
    case nil: return
    case .begun(let pause): logger.warning("sweeper is paused", metadata: ["reason": "\(pause)"])
    case .lasts(let pause, let length):
      let hours = GoDuration.text(wholeSecondsOf: length)
      logger.warning("sweeper is still paused", metadata: ["reason": "\(pause)", "for": "\(hours)"])
    case .ended(let length):
      logger.info("sweeper is resumed", metadata: ["paused_for": "\(GoDuration.text(wholeSecondsOf: length))"])
    }
    if case .ended = change { metrics.setPaused(false) } else { metrics.setPaused(true) }
  }

  /// Notifies of a pause, if Redis chose this replica for it.
  func notify(_ notice: PauseNotice, _ answer: TakeAnswer) {
    let detail = if case .paused(_, let pause) = answer { pause.description } else { "" }
    switch notice {
    case .none: break
    case .begun: send(.report, .warn, "\(sweeper.name) is paused", detail, at: clock.wallTime, [])
    case .reminder: send(.report, .warn, "\(sweeper.name) is still paused", detail, at: clock.wallTime, [])
    case .ended: send(.report, .info, "\(sweeper.name) is resumed", detail, at: clock.wallTime, [])
    }
  }

  private func notifyOfChanges(_ swept: SweepCount) {
    let cutoff = swept.cutoffMicroseconds.map { "cutoff=\(WallClockTime(microsecondsSince1970: $0).rfc3339Seconds)" }
    send(
      .report, sweeper.report.severity, sweeper.report.title,
      sweeper.report.showsCutoff ? cutoff ?? "" : sweeper.report.detail, at: clock.wallTime, counts(of: swept))
  }

  /// What a run changed, by the names in the event's metadata.
  private func counts(of swept: SweepCount) -> [Event.Count] {
    [Event.Count(sweeper.report.countName, swept.changed - swept.exhausted + swept.seen)]
      + (sweeper.report.exhausted.map { [Event.Count($0.countName, swept.exhausted)] } ?? [])
      + (sweeper.report.linkedCountName.map { [Event.Count($0, swept.linked)] } ?? [])
  }

  private func sendFailure(_ detail: String, at time: WallClockTime, metadata: [Event.Count] = []) {
    send(.failure, .error, sweeper.report.failureTitle, detail, at: time, metadata)
  }

  private func sendRecovery(_ detail: String, at time: WallClockTime, metadata: [Event.Count] = []) {
    send(.recovery, .info, "\(sweeper.name) recovered", detail, at: time, metadata)
  }

  private func send(
    _ kind: Event.Kind, _ severity: Event.Severity, _ title: String, _ detail: String, at time: WallClockTime,
    _ metadata: [Event.Count], component: String? = nil, ends endedSeverity: Event.Severity = .error
  ) {
    var event = Event(
      id: Token.random(random), kind: kind, time: time, severity: severity, component: component ?? sweeper.name,
      title: title, detail: detail, metadata: metadata)
    event.endedSeverity = endedSeverity
    receiver.accept(event)
  }
}
