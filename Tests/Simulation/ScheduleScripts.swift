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
    case complete(EndedRun, lease: Int64, interval: Int64, replica: String)
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
      let run = Run(
        epoch: number(1), slot: number(3), nextSlot: 0, failures: 0, origin: "", token: arguments[0],
        takenAt: MonotonicInstant(nanoseconds: 0))
      let ended = EndedRun(
        run: run, result: result(arguments), duration: .milliseconds(number(7)),
        endedAt: WallClockTime(seconds: 0, nanoseconds: 0), retryDelay: .milliseconds(number(5)))
      return .complete(ended, lease: number(2), interval: number(10), replica: arguments[8])
    default:
      preconditionFailure("the model does not know this script: \(script.source)")
    }
  }

  private static func result(_ arguments: [String]) -> RunResult {
    guard let rows = Int(arguments[6]) else { preconditionFailure("\(arguments[6]) rows are no number") }
    let isInconclusive = arguments[11] == "1"
    let count = SweepCount(
      changed: rows, isLocked: isInconclusive, progress: arguments[9].isEmpty ? nil : arguments[9])
    switch arguments[4] {
    case "success": return .success(count)
    case "failure": return .failure(RunFailure(reason: "", isPermanent: false, isOutage: isInconclusive), count)
    case "drained": return .drained(.shutdown, count)
    default: preconditionFailure("unknown outcome \(arguments[4])")
    }
  }

  mutating func execute(_ call: Call, at now: Int64) -> Answer {
    switch call {
    case .take(let ask): .take(take(ask, at: now))
    case .renew(let token, let lease, let notAfter):
      .renew(renew(token: token, lease: lease, notAfter: notAfter, at: now))
    case .release(let token): .release(release(token: token, at: now))
    case .complete(let ended, let lease, let interval, let replica):
      .complete(complete(ended, lease: lease, interval: interval, replica: replica, at: now))
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
    case .taken(let run):
      value(
        "taken", now, [run.epoch, run.slot, run.nextSlot, Int64(run.failures)],
        [run.origin, run.progress ?? ""])
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
