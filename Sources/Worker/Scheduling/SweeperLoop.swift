// One sweeper of this replica, from boot to drain: performs SweeperStateMachine's actions and passes it their outcomes.
// Invariants: it decides nothing itself; every run is counted and logged once.

import Coordination
import Logging
import Reactor

/// Attends the slots of one sweeper.
@EventLoop
final class SweeperLoop {
  private(set) var sweeper: Sweeper
  private(set) var coordinator: Coordinator
  private var runner: SweepRunner
  /// New settings, which take effect when no run is under way.
  private var pendingChange: (coordinator: Coordinator?, runner: SweepRunner)?
  private let redis: any RedisScripts
  private let clock: LoopClock
  private let random: Random
  private let shutdown: Shutdown
  private let triggers: TriggerBroadcast
  /// Fires when the worker drains, the settings change, or a new trigger or loss of Redis's data is seen.
  private let wakeUp = WakeUp()
  /// The count of triggers and losses when Redis was last asked.
  private var answeredTriggers = 0
  /// The origin of the record that Redis last answered with, and when.
  private var lastRecord: (origin: String, seenAt: MonotonicInstant)?
  let metrics: TaskMetrics
  /// The gauge of replicas; nil for all sweepers but one.
  var replicas: Gauge?
  private var reporter: SweeperReporter
  private let logger: Logger
  private var isOnce = false
  /// Whether it was logged that Redis has no settled record.
  private var settlesForever = false
  /// How the only slot of `run --once` ended; nil if it had no run.
  private var onceResult: RunResult? = .drained()
  /// Why `onceResult` is nil.
  private(set) var onceSkip: OnceSkip?

  /// Whether the schema has what the sweeper requires.
  private var schema: SchemaWatch

  /// What the schema lacks, if that is why the sweeper is off.
  var missing: String? { schema.missing }

  /// The lock had no expiry when Redis last answered.
  private var isStuck = false
  private var pauses = PauseState()
  /// When Redis last answered a take.
  private var answeredAt: MonotonicInstant?
  /// Redis's time in ms when it last listed this replica; nil if it has not.
  private var listedAt: Int64?
  /// Whether Redis refuses this sweeper's commands.
  private var refusals = RefusalWatch()

  init(
    sweeper: Sweeper, coordinator: Coordinator, runner: SweepRunner, redis: any RedisScripts, clock: LoopClock,
    random: Random, shutdown: Shutdown, triggers: TriggerBroadcast, metrics: TaskMetrics,
    receiver: any EventReceiver, logger: Logger
  ) {
    var logger = logger
    logger[metadataKey: "task"] = "\(sweeper.name)"
    self.sweeper = sweeper
    self.coordinator = coordinator
    self.runner = runner
    self.redis = redis
    self.clock = clock
    self.random = random
    self.shutdown = shutdown
    self.triggers = triggers
    self.metrics = metrics
    self.logger = logger
    reporter = SweeperReporter(
      sweeper: sweeper, metrics: metrics, receiver: receiver, clock: clock, random: random, logger: logger)
    schema = SchemaWatch(requiresAny: !sweeper.requires.isEmpty)
    shutdown.add(wakeUp)
    triggers.add(wakeUp)
  }

  /// Attends slots until the shutdown begins, then reports to Redis what it does not know yet, and that this replica is
  /// gone. Cancellation ends it at once.
  func attendSlots(runOnStart: Bool) async {
    await drive(stateMachine(mode: runOnStart ? .start : .due))
    await leave()
  }

  /// How long the shutdown waits for Redis to remove this replica from the record.
  private static let leaveLimit = Duration.milliseconds(500)

  /// Removes this replica from the sweeper's record, if Redis answers at once. Otherwise the entry expires.
  private func leave() async {
    guard let listedAt, redis.outage == nil else { return }
    await firstOf(
      { try await self.coordinator.leave(listedAt: listedAt) },
      { try await self.clock.sleep(for: Self.leaveLimit) })
  }

  /// Uses new settings from the next slot on. A run under way finishes with the old ones.
  ///
  /// - Parameter coordinator: nil if the sweeper is off.
  func change(to coordinator: Coordinator?, _ runner: SweepRunner) {
    pendingChange = (coordinator, runner)
    wakeUp.fire()
  }

  /// The sweeper as of the last settings read, which may not be in effect yet.
  var latestSweeper: Sweeper { pendingChange?.runner.sweeper ?? sweeper }

  /// Applies new settings, if there are any and no run is under way.
  private func applyPendingChange(_ machine: inout SweeperStateMachine) {
    guard machine.mayChangeSlots, let (coordinator, runner) = pendingChange.take() else { return }
    let wasOn = sweeper.interval != nil
    (sweeper, self.runner) = (runner.sweeper, runner)
    reporter.sweeper = sweeper
    metrics.changed(to: sweeper.interval)
    guard let coordinator else { return metrics.turned(on: false, isPaused: false) }
    self.coordinator = coordinator
    // The next take puts the settings into the schedule record.
    answeredAt = nil
    count(machine.changed(to: coordinator.grid, at: clock.now))
    guard !wasOn else { return }
    schema = SchemaWatch(requiresAny: !sweeper.requires.isEmpty)
    metrics.turned(on: true, isPaused: pauses.isPaused)
  }

  /// Attends one slot: runs once if the sweeper is due, or as `mode` says. Waits only for a schedule record that was
  /// just created.
  func attendOnce(_ mode: TakeMode) async -> RunResult? {
    isOnce = true
    if schema.next(at: clock.now) == .check { await checkSchema() }
    if let missing = schema.missing { return .off(missing: missing) }
    await drive(stateMachine(mode: mode, once: true))
    return onceResult
  }

  private func stateMachine(mode: TakeMode, once: Bool = false) -> SweeperStateMachine {
    SweeperStateMachine(
      grid: coordinator.grid, leaseDuration: coordinator.leaseDuration, mode: mode, once: once, at: clock.now)
  }

  private func drive(_ machine: SweeperStateMachine) async {
    var machine = machine
    do {
      while true {
        if pendingChange != nil { applyPendingChange(&machine) }
        let action = machine.next(at: clock.now, isDraining: shutdown.isDraining)
        if action == .end { break }
        try await perform(action, of: &machine)
      }
    } catch {
      // Cancelled: the shutdown grace is over.
    }
    count(machine.finished())
  }

  /// - Throws: `CancellationError` only.
  private func perform(_ action: SweeperStateMachine.Action, of machine: inout SweeperStateMachine) async throws {
    switch action {
    case .take where sweeper.interval == nil:
      // Wait until it is turned on or the worker drains.
      try await clock.sleep(until: .never, orUntil: wakeUp)
    case .take(let mode):
      guard try await waitForSchema() else { break }
      if mode == .due, machine.pause == nil, await nothingIsDue() { return skipSlot(&machine) }
      if isOnce || !runner.pool.isReadOnly { return await take(mode, &machine) }
      await waitUntilWritable()
    case .run(let run):
      await self.run(run, &machine)
    case .complete(let ended):
      await callRedis(&machine) { machine throws in
        let (decision, time) = try await self.coordinator.complete(ended)
        machine.confirmed(redisTime: time, at: self.clock.now, jitter: self.jitter)
        if ended.result.isSuccess { self.metrics.succeeded(at: time) }
        self.reporter.notify(decision, of: ended)
      }
    case .release(let token):
      await callRedis(&machine) { machine throws in
        try await self.coordinator.release(token: token)
        machine.released()
      }
    case .wait(let until):
      if answeredTriggers == triggers.count { return try await clock.sleep(until: until, orUntil: wakeUp) }
      // A trigger is only in Redis, so PostgreSQL's answer that nothing is due is not enough.
      (answeredTriggers, answeredAt) = (triggers.count, nil)
      machine.askNow(at: clock.now)
    case .pause(let until):
      try await clock.sleep(until: until)
    case .waitForRedis(let until):
      await waitForRedis(until)
      machine.redisWaitEnded(at: clock.now, jitter: jitter)
    case .end:
      break
    }
    try Task.checkCancellation()
  }

  /// How long a sweeper with nothing due goes without a take, which keeps this replica in the schedule record.
  nonisolated static let maximumSilence = Duration.seconds(60)

  private func nothingIsDue() async -> Bool {
    guard !isOnce, redis.outage == nil, let answeredAt,
      answeredAt.duration(to: clock.now) < Self.maximumSilence
    else { return false }
    return await runner.nothingIsDue()
  }

  /// Counts the current slot as a success without a run.
  private func skipSlot(_ machine: inout SweeperStateMachine) {
    let time = coordinator.redisTimeEstimate
    let counts = machine.foundNothing(redisTime: time, at: clock.now, jitter: jitter)
    count(counts)
    metrics.forgetLastRun()
    if counts.contains(.success) { metrics.succeeded(at: time) }
    metrics.setNextDue(coordinator.grid.slot(after: time))
  }

  /// Returns whether slots are attended. If the schema lacks something, waits until the next check or the shutdown.
  private func waitForSchema() async throws -> Bool {
    switch schema.next(at: clock.now) {
    case .attend: return true
    case .check: await checkSchema()
    case .wait(let until): try await clock.sleep(until: until, orUntil: wakeUp)
    }
    return schema.missing == nil && !shutdown.isDraining
  }

  /// Checks the schema, if PostgreSQL is available.
  private func checkSchema() async {
    do {
      guard runner.pool.isWorthAsking else { return schema.unanswered(at: clock.now) }
      let missing = try await runner.schema.missing(for: sweeper.name, maximumAge: Self.sharedCheckAge)
      reporter.report(schema.checked(missing: missing, at: clock.now))
    } catch {
      schema.unanswered(at: clock.now)
    }
  }

  /// How old another sweeper's check may be: sweepers that lack something check at about the same time.
  private static let sharedCheckAge = Duration.seconds(10)

  /// Waits until PostgreSQL accepts writes, the worker drains, or the settings change. Until then no lock is taken,
  /// because another replica may be connected to the primary.
  private func waitUntilWritable() async {
    await firstOf(
      { _ = try await self.runner.pool.waitUntilWritable(by: .never) },
      { try await self.clock.sleep(until: .never, orUntil: self.wakeUp) })
  }

  private func take(_ mode: TakeMode, _ machine: inout SweeperStateMachine) async {
    let token = Token.random(random)
    let limit = clock.now.advanced(by: Coordinator.commandLimit)
    answeredTriggers = triggers.count
    do {
      let (answer, fleet, time) = try await coordinator.take(
        token: token, mode: mode, knowing: machine.pause, isListed: !isOnce, by: limit)
      if fleet != nil { listedAt = time }
      handle(answer)
      reporter.report(pauses.answered(answer, at: clock.now))
      if let fleet { record(fleet, answer, at: time) }
      count(machine.answered(answer, redisTime: time, at: clock.now, jitter: jitter))
      reportSettling(machine.settlesForever)
      if machine.timedOutSettling { onceResult = .failure(RunFailure(reason: Self.noRecord, isPermanent: false)) }
    } catch {
      // A take that was not sent took no lock. One with an error or an unexpected answer may have.
      let isUnknown = if case .notSent = error as? RedisError { false } else { true }
      await redisDidNotAnswer(
        error, isUnknown ? SweeperStateMachine.LostTake(token: token, executableUntil: limit) : nil, &machine)
    }
  }

  /// Records the state of the fleet in the metrics.
  private func record(_ fleet: FleetState, _ answer: TakeAnswer, at redisTime: Int64) {
    replicas?.set(Double(fleet.replicas))
    // A trigger of this sweeper is in the same record, so this answer covered it.
    if triggers.observe(newest: fleet.newestTrigger) { answeredTriggers = triggers.count }
    noteRecord(fleet.origin)
    reporter.notify(fleet.pause, answer)
    if let succeededAt = fleet.succeededAt { metrics.succeeded(at: succeededAt) }
    switch answer {
    case .idle(_, let due): metrics.setNextDue(due)
    case .settling(_, let notBefore): metrics.setNextDue(notBefore)
    case .taken, .held, .stuck, .paused: metrics.setNextDue(coordinator.grid.slot(after: redisTime))
    case .late: break
    }
  }

  /// A new record regains this sweeper's replicas and pause. The other sweepers, which may not ask for hours, follow.
  private func noteRecord(_ origin: String) {
    defer { lastRecord = (origin, clock.now) }
    guard let lastRecord, lastRecord.origin != origin,
      triggers.lostRecord(seenAt: lastRecord.seenAt, at: clock.now)
    else { return }
    answeredTriggers += 1
  }

  /// Whether the outcome of the only slot of `run --once` is still unknown.
  private var isOnceResultOpen: Bool {
    switch onceResult {
    case nil, .drained(.shutdown, _): true
    case .success, .failure, .drained(.readOnly, _), .drained(.paused, _), .off: false
    }
  }

  /// Updates what depends on an answer, and logs what operators have to know.
  private func handle(_ answer: TakeAnswer) {
    answeredAt = clock.now
    refusals.answered()
    if let change = refusals.takeChange() { reporter.report(change) }
    switch answer {
    case .held: (onceResult, onceSkip) = (nil, .held)
    case .idle: (onceResult, onceSkip) = (nil, .notDue)
    case .paused(_, let pause): (onceResult, onceSkip) = (nil, .paused("\(pause)"))
    case .taken, .settling, .stuck, .late: break
    }
    if case .settling = answer { logger.debug("waiting for one lease: Redis has no schedule record") }
    guard case .stuck = answer else {
      isStuck = false
      return
    }
    if isOnceResultOpen { onceResult = .failure(RunFailure(reason: Self.stuckLock, isPermanent: false)) }
    guard !isStuck else { return }
    isStuck = true
    logger.warning(
      "another process holds the lock: nothing is swept until it is deleted",
      metadata: ["error": "\(Self.stuckLock)", "key": "\(coordinator.lockKey)"])
  }

  /// Logs once that new records keep coming, until one settles.
  private func reportSettling(_ isForever: Bool) {
    defer { settlesForever = isForever }
    guard isForever, !settlesForever else { return }
    logger.warning(
      "no run can begin: Redis has had no settled schedule record for more than two leases",
      metadata: ["error": "\(Self.noRecord)", "key": "\(coordinator.recordKey)"])
  }

  private static let stuckLock = "the lock has no expiry"
  private static let noRecord =
    "the schedule record keeps being created anew, or by a replica with a longer lease: check Redis's persistence and "
    + "eviction, and SB_WORKER_LEASE"

  /// Makes a call that closes one of the state machine's open accounts.
  private func callRedis(
    _ machine: inout SweeperStateMachine, _ call: @EventLoop (inout SweeperStateMachine) async throws -> Void
  ) async {
    do {
      try await call(&machine)
    } catch {
      await redisDidNotAnswer(error, nil, &machine)
    }
  }

  private func redisDidNotAnswer(
    _ error: any Error, _ lostTake: SweeperStateMachine.LostTake?, _ machine: inout SweeperStateMachine
  ) async {
    let wasSilent = machine.isSilent
    let time = coordinator.redisTimeEstimate
    let counts = machine.unanswered(lostTake, redisTime: time, at: clock.now, jitter: jitter)
    guard !Task.isCancelled else { return }
    count(counts)
    let refusal = RedisRefusal(error)
    let reason = refusal?.reason ?? (error as? RedisError)?.publicReason ?? "\(error)"
    // A run does not fail because its end could not be reported to Redis.
    if isOnceResultOpen, !machine.isConfirming {
      onceResult = .failure(RunFailure(reason: "Redis: \(reason)", isPermanent: false))
    }
    if !wasSilent { await logSilence(refusal, reason) }
    refusals.noAnswer(refusal, isAgain: wasSilent, hasFailed: counts.contains(.failure), isOutage: redis.outage != nil)
    if let change = refusals.takeChange() { reporter.report(change) }
  }

  /// The client logs an outage. These lines are for a refusal of this sweeper's commands only, and for `run --once`,
  /// which ends before the client reports an outage.
  private func logSilence(_ refusal: RedisRefusal?, _ reason: String) async {
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

  /// Waits until Redis is available, the worker drains, the settings change, or the deadline.
  private func waitForRedis(_ deadline: MonotonicInstant) async {
    await firstOf(
      { try await self.redis.waitUntilReady(by: deadline) },
      { try await self.clock.sleep(until: deadline, orUntil: self.wakeUp) })
  }

  /// Waits for the first of two to end, however it ends: the loop continues in any case.
  private func firstOf(
    _ one: @escaping @EventLoop @Sendable () async throws -> Void,
    _ other: @escaping @EventLoop @Sendable () async throws -> Void
  ) async {
    await withTaskGroup { group in
      group.addTask { await self.ignoringErrors(one) }
      group.addTask { await self.ignoringErrors(other) }
      await group.next()
      group.cancelAll()
    }
  }

  private func ignoringErrors(_ wait: @EventLoop () async throws -> Void) async {
    do {
      try await wait()
    } catch {
      // Cancelled or timed out: the loop goes on.
    }
  }

  private func run(_ run: Run, _ machine: inout SweeperStateMachine) async {
    let startedAt = clock.now
    let result = await runner.run(run)
    let now = clock.now
    let ended = EndedRun(run: run, result: result, duration: startedAt.duration(to: now), endedAt: clock.wallTime)
    machine.ended(ended, at: now, jitter: jitter)
    // `run --once` may end before an outage is logged.
    reporter.report(ended, isOutageLogged: !isOnce && (runner.pool.outage ?? redis.outage) != nil)
    if case .off(let missing, _) = result { reporter.report(schema.checked(missing: missing, at: clock.now)) }
    onceResult = result
  }

  private var jitter: Double { random.fraction() }

  private func count(_ outcomes: [SlotOutcome]) {
    for outcome in outcomes { metrics.record(outcome) }
  }
}

/// Why the only slot of `run --once` had no run.
enum OnceSkip: Equatable, Sendable {
  /// Its slot has run.
  case notDue
  /// Another replica runs it.
  case held
  case paused(String)
}
