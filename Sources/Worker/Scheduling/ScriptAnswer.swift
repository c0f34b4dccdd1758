// A parsed answer of a Redis script. Pure.
// Invariant: no number in an answer is outside `PlausibleNumber.range`, so no sum or difference of two overflows. Made
// by Coordinator.

import Coordination
import Reactor

/// A script's answer.
struct ScriptAnswer: Equatable, Sendable {
  /// A word, or a number in decimal.
  let kind: String
  /// Redis's time in ms.
  let now: Int64
  /// The remaining values, each type in order.
  private(set) var numbers: [Int64] = []
  private(set) var texts: [String] = []

  /// - Throws: `Coordinator.UnexpectedAnswer`, also for an implausible number, which somebody else wrote into a
  ///   record.
  init(_ value: RedisValue) throws(Coordinator.UnexpectedAnswer) {
    guard let parts = value.array, parts.count >= 2, case .integer(let now) = parts[1],
      let kind = parts[0].text ?? parts[0].integer.map({ "\($0)" })
    else { throw Coordinator.UnexpectedAnswer() }
    (self.kind, self.now) = (kind, now)
    for part in parts[2...] {
      if case .integer(let number) = part {
        numbers.append(number)
      } else {
        // Not UTF-8: somebody else wrote it, so it is ignored. A pause's reason is for people, and may be cut within a
        // character.
        texts.append((kind == "paused" ? part.repairedText : part.text) ?? "")
      }
    }
    guard PlausibleNumber.range.contains(now), numbers.allSatisfy(PlausibleNumber.range.contains) else {
      throw Coordinator.UnexpectedAnswer()
    }
  }

  private func number(_ index: Int) throws(Coordinator.UnexpectedAnswer) -> Int64 {
    guard index < numbers.count else { throw Coordinator.UnexpectedAnswer() }
    return numbers[index]
  }

  private func text(_ index: Int) throws(Coordinator.UnexpectedAnswer) -> String {
    guard index < texts.count else { throw Coordinator.UnexpectedAnswer() }
    return texts[index]
  }

  /// The answer to a take.
  func take(
    token: String, sentAt: MonotonicInstant, isForced: Bool
  ) throws(Coordinator.UnexpectedAnswer) -> TakeAnswer {
    switch kind {
    case "taken":
      let (trigger, origin, progress) = (try number(4), try text(0), try text(1))
      return .taken(
        Run(
          epoch: try number(0), slot: try number(1), nextSlot: try number(2), isForced: isForced || trigger > 0,
          acceptsAnyShare: trigger == 2,
          failures: max(0, Int(try number(3))), origin: origin, progress: progress.isEmpty ? nil : progress,
          token: token, takenAt: sentAt))
    case "held": return .held(slot: try number(0), remaining: try number(1))
    case "stuck": return .stuck(slot: try number(0))
    case "idle": return .idle(slot: try number(0), due: try number(1))
    case "settling": return .settling(slot: try number(0), notBefore: try number(1))
    case "paused": return .paused(slot: try number(0), Pause(origin: try text(0), text: try text(1)))
    case "late": return .late
    default: throw Coordinator.UnexpectedAnswer()
    }
  }

  /// The state of the fleet in the answer to a take, unless the take was late.
  func fleetState() throws(Coordinator.UnexpectedAnswer) -> FleetState {
    let last = Array(numbers.suffix(4))
    guard last.count == 4, let notice = PauseNotice(rawValue: last[2]), let origin = texts.last else {
      throw Coordinator.UnexpectedAnswer()
    }
    return FleetState(
      replicas: Int(max(0, last[0])), succeededAt: last[1] > 0 ? last[1] : nil, pause: notice, newestTrigger: last[3],
      origin: origin)
  }

  /// The answer to a renewal.
  var renewal: Renewal {
    switch kind {
    case "1": .renewed
    case "2": .stop
    default: .refused
    }
  }

  /// The answer to a completion.
  func alertDecision() throws(Coordinator.UnexpectedAnswer) -> AlertDecision {
    guard kind == "done" else { return .none }
    guard numbers.count == 3, let kind = AlertDecision.Kind(rawValue: numbers[0]) else {
      throw Coordinator.UnexpectedAnswer()
    }
    return AlertDecision(kind: kind, failingFor: .milliseconds(numbers[1]), failures: Int(numbers[2]))
  }
}
