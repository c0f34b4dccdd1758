// One run of one sweeper, from the granted take to its report: the lease is renewed beside the work, and ends it.
// Invariant: when `run` returns, the work has ended; nothing of it is left on the server.

import Reactor

/// How a run ended, with what the scheduler needs to tell Redis, the metrics and people.
enum RunResult: Sendable {
  case succeeded(SweepCount)
  case failed(RunFailure)
  /// With what was changed before.
  case drained(SweepCount)
}

/// What a run has done so far: it outlives whatever ends the run.
@EventLoop
final class RunTally {
  var count = SweepCount()
}

/// A failed run.
struct RunFailure: Sendable {
  /// In words for operators: no row's content, no host, no password.
  let reason: String
  /// Another try before the next slot cannot help: a table or a privilege is missing, a type is wrong.
  let isPermanent: Bool
  /// What was changed before it failed.
  let count: SweepCount

  init(_ error: any Error, count: SweepCount) {
    var cause = error
    var prefix = ""
    if let some = error as? Discovery.SomeFailed {
      prefix = "\(some.failed) of the targets: "
      cause = some.first
    }
    self.count = count
    switch cause {
    case let error as PostgresError:
      reason = prefix + error.publicReason
      // Classes 42 (syntax error or access rule violation) and 22 (data exception), PostgreSQL's appendix A.
      isPermanent = error.sqlState.map { $0.hasPrefix("42") || $0.hasPrefix("22") } ?? false
    case RunInterruption.leaseLost:
      reason = prefix + "the lease was lost"
      isPermanent = false
    case RunInterruption.superseded:
      reason = prefix + "another run's session holds this sweeper's advisory lock"
      isPermanent = false
    default:
      reason = prefix + "unexpected: \(cause)"
      isPermanent = false
    }
  }
}

/// Runs a sweeper under a lease.
@EventLoop
struct SweepRunner {
  let sweeper: Sweeper
  let coordinator: Coordinator
  let pool: PostgresPool
  let clock: LoopClock
  /// Opens when the worker drains: no further batch begins.
  let drain: Gate
  /// Opens when the grace is over: the batch at hand is cancelled.
  let giveUp: Gate

  /// Does the sweeper's work. The lock was taken by a command that was sent at `takenAt`.
  func run(_ ticket: RunTicket, token: String, takenAt: MonotonicInstant) async -> RunResult {
    let held = HeldLease(Lease(duration: coordinator.leaseDuration, takenAt: takenAt))
    let tally = RunTally()
    do {
      try await withThrowingTaskGroup(of: Bool.self) { group in
        group.addTask {
          try await work(ticket, held, tally)
          return true
        }
        group.addTask {
          try await keep(held, token: token)
          return false
        }
        group.addTask {
          try await clock.sleep(until: clock.now.advanced(by: .seconds(86_400)), orUntil: giveUp)
          throw RunInterruption.drained
        }
        defer { group.cancelAll() }
        guard try await group.next() == true else { throw RunInterruption.leaseLost }
      }
      return .succeeded(tally.count)
    } catch RunInterruption.drained {
      return .drained(tally.count)
    } catch is CancellationError {
      return .drained(tally.count)
    } catch {
      return .failed(RunFailure(error, count: tally.count))
    }
  }

  private func work(_ ticket: RunTicket, _ held: HeldLease, _ tally: RunTally) async throws {
    try await pool.withConnection(by: held.lease.stopAt) { connection in
      let session = GuardedSession(
        connection: connection, held: held, clock: clock, sweeper: sweeper.name, ticket: ticket, age: sweeper.work.age,
        isDraining: { drain.isOpen })
      switch sweeper.work {
      case .rows(let sweep): try await sweep.run(in: session, noting: tally)
      case .discovery(let discovery): try await discovery.run(in: session, slot: ticket.slot, noting: tally)
      }
    }
  }

  /// Renews the lease until it is lost; then returns, which ends the work.
  private func keep(_ held: HeldLease, token: String) async throws {
    while true {
      switch held.lease.action(at: clock.now) {
      case .wait(let until):
        try await clock.sleep(until: until)
      case .renew:
        let sentAt = clock.now
        do {
          if try await coordinator.renew(token: token, by: held.lease.stopAt) {
            held.lease.renewed(sentAt: sentAt)
          } else {
            held.lease.refused()
          }
        } catch is CancellationError {
          throw CancellationError()
        } catch {
          // An error of Redis is not a loss: the deadline decides.
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
  /// How far a run's cutoff lies before now.
  var age: Duration {
    switch self {
    case .rows(let sweep): sweep.age
    case .discovery: .zero
    }
  }
}
