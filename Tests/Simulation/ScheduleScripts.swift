// The scripts' calls as they come over the wire: arguments by position in, Redis' values out.
// Invariant: as CoordinationScripts has them; ScheduleModelTests compares the answers with a real Redis'.

import Coordination
import Reactor

extension ScheduleModel {
  /// One call of a script.
  enum Call {
    case take(Ask)
    case renew(token: String, lease: Int64, notAfter: Int64)
    case release(token: String)
    case complete(SweeperStateMachine.Completion, lease: Int64, interval: Int64, replica: String)
  }

  enum Answer {
    case take(TakeAnswer)
    case renew(Bool)
    case release(Bool)
    case complete(CompleteAnswer)
  }

  /// Reads a call of a script for the sweeper of this name.
  static func call(_ script: RedisScript, _ arguments: [String], sweeper: String) -> Call {
    func number(_ index: Int) -> Int64 {
      guard let number = Int64(arguments[index]) else { preconditionFailure("argument \(index) is no number") }
      return number
    }
    switch script.sha1 {
    case CoordinationScripts.take.sha1:
      let grid = SlotGrid(sweeper: sweeper, interval: .milliseconds(number(2)))
      precondition(grid.offsetMilliseconds == number(3), "the slots of \(sweeper) begin elsewhere")
      guard let mode = TakeMode(rawValue: arguments[5]) else { preconditionFailure("unknown mode \(arguments[5])") }
      return .take(
        Ask(
          token: arguments[0], lease: number(1), grid: grid, notAfter: number(4), mode: mode,
          pause: arguments[6].isEmpty ? nil : Pause(origin: arguments[6], text: arguments[7])))
    case CoordinationScripts.renew.sha1:
      return .renew(token: arguments[0], lease: number(1), notAfter: number(2))
    case CoordinationScripts.release.sha1:
      return .release(token: arguments[0])
    case CoordinationScripts.complete.sha1:
      guard let outcome = RunReport.Outcome(rawValue: arguments[4]) else {
        preconditionFailure("unknown outcome \(arguments[4])")
      }
      let ticket = RunTicket(epoch: number(1), slot: number(3), nextSlot: 0, failures: 0, origin: "")
      let report = RunReport(
        outcome: outcome, retryDelay: .milliseconds(number(5)), rows: Int(number(6)),
        duration: .milliseconds(number(7)), progress: arguments[9].isEmpty ? nil : arguments[9],
        isInconclusive: arguments[11] == "1")
      let grant = RunGrant(ticket: ticket, token: arguments[0], takenAt: MonotonicInstant(nanoseconds: 0))
      return .complete(
        SweeperStateMachine.Completion(grant: grant, report: report), lease: number(2), interval: number(10),
        replica: arguments[8])
    default:
      preconditionFailure("the model does not know this script: \(script.source)")
    }
  }

  mutating func execute(_ call: Call, at now: Int64) -> Answer {
    switch call {
    case .take(let ask): .take(take(ask, at: now))
    case .renew(let token, let lease, let notAfter):
      .renew(renew(token: token, lease: lease, notAfter: notAfter, at: now))
    case .release(let token): .release(release(token: token, at: now))
    case .complete(let completion, let lease, let interval, let replica):
      .complete(complete(completion, lease: lease, interval: interval, replica: replica, at: now))
    }
  }
}

extension ScheduleModel.Answer {
  /// The answer as the script gives it at `now`.
  func value(at now: Int64) -> RedisValue {
    switch self {
    case .renew(let isDone), .release(let isDone): .array([.integer(isDone ? 1 : 0), .integer(now)])
    case .complete(.superseded): Self.value("superseded", now)
    case .complete(.done(let verdict, let failingFor, let failures)):
      Self.value("done", now, [verdict, failingFor, failures])
    case .take(let answer): Self.value(answer, now)
    }
  }

  private static func value(_ answer: TakeAnswer, _ now: Int64) -> RedisValue {
    switch answer {
    case .taken(let ticket):
      value(
        "taken", now, [ticket.epoch, ticket.slot, ticket.nextSlot, Int64(ticket.failures)],
        [ticket.origin, ticket.progress ?? ""])
    case .held(let slot, let remaining): value("held", now, [slot, remaining])
    case .idle(let slot, let due): value("idle", now, [slot, due])
    case .settling(let slot, let notBefore): value("settling", now, [slot, notBefore])
    case .paused(let slot, let pause): value("paused", now, [slot], [pause.origin, pause.text])
    case .stuck(let slot): value("stuck", now, [slot])
    case .late: value("late", now)
    }
  }

  private static func value(
    _ kind: String, _ now: Int64, _ numbers: [Int64] = [], _ texts: [String] = []
  ) -> RedisValue {
    let head: [RedisValue] = [.string(Array(kind.utf8)), .integer(now)]
    return .array(head + numbers.map { .integer($0) } + texts.map { .string(Array($0.utf8)) })
  }
}
