// The terms that the parts of the schedule speak in: how a replica asks, what Redis answers, how a run ends. Values.
// Invariant: nothing here decides or waits, so the worker and the simulator share it as it is.

import Reactor

/// When a take counts a slot as due.
enum TakeMode: String, Sendable {
  /// Where the schedule says so.
  case due
  /// At boot, too, unless the last run began less than a minute ago.
  case start
  /// In any case, for a run by hand.
  case force
}

/// Redis's answer to the question whether this replica may run a sweeper now. Times in ms of Redis's clock.
enum TakeAnswer: Equatable, Sendable {
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
struct Pause: Equatable, Sendable {
  /// The origin of the record that it was in.
  let origin: String
  /// What the operator wrote, cut to a bound.
  let text: String
}

/// The right to run a sweeper once.
struct RunTicket: Equatable, Sendable {
  /// Fencing number: higher than that of any earlier run.
  var epoch: Int64
  /// The slot that this run is for, and the one after it.
  var slot: Int64
  var nextSlot: Int64
  /// Whether it was asked for by hand, whatever is due.
  var isForced = false
  /// How many runs failed in a row before this one.
  var failures: Int
  /// A random value that was made with the schedule record: another Redis' record has another one.
  var origin: String
  /// How far earlier runs got, in the sweep's own words; nil where none left any.
  var progress: String?
}

/// A run that may begin: its ticket, the token that its lock holds, and the moment before the take was sent.
struct RunGrant: Equatable, Sendable {
  let ticket: RunTicket
  let token: String
  let takenAt: MonotonicInstant
}

/// What a run has to tell when it ends.
struct RunReport: Equatable, Sendable {
  enum Outcome: String, Sendable {
    case success, failure, drained

    /// What it counts as: a run that drained was left to another replica.
    var counted: RunOutcome {
      switch self {
      case .success: .success
      case .failure: .failure
      case .drained: .skippedLock
      }
    }
  }

  let outcome: Outcome
  /// Until the next try after a failure.
  var retryDelay: Duration = .zero
  var rows = 0
  var duration: Duration = .zero
  /// How far the sweep got, for the next run; nil leaves the record's as it is.
  var progress: String?
  /// It says nothing of the sweeper's health, and is neither a failure nor a recovery to people: a server was away, or
  /// all that was due was locked by others.
  var isInconclusive = false
}

/// How an attended slot ended.
enum RunOutcome: String, CaseIterable, Sendable {
  case success, failure
  /// Another replica held the lock or had done the work.
  case skippedLock = "skipped_lock"
}

/// Why a run ended before its work was done.
enum RunInterruption: Error, Equatable, Sendable {
  /// The lease was lost, or PostgreSQL's clock reached its deadline.
  case leaseLost
  /// An earlier run's session holds the advisory lock and would not go.
  case superseded
  /// A worker that agrees through another Redis, or under another namespace, sweeps the same tables.
  case foreignWorker
  /// The worker drains: the slot is given back.
  case drained
}
