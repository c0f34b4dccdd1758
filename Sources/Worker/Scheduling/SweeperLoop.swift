// One sweeper of this replica, from boot to drain: performs SweeperStateMachine's steps and tells it how they went.
// Invariants: it decides nothing by itself; every run is counted and logged once.

import Coordination
import Logging
import Reactor

/// Attends the slots of one sweeper.
@EventLoop
final class SweeperLoop {
  let sweeper: Sweeper
  private let coordinator: Coordinator
  private let runner: SweepRunner
  private let redis: any RedisScripts
  private let clock: LoopClock
  private let random: Random
  private let shutdown: Shutdown
  let metrics: TaskMetrics
  private let sink: any EventReceiver
  private var logger: Logger
  /// The run whose completion Redis has not confirmed, for what people hear of it.
  private var unconfirmed: EndedRun?
  private var isOnce = false
  /// How the only slot of `run --once` ended.
  private var onceResult = OnceResult.drained()

  /// The lock had no expiry when Redis last answered.
  private var isStuck = false
  /// What Redis refuses this sweeper, and whether people know.
  private var refusals = RefusalWatch()

  private struct EndedRun {
    let endedAt: WallClockTime
    /// Why it failed, where it did.
    let reason: String
  }

  init(
    sweeper: Sweeper, coordinator: Coordinator, runner: SweepRunner, redis: any RedisScripts, clock: LoopClock,
    random: Random, shutdown: Shutdown, metrics: TaskMetrics, sink: any EventReceiver, logger: Logger
  ) {
    self.sweeper = sweeper
    self.coordinator = coordinator
    self.runner = runner
    self.redis = redis
    self.clock = clock
    self.random = random
    self.shutdown = shutdown
    self.metrics = metrics
    self.sink = sink
    self.logger = logger
    self.logger[metadataKey: "task"] = "\(sweeper.name)"
  }

  /// Attends slots until the shutdown begins, and then settles what Redis does not know yet. Cancelled, it ends at
  /// once.
  func attendSlots(runOnStart: Bool) async {
    await follow(stateMachine(mode: runOnStart ? .start : .due))
  }

  /// Attends once: what is due (or in any case, by `mode`) is tried once. Only a new Redis is waited for.
  func attendOnce(_ mode: TakeMode) async -> OnceResult {
    isOnce = true
    await follow(stateMachine(mode: mode, once: true))
    return onceResult
  }

  private func stateMachine(mode: TakeMode, once: Bool = false) -> SweeperStateMachine {
    SweeperStateMachine(
      grid: coordinator.grid, leaseDuration: coordinator.leaseDuration, mode: mode, once: once, at: clock.now)
  }

  private func follow(_ machine: SweeperStateMachine) async {
    var machine = machine
    do {
      while true {
        let step = machine.next(at: clock.now, isDraining: shutdown.isDraining)
        if step == .end { break }
        try await perform(step, of: &machine)
      }
    } catch {
      // Cancelled: the grace is over.
    }
    count(machine.finished())
  }

  /// - Throws: `CancellationError` only.
  private func perform(_ step: SweeperStateMachine.Step, of machine: inout SweeperStateMachine) async throws {
    switch step {
    case .take(let mode):
      if isOnce || !runner.pool.isReadOnly { return await take(mode, &machine) }
      await waitUntilWritable()
    case .run(let grant):
      await run(grant, &machine)
    case .complete(let completion):
      await settle(&machine) { machine throws in
        let (verdict, time) = try await self.coordinator.complete(completion.grant, completion.report)
        machine.confirmed(redisTime: time, at: self.clock.now, chance: self.chance)
        if let run = self.unconfirmed.take() { self.tell(verdict, of: run) }
      }
    case .release(let token):
      await settle(&machine) { machine throws in
        try await self.coordinator.release(token: token)
        machine.released()
      }
    case .wait(let until):
      try await clock.sleep(until: until, orUntil: shutdown.draining)
    case .pause(let until):
      try await clock.sleep(until: until)
    case .waitForRedis(let until):
      await waitForRedis(until)
      machine.woke(at: clock.now, chance: chance)
    case .end:
      break
    }
    try Task.checkCancellation()
  }

  /// While PostgreSQL cannot be written to no lock is taken: it may be this replica's way that leads to a standby.
  /// Until it can, or the worker drains.
  private func waitUntilWritable() async {
    await firstOf(
      { _ = try await self.runner.pool.waitUntilWritable(by: .never) },
      { try await self.clock.sleep(until: .never, orUntil: self.shutdown.draining) })
  }

  private func take(_ mode: TakeMode, _ machine: inout SweeperStateMachine) async {
    let token = Token.random(random)
    let limit = clock.now.advanced(by: Coordinator.commandLimit)
    do {
      let (answer, time, sentAt) = try await coordinator.take(
        token: token, mode: mode, knowing: machine.pause, by: limit)
      note(answer)
      count(
        machine.answered(
          answer, token: token, sentAt: sentAt, redisTime: time, at: clock.now, chance: chance))
    } catch {
      // What never left this process took no lock; an answer that says nothing may have.
      let isUnknown = if case .notSent = error as? RedisError { false } else { true }
      await silence(
        error, isUnknown ? SweeperStateMachine.LostTake(token: token, executableUntil: limit) : nil, &machine)
    }
  }

  /// Whether nothing is known yet of the only slot of `run --once`.
  private var isUnattended: Bool {
    switch onceResult {
    case .notRun, .drained: true
    case .ran, .failed: false
    }
  }

  /// Notes, and logs, what an operator has to know of an answer.
  private func note(_ answer: TakeAnswer) {
    refusals.answered()
    if let told = refusals.untold() { tell(told) }
    switch answer {
    case .held, .idle, .paused: onceResult = .notRun
    case .taken, .settling, .stuck, .late: break
    }
    if case .settling = answer { logger.debug("waiting for one lease: Redis has no schedule record") }
    guard case .stuck = answer else {
      isStuck = false
      return
    }
    if isUnattended { onceResult = .failed(Self.stuckLock) }
    guard !isStuck else { return }
    isStuck = true
    logger.warning(
      "another process holds the lock: nothing is swept until it is deleted",
      metadata: ["error": "\(Self.stuckLock)", "key": "\(coordinator.lockKey)"])
  }

  private static let stuckLock = "the lock has no expiry"

  private func settle(
    _ machine: inout SweeperStateMachine, _ call: @EventLoop (inout SweeperStateMachine) async throws -> Void
  ) async {
    do {
      try await call(&machine)
    } catch {
      await silence(error, nil, &machine)
    }
  }

  private func silence(
    _ error: any Error, _ lostTake: SweeperStateMachine.LostTake?, _ machine: inout SweeperStateMachine
  ) async {
    let wasSilent = machine.isSilent
    let time = coordinator.redisTimeEstimate
    let counts = machine.unanswered(lostTake, redisTime: time, at: clock.now, chance: chance)
    guard !Task.isCancelled else { return }
    count(counts)
    let refusal = RedisRefusal(error)
    let reason = refusal?.reason ?? (error as? RedisError)?.publicReason ?? "\(error)"
    // That a run's end could not be told does not make the run a failure.
    if isUnattended, unconfirmed == nil { onceResult = .failed("Redis: \(reason)") }
    if !wasSilent { await say(refusal, reason) }
    refusals.met(refusal, isAgain: wasSilent, hasFailed: counts.contains(.failure), isOutage: redis.outage != nil)
    if let told = refusals.untold() { tell(told) }
  }

  /// A lasting outage has a line of its own. These are for what Redis refuses this sweeper alone, and for `run --once`,
  /// which ends before an outage lasts.
  private func say(_ refusal: RedisRefusal?, _ reason: String) async {
    let level: Logger.Level = redis.outage == nil || isOnce ? .warning : .debug
    guard let refusal else {
      return logger.log(
        level: level, "Redis does not answer: this sweeper waits until it does", metadata: ["error": "\(reason)"])
    }
    let key = refusal.isOfAnotherType ? await coordinator.keyOfAnotherType() : nil
    refusals.key = key ?? coordinator.recordKey
    logger.log(
      level: level, "Redis refuses this sweeper's commands: it is not swept until they succeed",
      metadata: ["error": "\(reason)", "key": "\(refusals.key)"])
  }

  /// Until Redis can be asked, the worker drains, or the deadline.
  private func waitForRedis(_ deadline: MonotonicInstant) async {
    await firstOf(
      { try await self.redis.waitUntilReady(by: deadline) },
      { try await self.clock.sleep(until: deadline, orUntil: self.shutdown.draining) })
  }

  /// Waits for one of the two, and does not mind how: the loop goes on either way.
  private func firstOf(
    _ one: @escaping @EventLoop @Sendable () async throws -> Void,
    _ other: @escaping @EventLoop @Sendable () async throws -> Void
  ) async {
    await withTaskGroup { group in
      group.addTask { await self.silenced(one) }
      group.addTask { await self.silenced(other) }
      await group.next()
      group.cancelAll()
    }
  }

  private func silenced(_ wait: @EventLoop () async throws -> Void) async {
    do {
      try await wait()
    } catch {
      // Cancelled or too late, which both mean: go on.
    }
  }

  private func run(_ grant: RunGrant, _ machine: inout SweeperStateMachine) async {
    let begin = clock.now
    let result = await runner.run(grant)
    let end = clock.now
    let report = RunReport(
      outcome: result.outcome, rows: result.count.changed, duration: begin.duration(to: end),
      progress: result.count.progress, isInconclusive: result.isInconclusive)
    machine.ended(grant, report, isPermanent: result.failure?.isPermanent ?? false, at: end, chance: chance)
    unconfirmed = EndedRun(endedAt: clock.wallTime, reason: result.failure?.reason ?? "")
    tell(result, grant.ticket, report.duration)
    switch result {
    case .succeeded(let count): onceResult = .ran(count)
    case .failed(let failure, let count): onceResult = .failed(failure.reason, count)
    case .drained(let count):
      onceResult = runner.pool.isReadOnly ? .failed("the database is read-only", count) : .drained(count)
    }
  }

  private var chance: Double { random.fraction() }

  private func count(_ outcomes: [RunOutcome]) {
    for outcome in outcomes { metrics.record(outcome) }
  }
}

// MARK: - What people hear of a run

extension SweeperLoop {
  private func tell(_ result: RunResult, _ ticket: RunTicket, _ duration: Duration) {
    var fields: Logger.Metadata = [
      "epoch": .stringConvertible(ticket.epoch), "duration_ms": .stringConvertible(duration.milliseconds),
    ]
    let count = result.count
    if count.changed > 0 || result.failure == nil {
      fields[sweeper.report.countName] = .stringConvertible(count.changed)
    }
    if count.skipped > 0 {
      metrics.leave(count.skipped)
      fields["skipped"] = .stringConvertible(count.skipped)
    }
    metrics.record(result.outcome.counted)
    if result.outcome != .drained { metrics.observe(duration) }
    switch result {
    case .succeeded:
      logger.log(level: count.found > 0 ? .info : .debug, "swept", metadata: fields)
    case .failed(let failure, _):
      fields["error"] = "\(failure.reason)"
      fields["title"] = "\(sweeper.report.failureTitle)"
      // The existing worker's words, on which alerts match.
      logger.error("scheduler: task failed", metadata: fields)
    case .drained:
      let reason = runner.pool.isReadOnly ? "the database is read-only" : "the worker drains"
      logger.info("run returned: \(reason)", metadata: fields)
    }
    // However the run ended: what it changed stays changed, and no later run counts it.
    if count.changed > 0 { report(count) }
  }

  /// Of a fleet's failures in a row people hear of the first, of some later ones, and of their end. A run that drained
  /// or was taken over by another replica is none.
  private func tell(_ verdict: RunVerdict, of run: EndedRun) {
    let failing = "failing for \(GoDuration.text(wholeSecondsOf: verdict.failingFor))"
    let failures = Event.Count("failures", verdict.failures)
    switch verdict.kind {
    case .none:
      break
    case .first:
      sink.accept(
        Event(
          id: Token.random(random), kind: .failure, time: run.endedAt, severity: .error, component: sweeper.name,
          title: sweeper.report.failureTitle,
          detail: run.reason))
    case .reminder:
      sink.accept(
        Event(
          id: Token.random(random), kind: .failure, time: run.endedAt, severity: .error, component: sweeper.name,
          title: sweeper.report.failureTitle, detail: "\(failing): \(run.reason)", metadata: [failures]))
    case .recovered:
      sink.accept(
        Event(
          id: Token.random(random), kind: .recovery, time: run.endedAt, severity: .info, component: sweeper.name,
          title: "\(sweeper.name) recovered", detail: "it was \(failing)", metadata: [failures]))
    }
  }

  /// Redis has no record of a sweeper whose record it refuses: each replica tells for itself.
  private func tell(_ news: RefusalWatch.News) {
    switch news {
    case .refused(let reason, let key):
      sink.accept(
        Event(
          id: Token.random(random), kind: .failure, time: clock.wallTime, severity: .error, component: sweeper.name,
          title: sweeper.report.failureTitle, detail: "Redis refuses its commands: \(reason): \(key)"))
    case .answered:
      sink.accept(
        Event(
          id: Token.random(random), kind: .recovery, time: clock.wallTime, severity: .info, component: sweeper.name,
          title: "\(sweeper.name) recovered", detail: "Redis takes its commands again"))
    }
  }

  private func report(_ swept: SweepCount) {
    sink.accept(
      Event(
        id: Token.random(random), kind: .report, time: clock.wallTime, severity: sweeper.report.severity,
        component: sweeper.name,
        title: sweeper.report.title,
        detail: sweeper.report.showsCutoff
          ? swept.cutoffMicroseconds.map { "cutoff=\(WallClockTime(microsecondsSince1970: $0).rfc3339Seconds)" } ?? ""
          : sweeper.report.detail,
        metadata: [Event.Count(sweeper.report.countName, swept.changed)]))
  }
}
