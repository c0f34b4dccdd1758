// The lookup of one name: both families' queries, combined by FamilyRace. Used by NameResolver. Invariant: when `run`
// returns, both queries have ended, answered or not.

@EventLoop
final class NameLookup {
  private let name: String
  private let settings: NameQuery.Settings
  private let queriesInTurn: Bool
  private let clock: LoopClock
  private var race = FamilyRace { _, addresses in addresses.contains { AddressOrder.source(for: $0) != nil } }
  private var queries: [NameQuery] = []
  private var timer: TimerWatcher?
  private let end = OneShot<FamilyRace.Answer>()

  init(_ name: String, _ settings: NameQuery.Settings, _ queriesInTurn: Bool, clock: LoopClock) {
    self.name = name
    self.settings = settings
    self.queriesInTurn = queriesInTurn
    self.clock = clock
  }

  /// The answer by `deadline`; `.timedOut` if the task is cancelled.
  func run(by deadline: MonotonicInstant) async -> FamilyRace.Answer {
    guard !Task.isCancelled else { return .timedOut }
    timer = TimerWatcher(clock) { [weak self] in
      guard let self else { return }
      self.end.fire(self.race.timeIsUp())
    }
    for family in queriesInTurn ? [.ipv4] : FamilyRace.Family.allCases { query(family) }
    let answer = await end.wait(until: deadline, on: clock) ?? race.timeIsUp()
    timer?.stop()
    for query in queries { query.stop() }
    queries = []
    return Task.isCancelled ? .timedOut : answer
  }

  private func query(_ family: FamilyRace.Family) {
    let query = NameQuery(name, family, settings, clock: clock) { [weak self] answer in self?.answered(family, answer) }
    queries.append(query)
    query.start()
  }

  private func answered(_ family: FamilyRace.Family, _ answer: FamilyRace.Answer) {
    switch race.answered(family, answer, at: clock.now) {
    case .finish(let result):
      end.fire(result)
    case .wait(let limit):
      if queriesInTurn { query(.ipv6) }
      if let limit { timer?.start(at: limit) }
    }
  }
}
