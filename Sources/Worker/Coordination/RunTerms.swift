// The terms that the parts of the schedule speak in: how a replica asks, what Redis answers, how a run ends. Values.
// Invariant: nothing here decides or waits, so the worker and the simulator share it as it is.

import Reactor

/// When a take counts a slot as due.
package enum TakeMode: String, Sendable {
  /// Where the schedule says so.
  case due
  /// At boot, too, unless the last run began less than a minute ago.
  case start
  /// In any case, for a run by hand.
  case force
}

/// Redis's answer to the question whether this replica may run a sweeper now. Times in ms of Redis's clock.
package enum TakeAnswer: Equatable, Sendable {
  /// The lock is this replica's, until its lease ends.
  case taken(RunTicket)
  /// Another replica has the lock; it expires in `remaining` ms unless renewed.
  case held(slot: Int64, remaining: Int64)
  /// Nothing is due before `due`.
  case idle(slot: Int64, due: Int64)
  /// Redis is empty or new: nobody may take a lock before `notBefore`, for whoever ran before may still be running.
  case settling(slot: Int64, notBefore: Int64)
  /// An operator has paused the sweeper.
  case paused(slot: Int64, Pause)
  /// Somebody holds the lock, and it has no expiry: it stays until it is deleted.
  case stuck(slot: Int64)
  /// The question arrived after its not-after and was refused.
  case late
}

/// A pause, as a replica remembers it: where Redis loses its data, the replica brings it back.
package struct Pause: Equatable, Sendable {
  /// The origin of the record that it was in.
  package let origin: String
  /// What the operator wrote, cut to a bound.
  package let text: String

  package init(origin: String, text: String) {
    self.origin = origin
    self.text = text
  }
}

/// The right to run a sweeper once.
package struct RunTicket: Equatable, Sendable {
  /// Fencing number: higher than that of any earlier run.
  package var epoch: Int64
  /// The slot that this run is for, and the one after it.
  package var slot: Int64
  package var nextSlot: Int64
  /// Whether it was asked for by hand, whatever is due.
  package var isForced = false
  /// How many runs failed in a row before this one.
  package var failures: Int
  /// A random value that was made with the schedule record: another Redis' record has another one.
  package var origin: String
  /// How far earlier runs got, in the sweep's own words; nil where none left any.
  package var progress: String?

  package init(
    epoch: Int64, slot: Int64, nextSlot: Int64, isForced: Bool = false, failures: Int, origin: String,
    progress: String? = nil
  ) {
    self.epoch = epoch
    self.slot = slot
    self.nextSlot = nextSlot
    self.isForced = isForced
    self.failures = failures
    self.origin = origin
    self.progress = progress
  }
}

/// A run that may begin: its ticket, the token that its lock holds, and the moment before the take was sent.
package struct RunGrant: Equatable, Sendable {
  package let ticket: RunTicket
  package let token: String
  package let takenAt: MonotonicInstant

  package init(ticket: RunTicket, token: String, takenAt: MonotonicInstant) {
    self.ticket = ticket
    self.token = token
    self.takenAt = takenAt
  }
}

/// What a run has to tell when it ends.
package struct RunReport: Equatable, Sendable {
  package enum Outcome: String, Sendable {
    case success, failure, drained

    /// What it counts as: a run that drained was left to another replica.
    package var counted: RunOutcome {
      switch self {
      case .success: .success
      case .failure: .failure
      case .drained: .skippedLock
      }
    }
  }

  package let outcome: Outcome
  /// Until the next try after a failure.
  package var retryDelay: Duration = .zero
  package var rows = 0
  package var duration: Duration = .zero
  /// How far the sweep got, for the next run; nil leaves the record's as it is.
  package var progress: String?
  /// It says nothing of the sweeper's health, and is neither a failure nor a recovery to people: a server was away, or
  /// all that was due was locked by others.
  package var isInconclusive = false

  package init(
    outcome: Outcome, retryDelay: Duration = .zero, rows: Int = 0, duration: Duration = .zero, progress: String? = nil,
    isInconclusive: Bool = false
  ) {
    self.outcome = outcome
    self.retryDelay = retryDelay
    self.rows = rows
    self.duration = duration
    self.progress = progress
    self.isInconclusive = isInconclusive
  }
}

/// How an attended slot ended.
package enum RunOutcome: String, CaseIterable, Sendable {
  case success, failure
  /// Another replica held the lock or had done the work.
  case skippedLock = "skipped_lock"
}

/// Why a run ended before its work was done.
package enum RunInterruption: Error, Equatable, Sendable {
  /// The lease was lost, or PostgreSQL's clock reached its deadline.
  case leaseLost
  /// An earlier run's session holds the advisory lock and would not go.
  case superseded
  /// A prepared transaction holds the advisory lock: it has no session that could be ended.
  case preparedTransaction
  /// A worker that agrees through another Redis, or under another namespace, sweeps the same tables.
  case foreignWorker
  /// The worker drains: the slot is given back.
  case drained
}
