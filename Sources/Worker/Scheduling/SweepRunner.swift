// One run of one sweeper, from the take to its result: the lease is renewed concurrently, and its loss ends the work.
// Invariant: when `run` returns, no further batch is sent. One that was cut short is being cancelled on the server,
// where its deadline and the advisory lock guard it.

import Coordination
import Logging
import Reactor

/// What a run has done so far. It is kept however the run ends.
@EventLoop
final class RunTally {
  var count = SweepCount()
  /// How often rows were changed; nil if the sweep does not count that.
  var attempts: AttemptCounts?
}

/// Runs a sweeper under a lease.
@EventLoop
struct SweepRunner {
  let sweeper: Sweeper
  let coordinator: Coordinator
  let pool: any SweepPool
  let clock: LoopClock
  let shutdown: Shutdown
  let schema: SchemaCheck
  /// The Redis namespace, which is part of a run's application_name.
  let namespace: String
  let allowsRowSecurity: Bool
  let brakes: BrakeSettings
  let standbyReports: StandbyReports
  /// The locks of single connections.
  let locks: DiscoverLocks
  let logger: Logger
  private let memory = TableMemory()
  private let connectionMemory = ConnectionMemory()

  /// Does the sweeper's work.
  func run(_ run: Run) async -> RunResult {
    let held = HeldLease(Lease(duration: coordinator.leaseDuration, takenAt: run.takenAt))
    let tally = RunTally()
    do {
      try await withThrowingTaskGroup(of: Bool.self) { group in
        group.addTask {
          try await work(run, held, tally)
          return true
        }
        group.addTask {
          try await renewLease(held, token: run.token, tally)
          return false
        }
        group.addTask {
          try await clock.sleep(until: .never, orUntil: shutdown.cancelling)
          throw RunInterruption.drained
        }
        defer { group.cancelAll() }
        guard try await group.next() == true else { throw RunInterruption.leaseLost }
      }
      return .success(tally.count)
    } catch RunInterruption.drained {
      return .drained(held.stopRequested && !shutdown.isDraining ? .paused : .shutdown, tally.count)
    } catch is CancellationError {
      return .drained(.shutdown, tally.count)
    } catch let error as PostgresError where error.isReadOnly {
      return .drained(.readOnly, tally.count)
    } catch {
      if let missing = await missing(error) { return .off(missing: missing, tally.count) }
      return .failure(await failure(error, held.lease), tally.count)
    }
  }

  /// Whether PostgreSQL answers that nothing is due, for a sweeper that asks this first. False without an answer: the
  /// run then meets the fault and reports it.
  func nothingIsDue() async -> Bool {
    guard case .rows(let sweep) = sweeper.work, sweep.probesFirst, pool.isWorthAsking else { return false }
    let limit = clock.now.advanced(by: Self.probeTimeout)
    let answer = OneShot<Bool>()
    do {
      try await pool.withSweepConnection(by: limit) { connection in
        answer.fire(try await memory.nothingIsDue(over: connection, by: limit))
      }
      return await answer.wait(until: limit, on: clock) ?? false
    } catch {
      return false
    }
  }

  private static let probeTimeout = Duration.seconds(2)

  /// What the schema lacks, if that is why the run failed. A trigger may need a missing column too.
  private func missing(_ error: any Error) async -> String? {
    guard !sweeper.requires.isEmpty, RunFailure.isAboutSchema(error) else { return nil }
    do {
      return try await schema.missing(for: sweeper.name, maximumAge: .zero)
    } catch {
      // The run's own failure is reported.
      return nil
    }
  }

  /// Why the run failed. If its connection broke or hung, pings the server, at most until the lease ends, to tell an
  /// outage from a failure of the run.
  private func failure(_ error: any Error, _ lease: Lease) async -> RunFailure {
    let failure = RunFailure(error, on: sweeper.work.place(memory.survey ?? connectionMemory.connections.survey))
    guard RunFailure.isInDoubt(error) else { return failure }
    do {
      try await pool.ping(by: min(lease.stopAt, clock.now.advanced(by: PostgresPool.pingLimit)))
    } catch PostgresError.unavailable {
      // Still unavailable, or not yet reconnected.
      return failure.asOutage(if: true)
    } catch {
      // The pool knows from the answer whether there is an outage.
    }
    return failure.asOutage(if: pool.outage != nil)
  }

  private func work(_ run: Run, _ held: HeldLease, _ tally: RunTally) async throws {
    try await pool.withSweepConnection(by: held.lease.stopAt) { connection in
      let session = GuardedSession(
        connection: connection, held: held, clock: clock,
        name: RunName(namespace: namespace, origin: run.origin, sweeper: sweeper.name), run: run,
        age: sweeper.work.age, isDraining: { shutdown.isDraining || held.stopRequested },
        onTermination: report(terminated:))
      switch sweeper.work {
      case .rows(let sweep):
        let interval = Duration.milliseconds(coordinator.grid.intervalMilliseconds)
        if !brakes.areOff {
          session.brakes = SweepBrakes(
            brakes, every: interval, clock: clock, draining: shutdown.draining, standbyReports: standbyReports,
            report: report(_:))
        }
        try await RowSweepRun(
          sweep, in: session, knowing: memory, allowsRowSecurity: allowsRowSecurity,
          acceptsAnyShare: run.acceptsAnyShare, every: interval, progress: run.progress, noting: tally
        ).run()
      case .watch(let watch):
        try await watch.run(
          in: session, knowing: memory, allowsRowSecurity: allowsRowSecurity, progress: run.progress, noting: tally)
      case .discovery(let discovery):
        try await discovery.run(
          run, in: session, knowing: memory, allowsRowSecurity: allowsRowSecurity, noting: tally)
      case .connections(let discovery):
        try await ConnectionDiscoveryRun(
          discovery, in: session, knowing: connectionMemory, locks: locks, allowsRowSecurity: allowsRowSecurity,
          noting: tally
        ).run(onCovered: report(covered:))
      }
    }
  }

  /// The most targets named in a line.
  private static let namedTargetLimit = 20

  private func report(covered targets: [String]) {
    let named = targets.prefix(Self.namedTargetLimit).map { Logger.MetadataValue.string($0) }
    logger.warning(
      "targets in SB_DISCOVER_TARGETS_JSON are also provider connections, and are discovered twice",
      metadata: ["targets": .array(named), "count": .stringConvertible(targets.count)])
  }

  private func report(_ change: StandbyReports.Change) {
    switch change {
    case .waiting(let lag):
      logger.warning(
        "sweeps wait for a standby that is too far behind",
        metadata: [
          "behind_bytes": .stringConvertible(lag.bytes),
          "behind": "\(lag.isCatchingUp ? "unknown" : GoDuration.text(wholeSecondsOf: lag.time))",
        ])
    case .resumed: logger.info("sweeps no longer wait for a standby")
    case .hidden:
      logger.warning(
        "sweeps do not wait for standbys: the role may not see their replication lag",
        metadata: ["run": "GRANT pg_read_all_stats TO the worker's role"])
    }
  }

  private func report(terminated session: AdvisoryHolder) {
    logger.warning(
      "terminated the session of an earlier run that still held this sweeper's advisory lock",
      metadata: ["pid": .stringConvertible(session.processID), "application_name": "\(session.applicationName)"])
  }

  /// Renews the lease, and returns when it is lost, which ends the work.
  private func renewLease(_ held: HeldLease, token: String, _ tally: RunTally) async throws {
    while true {
      switch held.lease.action(at: clock.now) {
      case .wait(let until):
        try await clock.sleep(until: until)
      case .renew:
        let sentAt = clock.now
        do {
          switch try await coordinator.renewal(
            token: token, changed: tally.count.changed, by: held.lease.stopAt)
          {
          case .refused: held.lease.refused()
          case .renewed: held.lease.renewed(sentAt: sentAt)
          case .stop:
            held.lease.renewed(sentAt: sentAt)
            held.stopRequested = true
          }
        } catch is CancellationError {
          throw CancellationError()
        } catch {
          // A Redis error does not lose the lease; its deadline does.
          try Task.checkCancellation()
          held.lease.unanswered(at: clock.now)
        }
      case .stop:
        return
      }
    }
  }
}

extension Sweeper.Work {
  /// A batch's operation and table, for operators.
  func place(_ survey: TableSurvey?) -> String? {
    switch self {
    case .rows(let sweep): "\(sweep.deletes ? "DELETE" : "UPDATE") on \(survey?.displayName ?? sweep.table)"
    case .discovery: "INSERT on \(survey?.displayName ?? Discovery.table)"
    case .connections: "claim on \(survey?.displayName ?? ConnectionDiscovery.table)"
    case .watch: "look at \(survey?.displayName ?? QueueWatch.table)"
    }
  }

  var watchesQueue: Bool { if case .watch = self { true } else { false } }

  /// How long before now a run's cutoff is.
  var age: Duration {
    switch self {
    case .rows(let sweep): sweep.age
    case .discovery, .connections, .watch: .zero
    }
  }
}
