// Fleets of OutageWatch in virtual time: replicas that die and start, a Redis that loses its data, steps its clock or
// is away, and what people hear all the same. Each seed is another order; a failure names its seed.

import Reactor
import TestSupport
import Testing

@testable import Worker

/// What may happen to a fleet.
private struct Weather {
  /// Replicas that never die: the first ones.
  var immortals = 0
  var losesData = false
  var stepsClock = false
  var redisGoesAway = false
}

/// One fleet, its server and its Redis.
private struct Fleet {
  enum Told: Equatable { case away, back }
  private enum Happening {
    case serverLeaves, serverReturns, loseData
    case stepClock(Int64)
    case redis(isAway: Bool)
    case dies(Int)
    case starts(Int)
    case sees(Int, life: Int, isAway: Bool)
    case wakes(Int, life: Int, turn: Int)
    case arrives(Int, life: Int, OutageWatch.Question)
    case hears(Int, life: Int, OutageWatch.Reply?)
  }
  private struct Replica {
    var watch = OutageWatch(patience: Fleet.patience, sharesNotes: true)
    var isAlive = false
    var isAsking = false
    /// Counts its processes: what was meant for an earlier one does not reach it.
    var life = 0
    var turn = 0
  }

  static let patience = Duration.seconds(60)
  static let horizon: Int64 = 3 * 3_600_000
  /// Within this every living replica has seen a change.
  static let sight: Int64 = 5_000

  let weather: Weather
  private var random: SeededRandom
  private var replicas: [Replica]
  private var ledger = OutageClaimModel()
  private var redisOffset: Int64 = 10_000_000
  private var isRedisAway = false
  private var isServerAway = false
  private var queue: [(at: Int64, what: Happening)] = []
  private var now: Int64 = 0
  private(set) var outages: [Range<Int64>] = []
  private(set) var told: [(at: Int64, what: Told, replica: Int)] = []
  /// When a process died with a question under way: what it would have told is lost.
  private var silenced: [Int64] = []
  private var losses: [Int64] = []
  /// When each process lived.
  private(set) var lives: [(replica: Int, from: Int64, to: Int64)] = []

  init(seed: UInt64, _ weather: Weather) {
    self.weather = weather
    random = SeededRandom(seed: seed)
    replicas = (0..<Int.random(in: 1...4, using: &random) + weather.immortals).map { _ in Replica() }
    plan()
  }

  private mutating func milliseconds(_ range: ClosedRange<Int64>) -> Int64 { Int64.random(in: range, using: &random) }

  private mutating func plan() {
    var time = milliseconds(60_000...300_000)
    while time < Self.horizon - 2_400_000 {
      let length = Bool.random(using: &random) ? milliseconds(1_000...130_000) : milliseconds(130_000...1_800_000)
      outages.append(time..<time + length)
      queue.append((time, .serverLeaves))
      queue.append((time + length, .serverReturns))
      time += length + milliseconds(200_000...1_200_000)
    }
    for index in replicas.indices {
      queue.append((milliseconds(0...1_000), .starts(index)))
      guard index >= weather.immortals else { continue }
      var time: Int64 = 0
      while true {
        time += milliseconds(20_000...2_000_000)
        // At the end there is always somebody.
        guard time < Self.horizon - 1_500_000 else { break }
        queue.append((time, .dies(index)))
        // Shorter than a note lives.
        time += milliseconds(1_000...600_000)
        queue.append((time, .starts(index)))
      }
    }
    for _ in 0..<Int.random(in: 1...6, using: &random) {
      let time = milliseconds(0...Self.horizon - 1_500_000)
      if weather.losesData { queue.append((time, .loseData)) }
      if weather.stepsClock { queue.append((time, .stepClock(milliseconds(-1_200_000...1_200_000)))) }
      if weather.redisGoesAway {
        queue.append((time, .redis(isAway: true)))
        queue.append((time + milliseconds(1_000...400_000), .redis(isAway: false)))
      }
    }
  }

  mutating func run() {
    while let index = queue.indices.min(by: { queue[$0].at < queue[$1].at }) {
      let happening = queue.remove(at: index)
      guard happening.at <= Self.horizon else { break }
      now = happening.at
      happen(happening.what)
    }
    for index in replicas.indices where replicas[index].isAlive { lives[life(index)].to = Self.horizon }
  }

  private var instant: MonotonicInstant { MonotonicInstant(nanoseconds: now * 1_000_000) }

  private func life(_ index: Int) -> Int { lives.lastIndex { $0.replica == index } ?? 0 }

  private mutating func happen(_ what: Happening) {
    switch what {
    case .serverLeaves, .serverReturns:
      isServerAway.toggle()
      for index in replicas.indices where replicas[index].isAlive { show(index) }
    case .loseData:
      ledger.lose()
      losses.append(now)
    case .stepClock(let step):
      redisOffset += step
      losses.append(now)
    case .redis(let isAway): isRedisAway = isAway
    case .dies(let index):
      if replicas[index].isAsking { silenced.append(now) }
      replicas[index].isAlive = false
      replicas[index].life += 1
      lives[life(index)].to = now
    case .starts(let index):
      replicas[index] = Replica(isAlive: true, life: replicas[index].life + 1)
      lives.append((index, now, now))
      show(index)
    case .sees(let index, let life, let isAway):
      guard replicas[index].life == life else { return }
      replicas[index].watch.changed(to: isAway ? "away" : nil, at: instant)
      go(index)
    case .wakes(let index, let life, let turn):
      if replicas[index].life == life, replicas[index].turn == turn { go(index) }
    case .arrives(let index, let life, let question):
      // A question that was sent is answered though its sender is gone.
      let reply =
        isRedisAway
        ? nil
        : ledger.reply(
          to: question, abandonedAfter: replicas[index].watch.abandonedAfter, at: now + redisOffset)
      queue.append((now + milliseconds(0...100), .hears(index, life: life, reply)))
    case .hears(let index, let life, let reply):
      guard replicas[index].life == life else { return }
      replicas[index].isAsking = false
      replicas[index].watch.answered(reply, at: instant)
      go(index)
    }
  }

  /// The replica sees what is now, a little later, unless that changes again before.
  private mutating func show(_ index: Int) {
    queue.removeAll { if case .sees(index, _, _) = $0.what { true } else { false } }
    let life = replicas[index].life
    queue.append((now + milliseconds(0...Self.sight), .sees(index, life: life, isAway: isServerAway)))
  }

  private mutating func go(_ index: Int) {
    while !replicas[index].isAsking {
      switch replicas[index].watch.next(at: instant) {
      case .tellAway: told.append((now, .away, index))
      case .tellBack: told.append((now, .back, index))
      case .ask(let question):
        replicas[index].isAsking = true
        queue.append((now + milliseconds(0...100), .arrives(index, life: replicas[index].life, question)))
      case .wait(let until):
        replicas[index].turn += 1
        let at = max(now, (until.nanoseconds + 999_999) / 1_000_000)
        queue.append((at, .wakes(index, life: replicas[index].life, turn: replicas[index].turn)))
        return
      case .rest: return
      }
    }
  }

  // MARK: What was heard

  /// Outages that one note may join: nobody lived between them for long enough to see that it was abandoned.
  var groups: [ClosedRange<Int>] {
    var groups: [ClosedRange<Int>] = []
    for number in outages.indices {
      if let last = groups.last, !wasSeenToEnd(last.upperBound) {
        groups[groups.count - 1] = last.lowerBound...number
      } else {
        groups.append(number...number)
      }
    }
    return groups
  }

  private func wasSeenToEnd(_ number: Int) -> Bool {
    let (end, next) = (outages[number].upperBound, outages[number + 1].lowerBound)
    return lives.contains { max($0.from, end) + 2 * 90_000 + 2 * Self.sight <= min($0.to, next) }
  }

  /// What was told between the first one's beginning and the next group's.
  func heard(of group: ClosedRange<Int>) -> [Told] {
    told.filter { span(group).contains($0.at) }.map(\.what)
  }

  private func span(_ group: ClosedRange<Int>) -> Range<Int64> {
    let next = group.upperBound + 1
    return outages[group.lowerBound].lowerBound..<(next < outages.count ? outages[next].lowerBound : Self.horizon + 1)
  }

  /// Whether one process saw one of the outages for long enough to tell it.
  func wasSeen(_ group: ClosedRange<Int>) -> Bool {
    group.contains { number in
      lives.contains { life in
        let seen = max(life.from, outages[number].lowerBound) + Self.sight + Self.patience.milliseconds + 500
        return seen <= min(life.to, outages[number].upperBound)
      }
    }
  }

  /// Whether what one process knew could reach no other one: it died between noting and telling, or Redis lost the note
  /// in the seconds before the others had seen it.
  func isBeyondPromise(_ group: ClosedRange<Int>) -> Bool {
    let told = told.map(\.at).filter { span(group).contains($0) }
    return silenced.contains { span(group).contains($0) }
      || losses.contains { loss in told.contains { ($0 - 500...$0 + Self.sight + 1_000).contains(loss) } }
  }

  func length(_ group: ClosedRange<Int>) -> Int64 {
    outages[group.upperBound].upperBound - outages[group.lowerBound].lowerBound
  }
}

@Suite struct OutageFleetTests {
  private static let seeds = UInt64(0)..<600

  /// Runs a fleet a seed, and hands over what was heard of each outage.
  private static func heard(
    _ weather: Weather, _ judge: ([Fleet.Told], Fleet, ClosedRange<Int>) -> String?
  ) {
    var away = 0
    var back = 0
    for seed in seeds {
      var fleet = Fleet(seed: seed, weather)
      fleet.run()
      for group in fleet.groups where !fleet.isBeyondPromise(group) {
        let heard = fleet.heard(of: group)
        away += heard.count { $0 == .away }
        back += heard.count { $0 == .back }
        if let fault = judge(heard, fleet, group) {
          Issue.record("seed \(seed), outages \(fleet.outages[group]): \(fault): \(heard.map { "\($0)".suffix(4) })")
        }
      }
      if fleet.told.contains(where: { $0.at < fleet.outages[0].lowerBound }) {
        Issue.record("seed \(seed): told before anything happened")
      }
    }
    #expect(away > 1_000 && back > 1_000, "the seeds have outages that are told: \(away), \(back)")
  }

  /// A beginning and its end, and nothing where it was short.
  private static func strict(_ heard: [Fleet.Told], _ fleet: Fleet, _ group: ClosedRange<Int>) -> String? {
    if fleet.wasSeen(group), heard.isEmpty { return "not told" }
    if isShort(group, fleet), !heard.isEmpty { return "too short to be told" }
    for (index, told) in heard.enumerated() where told != (index % 2 == 0 ? .away : .back) { return "not in turn" }
    if heard.last == .away { return "its end is not told" }
    return heard.count > 2 * group.count ? "told more often than there were outages" : nil
  }

  private static func isShort(_ group: ClosedRange<Int>, _ fleet: Fleet) -> Bool {
    fleet.length(group) < Fleet.patience.milliseconds - Fleet.sight
  }

  @Test func whoeverDiesOrStartsEachOutageIsToldOnceAndSoIsItsEnd() {
    Self.heard(Weather(), Self.strict)
  }

  @Test func aRedisThatLosesItsDataChangesNothingWhileSomebodyRemembers() {
    Self.heard(Weather(immortals: 1, losesData: true), Self.strict)
  }

  @Test func aClockOfRedisThatStepsChangesNothingWhileSomebodyRemembers() {
    Self.heard(Weather(immortals: 1, stepsClock: true), Self.strict)
  }

  @Test func whileRedisIsAwayEveryLongOutageIsToldAllTheSameAndItsEndComesLast() {
    Self.heard(Weather(immortals: 1, redisGoesAway: true)) { heard, fleet, group in
      if Self.isShort(group, fleet), heard.contains(.away) { return "too short to be told" }
      guard fleet.wasSeen(group) else { return nil }
      return heard.contains(.away) && heard.last == .back ? nil : "its beginning or its end is not told"
    }
  }
}
