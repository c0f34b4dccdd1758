// The scripts' calls on the wire: positional arguments in, Redis values out.
// Invariant: they match CoordinationScripts; ScheduleModelTests compares the answers with a real Redis.

import Coordination
import Reactor

extension ScheduleModel {
  /// One call of a script.
  enum Call {
    case take(Ask)
    case renew(token: String, lease: Int64, notAfter: Int64, changed: String)
    case release(token: String)
    case complete(EndedRun, lease: Int64, interval: Int64, replica: String)
    case trigger(accepts: String)
    case leave(replica: String, listedAt: String)
  }

  enum Answer {
    case take(TakeAnswer, FleetState?)
    case renew(Int64)
    case release(Bool)
    case complete(CompleteAnswer)
    case trigger(TriggerAnswer)
    case leave
  }

  /// Parses a script call for the named sweeper.
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
          pause: arguments[6].isEmpty ? nil : Pause(origin: arguments[6], text: arguments[7]),
          replica: arguments[8], presence: arguments[9]))
    case CoordinationScripts.renew.sha1:
      return .renew(token: arguments[0], lease: number(1), notAfter: number(2), changed: arguments[3])
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
    case CoordinationScripts.trigger.sha1:
      return .trigger(accepts: arguments[0])
    case CoordinationScripts.leave.sha1:
      return .leave(replica: arguments[0], listedAt: arguments[1])
    default:
      preconditionFailure("the model does not know this script: \(script.source)")
    }
  }

  private static func result(_ arguments: [String]) -> RunResult {
    func rows(_ index: Int) -> Int {
      guard let rows = Int(arguments[index]) else { preconditionFailure("\(arguments[index]) rows are no number") }
      return rows
    }
    let isInconclusive = arguments[11] == "1"
    var count = SweepCount(
      changed: rows(6), skipped: rows(13), isLocked: isInconclusive, progress: arguments[9].isEmpty ? nil : arguments[9]
    )
    count.refused = rows(14)
    count.kept = rows(12) - count.found
    switch arguments[4] {
    case "success": return .success(count)
    case "failure":
      return .failure(
        RunFailure(reason: "", isPermanent: false, isOutage: isInconclusive, errorClass: arguments[15]), count)
    case "drained": return .drained(.shutdown, count)
    default: preconditionFailure("unknown outcome \(arguments[4])")
    }
  }

  private mutating func take(_ ask: Ask, at now: Int64) -> Answer {
    let answer: TakeAnswer = take(ask, at: now)
    return .take(answer, answer == .late ? nil : fleet)
  }

  private mutating func left(_ replica: String, _ listedAt: String) -> Answer {
    leave(replica: replica, listedAt: listedAt)
    return .leave
  }

  mutating func execute(_ call: Call, at now: Int64) -> Answer {
    switch call {
    case .take(let ask): take(ask, at: now)
    case .renew(let token, let lease, let notAfter, let changed):
      .renew(renew(token: token, lease: lease, notAfter: notAfter, changed: changed, at: now))
    case .release(let token): .release(release(token: token, at: now))
    case .complete(let ended, let lease, let interval, let replica):
      .complete(complete(ended, lease: lease, interval: interval, replica: replica, at: now))
    case .trigger(let accepts): .trigger(trigger(accepts: accepts, at: now))
    case .leave(let replica, let listedAt): left(replica, listedAt)
    }
  }
}

extension ScheduleModel.Answer {
  /// The answer as the script gives it at `now`.
  func value(at now: Int64) -> RedisValue {
    switch self {
    case .renew(let code): .array([.integer(code), .integer(now)])
    case .release(let isDone): .array([.integer(isDone ? 1 : 0), .integer(now)])
    case .complete(.superseded): Self.value("superseded", now)
    case .complete(.done(let verdict, let failingFor, let failures)):
      Self.value("done", now, [verdict, failingFor, failures])
    case .take(let answer, let fleet):
      Self.value(answer, now).appending(
        fleet.map { [Int64($0.replicas), $0.succeededAt ?? 0, $0.pause.rawValue, $0.newestTrigger] } ?? [],
        fleet.map { [$0.origin] } ?? [])
    case .trigger(let answer): Self.value(answer.kind, now, [answer.id], [answer.text])
    case .leave: Self.value("left", now)
    }
  }

  private static func value(_ answer: TakeAnswer, _ now: Int64) -> RedisValue {
    switch answer {
    case .taken(let run):
      value(
        "taken", now,
        [run.epoch, run.slot, run.nextSlot, Int64(run.failures), run.isForced ? run.acceptsAnyShare ? 2 : 1 : 0],
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

extension RedisValue {
  fileprivate func appending(_ numbers: [Int64], _ texts: [String]) -> RedisValue {
    .array((array ?? []) + numbers.map { .integer($0) } + texts.map { .string(Array($0.utf8)) })
  }
}
