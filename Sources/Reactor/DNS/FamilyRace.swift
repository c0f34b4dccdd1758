// When the answers about IPv4 and IPv6 addresses of a name are enough to go on (RFC 8305, section 3). Pure.
// Invariant: an answer in hand is not held up for long by a name server that drops the other question.

/// The two questions about one name.
struct FamilyRace {
  enum Family: CaseIterable {
    case ipv4, ipv6
  }

  /// What came of one question.
  enum Answer: Equatable {
    case found([String])
    /// The name exists, without addresses of this family.
    case noAddress
    /// The name does not exist. Some servers say so of a name that has addresses of the other family (RFC 4074).
    case noName
    case timedOut
    case failed(String)
  }

  enum Action: Equatable {
    /// Wait for the other answer, until the instant if there is one.
    case wait(until: MonotonicInstant?)
    case settle(Answer)
  }

  /// RFC 8305's Resolution Delay.
  static let delay = Duration.milliseconds(50)
  /// How long addresses of IPv6 wait for those of IPv4, of which more servers listen.
  static let delayOfIPv4 = Duration.milliseconds(500)

  /// Whether this host has a way to addresses of a family: those that it cannot reach wait for the others.
  private let isReachable: (Family, [String]) -> Bool
  private var answers: [Family: Answer] = [:]
  private var limit: MonotonicInstant?

  init(isReachable: @escaping (Family, [String]) -> Bool) {
    self.isReachable = isReachable
  }

  mutating func answered(_ family: Family, _ answer: Answer, at now: MonotonicInstant) -> Action {
    answers[family] = answer
    guard answers.count < Family.allCases.count else { return .settle(verdict) }
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

  /// The wait's end, or the caller's deadline.
  func timeIsUp() -> Answer {
    switch verdict {
    case .found, .noName: verdict
    // The other family's addresses may be there.
    case .noAddress, .timedOut, .failed: .timedOut
    }
  }

  /// What the answers so far say together.
  private var verdict: Answer {
    let known = Family.allCases.compactMap { answers[$0] }
    let addresses = known.flatMap { answer in if case .found(let found) = answer { found } else { [String]() } }
    if !addresses.isEmpty { return .found(addresses) }
    // That a question failed says more than that the other one's answer is empty: the addresses may be there.
    for answer in known where answer == .timedOut { return answer }
    for answer in known { if case .failed = answer { return answer } }
    return known.contains(.noName) ? .noName : .noAddress
  }
}
