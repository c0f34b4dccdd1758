// One sweeper of this replica, from boot to drain: asks, waits, runs, reports. The thin loop around Attendance.
// Invariants: it never overlaps with itself; a take or completion whose outcome is unknown is resolved before the next
// question; every attended slot is counted once.

import Logging
import Reactor

/// Attends the slots of one sweeper.
@EventLoop
final class SweeperLoop {
  /// After a failure: 1 s, doubling, 20% jitter, at most an hour (and never beyond the interval).
  static let retry = Backoff(initial: .seconds(1), cap: .seconds(3_600), jitter: 0.2)

  /// The longest delay that is added to a slot's start, so that not all replicas ask in the same moment.
  static let jitterLimit = Duration.seconds(1)

  let sweeper: Sweeper
  private let coordinator: Coordinator
  private let runner: SweepRunner
  private let redis: RedisClient
  private let clock: LoopClock
  private let drain: Gate
  private let metrics: TaskMetrics
  private let sink: any NotificationSink
  private var logger: Logger
  private var attendance: Attendance
  /// Tokens whose lock may be ours without our knowing.
  private var unresolvedTokens: [String] = []
  /// A run that ended, which Redis has not confirmed.
  private var unconfirmed: EndedRun?
  private var redisIsSilent = false

  private struct EndedRun {
    let ticket: RunTicket
    let token: String
    let report: RunReport
    let endedAt: WallClockTime
    /// Why it failed, where it did.
    let reason: String?
  }

  init(
    sweeper: Sweeper, coordinator: Coordinator, runner: SweepRunner, redis: RedisClient, clock: LoopClock, drain: Gate,
    metrics: TaskMetrics, sink: any NotificationSink, logger: Logger
  ) {
    self.sweeper = sweeper
    self.coordinator = coordinator
    self.runner = runner
    self.redis = redis
    self.clock = clock
    self.drain = drain
    self.metrics = metrics
    self.sink = sink
    self.logger = logger
    self.logger[metadataKey: "task"] = "\(sweeper.name)"
    attendance = Attendance(grid: coordinator.grid)
  }

  /// Attends slots until the drain opens its gate. Cancelled, it ends at once.
  func attendSlots(runOnStart: Bool) async {
    var mode: Coordinator.TakeMode = runOnStart ? .start : .due
    while !drain.isOpen, !Task.isCancelled {
      do {
        let wait = try await attend(mode)
        mode = .due
        try await clock.sleep(until: clock.now.advanced(by: wait), orUntil: drain)
      } catch {
        break
      }
    }
    count(attendance.drained())
  }

  /// Attends once: what is due (or in any case, by `mode`) is tried once. Only a new Redis is waited for.
  func attendOnce(_ mode: Coordinator.TakeMode) async -> OnceResult {
    do {
      while !drain.isOpen {
        let token = Token.random()
        let taken = try await take(token, mode)
        switch taken.answer {
        case .taken(let ticket):
          switch await run(ticket, token: token, takenAt: taken.sentAt) {
          case .succeeded(let count): return .ran(count)
          case .failed(let failure): return .failed(failure.reason)
          case .drained: return .notRun
          }
        case .settling(_, let notBefore):
          logger.info("waiting for the length of a lease, for Redis is new")
          try await clock.sleep(
            until: clock.now.advanced(by: .milliseconds(notBefore - taken.now + 1)), orUntil: drain)
        case .late:
          continue
        case .held, .idle, .paused:
          return .notRun
        }
      }
      return .notRun
    } catch {
      let reason = (error as? RedisError)?.publicReason ?? "Redis answered something unexpected"
      logger.error("Redis does not answer: nothing was swept", metadata: ["error": "\(reason)"])
      return .failed("Redis: \(reason)")
    }
  }

  /// Asks Redis, runs where it may, and returns how long to wait until the next question.
  private func attend(_ mode: Coordinator.TakeMode) async throws -> Duration {
    let token = Token.random()
    do {
      try await resolve()
      let taken = try await take(token, mode)
      redisIsSilent = false
      let (counts, action) = attendance.answered(taken.answer, at: taken.now)
      count(counts)
      switch action {
      case .askAgain:
        return .zero
      case .wait(let milliseconds):
        return .milliseconds(milliseconds) + jitter(upTo: milliseconds)
      case .run(let ticket):
        let result = await run(ticket, token: token, takenAt: taken.sentAt)
        return waitAfter(result, ticket)
      }
    } catch let error as RedisError {
      try Task.checkCancellation()
      return await afterSilence(error)
    }
  }

  private func take(
    _ token: String, _ mode: Coordinator.TakeMode
  ) async throws -> (answer: TakeAnswer, now: Int64, sentAt: MonotonicInstant) {
    do {
      return try await coordinator.take(token: token, mode: mode)
    } catch let error as RedisError {
      if case .unknownOutcome = error { unresolvedTokens.append(token) }
      throw error
    }
  }

  /// Redis did not answer: the slot failed. Waits for its return, or for one interval.
  private func afterSilence(_ error: RedisError) async -> Duration {
    let counts = attendance.unanswered(estimate: coordinator.redisTimeEstimate)
    count(counts)
    if !redisIsSilent {
      redisIsSilent = true
      logger.warning(
        "Redis does not answer: nothing is swept until it does", metadata: ["error": "\(error.publicReason)"])
    }
    await waitForRedis()
    return jitter(upTo: sweeper.interval.milliseconds)
  }

  /// Until Redis answers again, the worker drains, or one interval has passed.
  private func waitForRedis() async {
    let deadline = clock.now.advanced(by: sweeper.interval)
    await withTaskGroup { group in
      group.addTask { await self.silenced { try await self.redis.waitUntilReady(by: deadline) } }
      group.addTask { await self.silenced { try await self.clock.sleep(until: deadline, orUntil: self.drain) } }
      await group.next()
      group.cancelAll()
    }
  }

  /// Waits, and does not mind how the wait ended: the loop asks again either way.
  private func silenced(_ wait: @EventLoop () async throws -> Void) async {
    do {
      try await wait()
    } catch {
      // Cancelled or too late, which both mean: go on.
    }
  }

  /// Settles what earlier commands left unknown, before anything new is asked.
  private func resolve() async throws {
    if let run = unconfirmed {
      let verdict = try await coordinator.complete(run.ticket, token: run.token, run.report)
      unconfirmed = nil
      tell(verdict, of: run)
    }
    while let token = unresolvedTokens.first {
      try await coordinator.release(token: token)
      unresolvedTokens.removeFirst()
    }
  }

  private func run(_ ticket: RunTicket, token: String, takenAt: MonotonicInstant) async -> RunResult {
    let begin = clock.now
    let result = await runner.run(ticket, token: token, takenAt: takenAt)
    let duration = begin.duration(to: clock.now)
    var report = RunReport(outcome: .drained, duration: duration)
    var reason: String?
    switch result {
    case .succeeded(let count):
      report.outcome = .success
      report.note(count)
    case .failed(let failure):
      report.outcome = .failure
      report.note(failure.count)
      report.retryDelay = retryDelay(failure, ticket)
      reason = failure.reason
    case .drained(let count):
      report.note(count)
    }
    tell(result, ticket, duration)
    unconfirmed = EndedRun(ticket: ticket, token: token, report: report, endedAt: .now, reason: reason)
    do {
      try await resolve()
    } catch {
      // Not lost: it is sent again before the next question, and the lock runs out by itself.
      logger.warning(
        "the end of a run could not be told to Redis yet", metadata: ["epoch": .stringConvertible(ticket.epoch)])
    }
    return result
  }

  private func retryDelay(_ failure: RunFailure, _ ticket: RunTicket) -> Duration {
    failure.isPermanent
      ? sweeper.interval
      : min(sweeper.interval, Self.retry.delay(afterFailures: ticket.failures + 1, chance: .random(in: 0..<1)))
  }

  private func waitAfter(_ result: RunResult, _ ticket: RunTicket) -> Duration {
    let untilNextSlot = max(1, ticket.nextSlot - (coordinator.redisTimeEstimate ?? ticket.slot))
    if case .failed(let failure) = result {
      // The record holds the precise time: asked a little early, Redis answers how long to wait.
      return min(retryDelay(failure, ticket), .milliseconds(untilNextSlot))
    }
    return .milliseconds(untilNextSlot) + jitter(upTo: untilNextSlot)
  }

  private func jitter(upTo milliseconds: Int64) -> Duration {
    let limit = min(Self.jitterLimit.milliseconds, max(1, milliseconds / 20))
    return .milliseconds(Int64.random(in: 0...limit))
  }

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
    switch result {
    case .succeeded(let swept):
      metrics.record(.success)
      metrics.observe(duration)
      fields[sweeper.report.countName] = .stringConvertible(swept.changed)
      if swept.skipped > 0 { fields["skipped"] = .stringConvertible(swept.skipped) }
      logger.log(level: swept.found > 0 ? .info : .debug, "swept", metadata: fields)
      if swept.changed > 0 { announce(swept) }
    case .failed(let failure):
      metrics.record(.failure)
      metrics.observe(duration)
      fields["error"] = "\(failure.reason)"
      if failure.count.changed > 0 { fields[sweeper.report.countName] = .stringConvertible(failure.count.changed) }
      logger.error("\(sweeper.report.failureTitle)", metadata: fields)
    case .drained(let swept):
      metrics.record(.skippedLock)
      if swept.changed > 0 { fields[sweeper.report.countName] = .stringConvertible(swept.changed) }
      logger.info("the run was given back: the worker drains", metadata: fields)
    }
  }

  /// Of a fleet's failures in a row people hear of the first, of some later ones, and of their end. A run that drained
  /// or was taken over by another replica is none.
  private func tell(_ verdict: RunVerdict, of run: EndedRun) {
    let reason = run.reason ?? ""
    let failing = "failing for \(GoDuration.text(.seconds(verdict.failingFor.milliseconds / 1_000)))"
    switch verdict.kind {
    case .none:
      break
    case .first:
      sink.accept(
        Event(
          time: run.endedAt, severity: .error, component: sweeper.name, title: sweeper.report.failureTitle,
          detail: reason))
    case .reminder:
      sink.accept(
        Event(
          time: run.endedAt, severity: .error, component: sweeper.name, title: sweeper.report.failureTitle,
          detail: "\(failing): \(reason)", metadata: [("failures", verdict.failures)]))
    case .recovered:
      sink.accept(
        Event(
          time: run.endedAt, severity: .info, component: sweeper.name, title: "\(sweeper.name) recovered",
          detail: "it was \(failing)", metadata: [("failures", verdict.failures)]))
    }
  }

  private func announce(_ swept: SweepCount) {
    sink.accept(
      Event(
        time: .now, severity: sweeper.report.severity, component: sweeper.name, title: sweeper.report.title,
        detail: sweeper.report.showsCutoff ? swept.cutoff.map { "cutoff=\($0)" } ?? "" : "",
        metadata: [(sweeper.report.countName, swept.changed)]))
  }
}
