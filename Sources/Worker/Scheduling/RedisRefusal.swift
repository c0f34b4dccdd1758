// Whether Redis refuses a single sweeper's commands, and when to report that, as pure values. Invariant: a lasting
// refusal and its end are reported once each; an outage of Redis is reported as such, not as a refusal of each sweeper.
// Used by SweeperLoop.

import Reactor

/// A refusal by Redis, as opposed to no answer.
struct RedisRefusal: Equatable {
  let reason: String
  /// A key holds a value of another type than the scripts use.
  var isOfAnotherType = false

  /// Nil if Redis did not answer.
  init?(_ error: any Error) {
    switch error {
    case RedisError.server(let code, _):
      reason = (error as? RedisError)?.publicReason ?? code
      isOfAnotherType = code == "WRONGTYPE"
    case is Coordinator.UnexpectedAnswer:
      reason = "an unexpected answer: the record may hold values that no worker wrote"
    default:
      return nil
    }
  }
}

/// Whether Redis refuses a sweeper's commands for so long that it misses a slot.
struct RefusalWatch {
  enum Change: Equatable {
    case refused(reason: String, key: String)
    case answered
  }

  /// The key that the refusal is about, or the record's.
  var key = ""
  /// Whether a slot has failed since Redis last answered.
  private var hasFailed = false
  private var isReported = false
  private var change: Change?

  /// Redis refused a command, or (nil) did not answer.
  ///
  /// - Parameters:
  ///   - isAgain: whether an earlier command failed too. The client has checked Redis since then.
  ///   - hasFailed: whether a slot was counted as a failure.
  ///   - isOutage: whether Redis as a whole is unavailable.
  mutating func noAnswer(_ refusal: RedisRefusal?, isAgain: Bool, hasFailed: Bool, isOutage: Bool) {
    self.hasFailed = self.hasFailed || hasFailed
    guard let refusal, isAgain, self.hasFailed, !isOutage, !isReported else { return }
    isReported = true
    change = .refused(reason: refusal.reason, key: key)
  }

  /// Redis answered a take.
  mutating func answered() {
    if isReported { change = .answered }
    (hasFailed, isReported) = (false, false)
  }

  /// The change to report now, once.
  mutating func takeChange() -> Change? { change.take() }
}
