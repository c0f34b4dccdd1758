// Decides when the answers to a name's IPv4 and IPv6 queries are enough (RFC 8305, section 3). Pure. Invariant: a name
// server that drops one query does not delay the other answer for long.

/// The two queries about one name.
struct FamilyRace {
  enum Family: CaseIterable {
    case ipv4, ipv6
  }

  /// The result of one query.
  enum Answer: Equatable {
    case found([String])
    /// The name exists, without addresses of this family.
    case noAddress
    /// The name does not exist. Some servers say so if it has only addresses of the other family (RFC 4074).
    case noName
    case timedOut
    case failed(String)
  }

  enum Action: Equatable {
    /// Wait for the other answer, at most until this instant if there is one.
    case wait(until: MonotonicInstant?)
    case finish(Answer)
  }

  /// RFC 8305's Resolution Delay.
  static let delay = Duration.milliseconds(50)
  /// How long an IPv6 answer waits for the IPv4 answer: more servers listen on IPv4.
  static let delayOfIPv4 = Duration.milliseconds(500)

  /// Whether this host can reach addresses of a family. Unreachable ones wait for the others.
  private let isReachable: (Family, [String]) -> Bool
  private var answers: [Family: Answer] = [:]
  private var limit: MonotonicInstant?

  init(isReachable: @escaping (Family, [String]) -> Bool) {
    self.isReachable = isReachable
  }

  mutating func answered(_ family: Family, _ answer: Answer, at now: MonotonicInstant) -> Action {
    precondition(answers[family] == nil, "a query is answered once")
    answers[family] = answer
    guard answers.count < Family.allCases.count else { return .finish(result) }
    switch answer {
    case .found(let addresses) where isReachable(family, addresses):
      limit = now.advanced(by: family == .ipv4 ? Self.delay : Self.delayOfIPv4)
    case .noName where family == .ipv4:
      limit = now.advanced(by: Self.delay)
    case .found, .noName, .noAddress, .timedOut, .failed:
      limit = nil
    }
    return .wait(until: limit)
  }

  /// The wait is over, or the caller's deadline has passed.
  func timeIsUp() -> Answer {
    switch result {
    case .found, .noName: result
    // The other family may have addresses.
    case .noAddress, .timedOut, .failed: .timedOut
    }
  }

  /// The combined result of the answers so far.
  private var result: Answer {
    let known = Family.allCases.compactMap { answers[$0] }
    let addresses = known.flatMap { answer in if case .found(let found) = answer { found } else { [String]() } }
    if !addresses.isEmpty { return .found(addresses) }
    // A failed query outweighs the other's empty answer: its family may have addresses.
    for answer in known where answer == .timedOut { return answer }
    for answer in known { if case .failed = answer { return answer } }
    return known.contains(.noName) ? .noName : .noAddress
  }
}
