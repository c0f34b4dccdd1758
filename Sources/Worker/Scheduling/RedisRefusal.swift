// What Redis refuses a single sweeper, and whether people know, as pure values. Invariant: a refusal that lasts is
// reported once, and so is its end; an outage of Redis is reported as that outage, not as a refusal of each sweeper.
// Used by SweeperLoop.

import Reactor

/// An answer that says no, as opposed to none.
struct RedisRefusal: Equatable {
  let reason: String
  /// A key holds something that the scripts cannot work with.
  var isOfAnotherType = false

  /// Nil where Redis did not answer.
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

/// Whether a sweeper is refused for so long that it misses a slot.
struct RefusalWatch {
  enum News: Equatable {
    case refused(reason: String, key: String)
    case answered
  }

  /// The key that the refusal is about, or the record's.
  var key = ""
  /// A slot was counted as a failure since Redis last answered.
  private var hasFailed = false
  private var isTold = false
  private var news: News?

  /// Redis refused a command, or (nil) did not answer.
  ///
  /// - Parameters:
  ///   - isAgain: it was not the first time. Then Redis as a whole has been looked into meanwhile.
  ///   - hasFailed: a slot was counted as a failure for it.
  ///   - isOutage: Redis as a whole is unavailable.
  mutating func met(_ refusal: RedisRefusal?, isAgain: Bool, hasFailed: Bool, isOutage: Bool) {
    self.hasFailed = self.hasFailed || hasFailed
    guard let refusal, isAgain, self.hasFailed, !isOutage, !isTold else { return }
    isTold = true
    news = .refused(reason: refusal.reason, key: key)
  }

  /// Redis answered a take.
  mutating func answered() {
    if isTold { news = .answered }
    (hasFailed, isTold) = (false, false)
  }

  /// What people are to be told now.
  mutating func untold() -> News? { news.take() }
}
