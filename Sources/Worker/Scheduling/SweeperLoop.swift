// One sweeper of this replica, from boot to drain: performs SweeperStateMachine's steps and tells it how they went.
// Invariants: it decides nothing by itself; every run is counted and logged once.

import Coordination
import Logging
import Reactor

/// Attends the slots of one sweeper.
@EventLoop
final class SweeperLoop {
  private(set) var sweeper: Sweeper
  private(set) var coordinator: Coordinator
  private var runner: SweepRunner
  /// By other settings, which take effect when no run is under way.
  private var next: (coordinator: Coordinator?, runner: SweepRunner)?
  private let redis: any RedisScripts
  let clock: LoopClock
  let random: Random
  private let shutdown: Shutdown
  private let triggers: TriggerBoard
  /// Fires when the worker drains, and when a trigger or a loss of Redis's data was learned of.
  private let wakeUp = WakeUp()
  /// How many of these were known when Redis was last asked.
  private var answeredTriggers = 0
  /// The origin of the record that Redis last answered with, and when.
  private var record: (origin: String, seenAt: MonotonicInstant)?
  let metrics: TaskMetrics
  /// How many replicas there are; only one of the sweepers tells.
  var replicas: Gauge?
  let sink: any EventReceiver
  private(set) var logger: Logger
  private var isOnce = false
  /// How the only slot of `run --once` ended; nil if it was not due, paused, or run by another replica.
  private var onceResult: RunResult? = .drained()

  /// Whether the schema has what the sweeper requires.
  private var schema: SchemaWatch

  /// What the schema lacks, if that is why the sweeper is off.
  var lack: String? { schema.missing }

  /// The lock had no expiry when Redis last answered.
  private var isStuck = false
  /// What is known, and was told, of a pause.
  private(set) var pauses = PauseState()
  /// When Redis last answered a take.
  private var answeredAt: MonotonicInstant?
  /// What Redis refuses this sweeper, and whether people know.
  private var refusals = RefusalWatch()

  init(
    sweeper: Sweeper, coordinator: Coordinator, runner: SweepRunner, redis: any RedisScripts, clock: LoopClock,
    random: Random, shutdown: Shutdown, triggers: TriggerBoard, metrics: TaskMetrics,
    sink: any EventReceiver, logger: Logger
  ) {
    self.sweeper = sweeper
    self.coordinator = coordinator
    self.runner = runner
    self.redis = redis
    self.clock = clock
    self.random = random
    self.shutdown = shutdown
    self.triggers = triggers
    self.metrics = metrics
    self.sink = sink
    self.logger = logger
    self.logger[metadataKey: "task"] = "\(sweeper.name)"
    schema = SchemaWatch(requiresAny: !sweeper.requires.isEmpty)
    shutdown.add(wakeUp)
    triggers.add(wakeUp)
  }

  /// Attends slots until the shutdown begins, and then settles what Redis does not know yet. Cancelled, it ends at
  /// once.
  func attendSlots(runOnStart: Bool) async {
    await follow(stateMachine(mode: runOnStart ? .start : .due))
  }

  /// Attends its slots by other settings from now on; a run under way finishes by its own.
  ///
  /// - Parameter coordinator: nil if the sweeper is off.
  func change(to coordinator: Coordinator?, _ runner: SweepRunner) {
    next = (coordinator, runner)
    wakeUp.fire()
  }

  /// The sweeper by the settings that were read last.
  var coming: Sweeper { next?.runner.sweeper ?? sweeper }

  /// Takes over other settings, if there are any and nothing is under way.
  private func takeOver(_ machine: inout SweeperStateMachine) {
    guard machine.mayChangeSlots, let (coordinator, runner) = next.take() else { return }
    let wasOn = sweeper.interval != nil
    (sweeper, self.runner) = (runner.sweeper, runner)
    metrics.changed(to: sweeper.interval)
    guard let coordinator else { return metrics.turned(on: false, isPaused: false) }
    self.coordinator = coordinator
    // The next take tells the fleet of the settings.
    answeredAt = nil
    count(machine.changed(to: coordinator.grid, at: clock.now))
    guard !wasOn else { return }
    schema = SchemaWatch(requiresAny: !sweeper.requires.isEmpty)
    metrics.turned(on: true, isPaused: pauses.isPaused)
  }

  /// Attends once: what is due (or in any case, by `mode`) is tried once. Only a new Redis is waited for.
  func attendOnce(_ mode: TakeMode) async -> RunResult? {
    isOnce = true
    if schema.next(at: clock.now) == .look { await look() }
    if let missing = schema.missing { return .off(missing: missing) }
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
        if next != nil { takeOver(&machine) }
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
    case .take where sweeper.interval == nil:
      // Until it is turned on, or the worker drains.
      try await clock.sleep(until: .never, orUntil: wakeUp)
    case .take(let mode):
      guard try await hasSchema() else { break }
      if mode == .due, machine.pause == nil, await findsNothing() { return skipSlot(&machine) }
      if isOnce || !runner.pool.isReadOnly { return await take(mode, &machine) }
      await waitUntilWritable()
    case .run(let run):
      await self.run(run, &machine)
    case .complete(let ended):
      await settle(&machine) { machine throws in
        let (decision, time) = try await self.coordinator.complete(ended)
        machine.confirmed(redisTime: time, at: self.clock.now, jitter: self.jitter)
        if ended.result.isSuccess { self.metrics.succeeded(at: time) }
        self.notify(decision, of: ended)
      }
    case .release(let token):
      await settle(&machine) { machine throws in
        try await self.coordinator.release(token: token)
        machine.released()
      }
    case .wait(let until):
      if answeredTriggers == triggers.count { return try await clock.sleep(until: until, orUntil: wakeUp) }
      // PostgreSQL does not know of triggers, so Redis is asked.
      (answeredTriggers, answeredAt) = (triggers.count, nil)
      machine.woken(at: clock.now)
    case .pause(let until):
      try await clock.sleep(until: until)
    case .waitForRedis(let until):
      await waitForRedis(until)
      machine.woke(at: clock.now, jitter: jitter)
    case .end:
      break
    }
    try Task.checkCancellation()
  }

  /// For how long a sweeper that finds nothing due does without Redis, whose record tells the fleet that it lives.
  private static let longestSilence = Duration.seconds(60)

  private func findsNothing() async -> Bool {
    guard !isOnce, redis.outage == nil, let answeredAt,
      answeredAt.duration(to: clock.now) < Self.longestSilence
    else { return false }
    return await runner.findsNothing()
  }

  /// Counts the present slot as a success without a run.
  private func skipSlot(_ machine: inout SweeperStateMachine) {
    let time = coordinator.redisTimeEstimate
    let counts = machine.foundNothing(redisTime: time, at: clock.now, jitter: jitter)
    count(counts)
    if counts.contains(.success) { metrics.succeeded(at: time) }
    metrics.isDue(at: coordinator.grid.slot(after: time))
  }

  /// Whether slots are attended. Where the schema lacks something, that takes until it is to be looked at again, or
  /// until the worker drains.
  private func hasSchema() async throws -> Bool {
    switch schema.next(at: clock.now) {
    case .attend: return true
    case .look: await look()
    case .wait(let until): try await clock.sleep(until: until, orUntil: wakeUp)
    }
    return schema.missing == nil && !shutdown.isDraining
  }

  /// Looks at the schema, where PostgreSQL can be asked.
  private func look() async {
    do {
      guard runner.pool.outage == nil else { return schema.unanswered(at: clock.now) }
      let missing = try await runner.schema.missing(for: sweeper.name, maximumAge: Self.sharedLookAge)
      tell(schema.looked(missing: missing, at: clock.now))
    } catch {
      schema.unanswered(at: clock.now)
    }
  }

  /// Sweepers that lack something look at nearly the same time.
  private static let sharedLookAge = Duration.seconds(10)

  /// While PostgreSQL cannot be written to no lock is taken: it may be this replica's way that leads to a standby.
  /// Until it can, the worker drains, or the settings change.
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
        token: token, mode: mode, knowing: machine.pause, by: limit)
      note(answer)
      tell(pauses.answered(answer, at: clock.now))
      if let fleet { note(fleet, answer, at: time) }
      count(machine.answered(answer, redisTime: time, at: clock.now, jitter: jitter))
      if machine.hasWaitedInVain { onceResult = .failure(RunFailure(reason: Self.noRecord, isPermanent: false)) }
    } catch {
      // What never left this process took no lock; an answer that says nothing may have.
      let isUnknown = if case .notSent = error as? RedisError { false } else { true }
      await silence(
        error, isUnknown ? SweeperStateMachine.LostTake(token: token, executableUntil: limit) : nil, &machine)
    }
  }

  /// Notes in the metrics what an answer tells of the fleet.
  private func note(_ fleet: FleetNews, _ answer: TakeAnswer, at redisTime: Int64) {
    replicas?.set(Double(fleet.replicas))
    // A trigger of this sweeper is in the same record, so this answer was about it.
    if triggers.answered(newest: fleet.newestTrigger) { answeredTriggers = triggers.count }
    noteRecord(fleet.origin)
    notify(fleet.pause, answer)
    if let succeededAt = fleet.succeededAt { metrics.succeeded(at: succeededAt) }
    switch answer {
    case .idle(_, let due): metrics.isDue(at: due)
    case .settling(_, let notBefore): metrics.isDue(at: notBefore)
    case .taken, .held, .stuck, .paused: metrics.isDue(at: coordinator.grid.slot(after: redisTime))
    case .late: break
    }
  }

  /// A new record has this sweeper's replicas and pause again. Those of the others follow, which may not ask for hours.
  private func noteRecord(_ origin: String) {
    defer { record = (origin, clock.now) }
    guard let record, record.origin != origin, triggers.lostRecord(seenAt: record.seenAt, at: clock.now) else { return }
    answeredTriggers += 1
  }

  /// Whether nothing is known yet of the only slot of `run --once`.
  private var isUnattended: Bool {
    switch onceResult {
    case nil, .drained(.shutdown, _): true
    case .success, .failure, .drained(.readOnly, _), .drained(.paused, _), .off: false
    }
  }

  /// Notes, and logs, what an operator has to know of an answer.
  private func note(_ answer: TakeAnswer) {
    answeredAt = clock.now
    refusals.answered()
    if let told = refusals.untold() { tell(told) }
    switch answer {
    case .held, .idle, .paused: onceResult = nil
    case .taken, .settling, .stuck, .late: break
    }
    if case .settling = answer { logger.debug("waiting for one lease: Redis has no schedule record") }
    guard case .stuck = answer else {
      isStuck = false
      return
    }
    if isUnattended { onceResult = .failure(RunFailure(reason: Self.stuckLock, isPermanent: false)) }
    guard !isStuck else { return }
    isStuck = true
    logger.warning(
      "another process holds the lock: nothing is swept until it is deleted",
      metadata: ["error": "\(Self.stuckLock)", "key": "\(coordinator.lockKey)"])
  }

  private static let stuckLock = "the lock has no expiry"
  private static let noRecord =
    "Redis has a new schedule record again and again, or one of a replica with a longer lease: see its persistence, "
    + "eviction and SB_WORKER_LEASE"

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
    let counts = machine.unanswered(lostTake, redisTime: time, at: clock.now, jitter: jitter)
    guard !Task.isCancelled else { return }
    count(counts)
    let refusal = RedisRefusal(error)
    let reason = refusal?.reason ?? (error as? RedisError)?.publicReason ?? "\(error)"
    // That a run's end could not be told does not make the run a failure.
    if isUnattended, !machine.isConfirming {
      onceResult = .failure(RunFailure(reason: "Redis: \(reason)", isPermanent: false))
    }
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

  /// Until Redis can be asked, the worker drains, the settings change, or the deadline.
  private func waitForRedis(_ deadline: MonotonicInstant) async {
    await firstOf(
      { try await self.redis.waitUntilReady(by: deadline) },
      { try await self.clock.sleep(until: deadline, orUntil: self.wakeUp) })
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

  private func run(_ run: Run, _ machine: inout SweeperStateMachine) async {
    let begin = clock.now
    let result = await runner.run(run)
    let end = clock.now
    let ended = EndedRun(run: run, result: result, duration: begin.duration(to: end), endedAt: clock.wallTime)
    machine.ended(ended, at: end, jitter: jitter)
    log(ended)
    if case .off(let missing, _) = result { tell(schema.looked(missing: missing, at: clock.now)) }
    onceResult = result
  }

  private var jitter: Double { random.fraction() }

  private func count(_ outcomes: [SlotOutcome]) {
    for outcome in outcomes { metrics.record(outcome) }
  }
}
