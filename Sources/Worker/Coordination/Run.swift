// The model of a run: the run itself, its result, its completion in Redis, and the outcome of its slot. Values.
// Invariant: nothing here decides or waits. Shared by the state machine, the loops, `run --once` and the simulator.

import Reactor

/// The right to run a sweeper once.
package struct Run: Equatable, Sendable {
  /// Fencing number: higher than that of any earlier run.
  package var epoch: Int64
  /// The slot that this run is for, and the one after it: starts in ms of Redis's clock.
  package var slot: Int64
  package var nextSlot: Int64
  /// Whether an operator started it even if nothing is due.
  package var isForced: Bool
  /// Whether an operator allows it to change more than the sweeper's maximum share of rows.
  package var acceptsAnyShare: Bool
  /// Consecutive failures before this run.
  package var failures: Int
  /// A random value created with the schedule record. Another Redis's record has another origin.
  package var origin: String
  /// How far earlier runs got, in the sweep's own format; nil if there is none.
  package var progress: String?
  /// The value of the lock.
  package let token: String
  /// The moment before the take was sent: the start of the lease.
  package var takenAt: MonotonicInstant

  package init(
    epoch: Int64, slot: Int64, nextSlot: Int64, isForced: Bool = false, acceptsAnyShare: Bool = false, failures: Int,
    origin: String, progress: String? = nil, token: String, takenAt: MonotonicInstant
  ) {
    self.epoch = epoch
    self.slot = slot
    self.nextSlot = nextSlot
    self.isForced = isForced
    self.acceptsAnyShare = acceptsAnyShare
    self.failures = failures
    self.origin = origin
    self.progress = progress
    self.token = token
    self.takenAt = takenAt
  }
}

/// What a run found and changed.
package struct SweepCount: Equatable, Sendable {
  package var changed: Int
  /// Of these, rows that had reached the attempt limit, and became something else.
  package var exhausted = 0
  /// Rows of a second table that changed with them.
  package var linked = 0
  /// What was due but not done: rows that others had locked, targets whose equal job is still queued.
  package var skipped: Int
  /// Rows whose change was refused, and why.
  package var refused = 0
  package var refusals: [RowRefusal] = []
  /// Rows that stayed due although their change succeeded.
  package var kept = 0
  /// Whether a brake ended the run before everything due was done.
  package var isPartial = false
  /// Whether others had locked everything due, so that the run did nothing.
  package var isLocked: Bool
  /// The run's cutoff on PostgreSQL's clock, in µs since 1970, for the event.
  package var cutoffMicroseconds: Int64?
  /// Since when the row that was due for the longest had been due when the run began, on PostgreSQL's clock less the
  /// sweep's age, in µs since 1970; nil if no row was due, or no index tells.
  package private(set) var oldestDueMicroseconds: Int64?
  /// How far the sweep got, for the next run, in the sweep's own format; nil leaves the record unchanged.
  package var progress: String?

  /// Jobs that have waited for too long, by type, if the sweeper watches.
  package var waits: [QueueWait] = []

  /// What was found but is left unchanged: jobs that have waited for too long.
  package var seen: Int { waits.reduce(0) { $0 + $1.jobs } }

  package var found: Int { changed + skipped + refused + kept + seen }

  /// How long a row had been due when the run began; zero if none was, or no index tells. A row that has been due
  /// for ever counts from 1970.
  package var oldestDue: Duration {
    guard let cutoffMicroseconds, let oldestDueMicroseconds else { return .zero }
    return .microseconds(max(0, cutoffMicroseconds - max(0, oldestDueMicroseconds)))
  }

  /// A part of the run found the first row due at this time.
  package mutating func noteOldestDue(_ microseconds: Int64?) {
    guard let microseconds else { return }
    oldestDueMicroseconds = min(oldestDueMicroseconds ?? microseconds, microseconds)
  }

  package init(changed: Int = 0, skipped: Int = 0, isLocked: Bool = false, progress: String? = nil) {
    self.changed = changed
    self.skipped = skipped
    self.isLocked = isLocked
    self.progress = progress
  }
}

/// Why the change of a row was refused.
package enum RowRefusal: Equatable, Sendable, CustomStringConvertible {
  /// PostgreSQL's SQLSTATE, and the relation that refused, if it is not the swept table.
  case sqlState(String, on: String? = nil)
  /// A trigger reset the session's settings, which contain the batch's guard.
  case settingsReset
  /// A trigger on this table, the audit trail, discarded the change's line.
  case discardedLines(String)
  /// The same, unless it only moved lines, or deleted others: the role may not read the table.
  case unprovenLines(String)

  package var description: String {
    switch self {
    case .sqlState(let state, let relation): relation.map { "\(state) on \($0)" } ?? state
    case .settingsReset: "a trigger resets the session's settings"
    case .discardedLines(let table): "a trigger on \(table) discards the worker's lines"
    case .unprovenLines(let table):
      "a trigger on \(table) moves, discards or deletes lines: grant SELECT on it, so that the worker can "
        + "verify that its own are kept"
    }
  }
}

/// The queued jobs of one type that have waited for too long.
package struct QueueWait: Equatable, Sendable {
  package enum Change: Sendable {
    case none, began, ended
  }

  package let jobType: String
  package let jobs: Int
  /// How long the oldest has waited.
  package let oldest: Duration
  package private(set) var change = Change.none

  package init(jobType: String, jobs: Int, oldest: Duration) {
    self.jobType = jobType
    self.jobs = jobs
    self.oldest = oldest
  }

  package func with(_ change: Change) -> QueueWait {
    var wait = self
    wait.change = change
    return wait
  }
}

/// Why a run failed, in words for operators.
package struct RunFailure: Equatable, Sendable {
  package let reason: String
  /// A retry before the next slot cannot help.
  package let isPermanent: Bool
  /// Whether PostgreSQL was unreachable. An outage has its own notification and is not a failure of the sweeper.
  package private(set) var isOutage: Bool
  /// The kind of failure, for the history: a SQLSTATE, or a word such as `lease-lost`.
  package let errorClass: String

  package init(reason: String, isPermanent: Bool, isOutage: Bool = false, errorClass: String = "other") {
    self.reason = reason
    self.isPermanent = isPermanent
    self.isOutage = isOutage
    self.errorClass = errorClass
  }

  /// The same failure, marked as an outage if the server then failed to answer a ping.
  package func asOutage(if serverIsUnavailable: Bool) -> RunFailure {
    var failure = self
    failure.isOutage = isOutage || serverIsUnavailable
    return failure
  }
}

/// How a run ended, and what it did until then.
package enum RunResult: Equatable, Sendable {
  /// Why a slot was given back.
  package enum DrainReason: String, Sendable {
    case shutdown = "the worker drains"
    /// The pool knows it, and no lock is taken until PostgreSQL accepts writes again.
    case readOnly = "the database is read-only"
    /// An operator paused the sweeper without letting the run finish.
    case paused = "the sweeper was paused"
  }

  case success(SweepCount = SweepCount())
  case failure(RunFailure, SweepCount = SweepCount())
  /// The slot was given back. Neither a success nor a failure.
  case drained(DrainReason = .shutdown, SweepCount = SweepCount())
  /// The schema lacks what the sweeper requires: the slot was given back, and the sweeper is off.
  case off(missing: String, SweepCount = SweepCount())

  package var count: SweepCount {
    switch self {
    case .success(let count), .failure(_, let count), .drained(_, let count), .off(_, let count): count
    }
  }

  package var failure: RunFailure? {
    if case .failure(let failure, _) = self { failure } else { nil }
  }

  package var isSuccess: Bool {
    if case .success = self { true } else { false }
  }

  /// Whether it leaves work that the sweeper could do: it failed, or gave the slot back.
  package var isUndone: Bool {
    switch self {
    case .success, .off: false
    case .failure, .drained: true
    }
  }

  /// Whether it says nothing about the sweeper's health, so alerts count it neither as a failure nor as a recovery:
  /// PostgreSQL was unavailable, or others had locked everything due.
  package var isInconclusive: Bool {
    switch self {
    case .success(let count): count.isLocked
    case .failure(let failure, _): failure.isOutage
    case .drained, .off: true
    }
  }

  /// Its name in the schedule record and the history.
  package var name: String {
    switch self {
    case .success: "success"
    case .failure: "failure"
    case .drained, .off: "drained"
    }
  }

  /// A slot that was given back is left to another replica.
  package var slotOutcome: SlotOutcome {
    switch self {
    case .success: .success
    case .failure: .failure
    case .drained, .off: .skippedLock
    }
  }
}

/// A completed run, as reported to Redis.
package struct EndedRun: Equatable, Sendable {
  package let run: Run
  package let result: RunResult
  package let duration: Duration
  package let endedAt: WallClockTime
  /// The delay before a retry after a failure. SweeperStateMachine sets it.
  package var retryDelay: Duration

  package init(
    run: Run, result: RunResult, duration: Duration, endedAt: WallClockTime, retryDelay: Duration = .zero
  ) {
    self.run = run
    self.result = result
    self.duration = duration
    self.endedAt = endedAt
    self.retryDelay = retryDelay
  }
}

/// The outcome of an attended slot, in the metrics.
package enum SlotOutcome: String, CaseIterable, Sendable {
  case success, failure
  /// Another replica held the lock or had done the work.
  case skippedLock = "skipped_lock"
  /// The sweeper was paused.
  case paused
}

/// Whether to notify of a run's end. Redis decides for the whole fleet from the schedule record: it announces the first
/// of consecutive failures, then some, then the recovery.
package struct AlertDecision: Equatable, Sendable {
  package enum Kind: Int64, Sendable {
    /// No notification.
    case none
    /// The first failure after a success; another one, long enough after the last alert; a recovery.
    case first, reminder, recovered
  }

  package static let none = AlertDecision(kind: .none, failingFor: .zero, failures: 0)

  package let kind: Kind
  /// Since the first of these failures.
  package let failingFor: Duration
  /// The number of consecutive failures.
  package let failures: Int

  package init(kind: Kind, failingFor: Duration, failures: Int) {
    self.kind = kind
    self.failingFor = failingFor
    self.failures = failures
  }
}

/// Why a run ended before its work was done.
package enum RunInterruption: Error, Equatable, Sendable {
  /// The lease was lost, or PostgreSQL's clock passed its deadline.
  case leaseLost
  /// Another run's session holds the advisory lock and could not be terminated. Its process on PostgreSQL, if known.
  case superseded(by: Int32?)
  /// A prepared transaction holds the advisory lock: it has no session to terminate.
  case preparedTransaction
  /// A worker that uses another Redis or another namespace sweeps the same tables, in this process on PostgreSQL.
  case foreignWorker(Int32)
  /// The worker drains: the slot is given back.
  case drained
}
