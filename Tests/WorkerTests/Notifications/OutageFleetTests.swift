// Fleets of OutageWatch in virtual time: replicas die and start, Redis loses its data, its clock steps, or it is down.
// Each seed is another sequence; a failure names its seed.

import Reactor
import TestSupport
import Testing

@testable import Worker

/// What may apply to a fleet.
private struct Faults {
  /// Replicas that never die: the first ones.
  var immortals = 0
  var losesData = false
  var stepsClock = false
  var redisGoesAway = false
}

/// One fleet, its server and its Redis.
private struct Fleet {
  enum Report: Equatable { case away, back }
  private enum Occurrence {
    case serverLeaves, serverReturns, loseData
    case stepClock(Int64)
    case redis(isAway: Bool)
    case dies(Int)
    case starts(Int)
    case sees(Int, life: Int, isAway: Bool)
    case wakes(Int, life: Int, turn: Int)
    case arrives(Int, life: Int, OutageWatch.Request)
    case hears(Int, life: Int, OutageWatch.Reply?)
  }
  private struct Replica {
    var watch = OutageWatch(reportAfter: Fleet.reportAfter, sharesClaim: true)
    var isAlive = false
    var isAsking = false
    /// The number of its process: messages for an earlier one are not delivered.
    var life = 0
    var turn = 0
  }

  static let reportAfter = Duration.seconds(60)
  static let horizon: Int64 = 3 * 3_600_000
  /// Within this every living replica has seen a change.
  static let sight: Int64 = 5_000

  let faults: Faults
  private var random: SeededRandom
  private var replicas: [Replica]
  private var claim = OutageClaimModel()
  private var redisOffset: Int64 = 10_000_000
  private var isRedisAway = false
  private var isServerAway = false
  private var queue: [(at: Int64, what: Occurrence)] = []
  private var now: Int64 = 0
  private(set) var outages: [Range<Int64>] = []
  private(set) var reports: [(at: Int64, what: Report, replica: Int)] = []
  /// When a process died with a request under way: its report is lost.
  private var silenced: [Int64] = []
  private var losses: [Int64] = []
  /// When each process lived.
  private(set) var lives: [(replica: Int, from: Int64, to: Int64)] = []

  init(seed: UInt64, _ faults: Faults) {
    self.faults = faults
    random = SeededRandom(seed: seed)
    replicas = (0..<Int.random(in: 1...4, using: &random) + faults.immortals).map { _ in Replica() }
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
      guard index >= faults.immortals else { continue }
      var time: Int64 = 0
      while true {
        time += milliseconds(20_000...2_000_000)
        // No replica is dead at the end.
        guard time < Self.horizon - 1_500_000 else { break }
        queue.append((time, .dies(index)))
        // Shorter than the lifetime of a claim.
        time += milliseconds(1_000...600_000)
        queue.append((time, .starts(index)))
      }
    }
    for _ in 0..<Int.random(in: 1...6, using: &random) {
      let time = milliseconds(0...Self.horizon - 1_500_000)
      if faults.losesData { queue.append((time, .loseData)) }
      if faults.stepsClock { queue.append((time, .stepClock(milliseconds(-1_200_000...1_200_000)))) }
      if faults.redisGoesAway {
        queue.append((time, .redis(isAway: true)))
        queue.append((time + milliseconds(1_000...400_000), .redis(isAway: false)))
      }
    }
  }

  mutating func run() {
    while let index = queue.indices.min(by: { queue[$0].at < queue[$1].at }) {
      let occurrence = queue.remove(at: index)
      guard occurrence.at <= Self.horizon else { break }
      now = occurrence.at
      apply(occurrence.what)
    }
    for index in replicas.indices where replicas[index].isAlive { lives[life(index)].to = Self.horizon }
  }

  private var instant: MonotonicInstant { MonotonicInstant(nanoseconds: now * 1_000_000) }

  private func life(_ index: Int) -> Int { lives.lastIndex { $0.replica == index } ?? 0 }

  private mutating func apply(_ what: Occurrence) {
    switch what {
    case .serverLeaves, .serverReturns:
      isServerAway.toggle()
      for index in replicas.indices where replicas[index].isAlive { show(index) }
    case .loseData:
      claim.lose()
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
      replicas[index].watch.changed(to: isAway ? "down" : nil, at: instant)
      go(index)
    case .wakes(let index, let life, let turn):
      if replicas[index].life == life, replicas[index].turn == turn { go(index) }
    case .arrives(let index, let life, let request):
      // A request is answered even if its sender has died.
      let reply =
        isRedisAway
        ? nil
        : claim.reply(
          to: request, abandonedAfter: replicas[index].watch.abandonedAfter, at: now + redisOffset)
      queue.append((now + milliseconds(0...100), .hears(index, life: life, reply)))
    case .hears(let index, let life, let reply):
      guard replicas[index].life == life else { return }
      replicas[index].isAsking = false
      replicas[index].watch.answered(reply, at: instant)
      go(index)
    }
  }

  /// The replica sees the present state a little later, unless it changes before that.
  private mutating func show(_ index: Int) {
    queue.removeAll { if case .sees(index, _, _) = $0.what { true } else { false } }
    let life = replicas[index].life
    queue.append((now + milliseconds(0...Self.sight), .sees(index, life: life, isAway: isServerAway)))
  }

  private mutating func go(_ index: Int) {
    while !replicas[index].isAsking {
      switch replicas[index].watch.next(at: instant) {
      case .reportOutage: reports.append((now, .away, index))
      case .reportRecovery: reports.append((now, .back, index))
      case .send(let request):
        replicas[index].isAsking = true
        queue.append((now + milliseconds(0...100), .arrives(index, life: replicas[index].life, request)))
      case .wait(let until):
        replicas[index].turn += 1
        let at = max(now, (until.nanoseconds + 999_999) / 1_000_000)
        queue.append((at, .wakes(index, life: replicas[index].life, turn: replicas[index].turn)))
        return
      case .idle: return
      }
    }
  }

  // MARK: Reports

  /// Outages that one claim may join: no replica lived between them for long enough to see that it was abandoned.
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

  /// The reports between the first outage's beginning and the next group's.
  func reports(of group: ClosedRange<Int>) -> [Report] {
    reports.filter { span(group).contains($0.at) }.map(\.what)
  }

  private func span(_ group: ClosedRange<Int>) -> Range<Int64> {
    let next = group.upperBound + 1
    return outages[group.lowerBound].lowerBound..<(next < outages.count ? outages[next].lowerBound : Self.horizon + 1)
  }

  /// Whether one process saw one of the outages for long enough to report it.
  func wasSeen(_ group: ClosedRange<Int>) -> Bool {
    group.contains { number in
      lives.contains { life in
        let seen = max(life.from, outages[number].lowerBound) + Self.sight + Self.reportAfter.milliseconds + 500
        return seen <= min(life.to, outages[number].upperBound)
      }
    }
  }

  /// Whether no other replica could know of the outage: a process died between the claim and the report, or Redis lost
  /// the claim before the others had seen it.
  func isBeyondPromise(_ group: ClosedRange<Int>) -> Bool {
    let reports = reports.map(\.at).filter { span(group).contains($0) }
    return silenced.contains { span(group).contains($0) }
      || losses.contains { loss in reports.contains { ($0 - 500...$0 + Self.sight + 1_000).contains(loss) } }
  }

  func length(_ group: ClosedRange<Int>) -> Int64 {
    outages[group.upperBound].upperBound - outages[group.lowerBound].lowerBound
  }
}

@Suite struct OutageFleetTests {
  private static let seeds = UInt64(0)..<600

  /// Runs a fleet per seed, and passes the reports of each outage to `judge`.
  private static func check(
    _ faults: Faults, _ judge: ([Fleet.Report], Fleet, ClosedRange<Int>) -> String?
  ) {
    var away = 0
    var back = 0
    for seed in seeds {
      var fleet = Fleet(seed: seed, faults)
      fleet.run()
      for group in fleet.groups where !fleet.isBeyondPromise(group) {
        let reports = fleet.reports(of: group)
        away += reports.count { $0 == .away }
        back += reports.count { $0 == .back }
        if let fault = judge(reports, fleet, group) {
          Issue.record("seed \(seed), outages \(fleet.outages[group]): \(fault): \(reports.map { "\($0)".suffix(4) })")
        }
      }
      if fleet.reports.contains(where: { $0.at < fleet.outages[0].lowerBound }) {
        Issue.record("seed \(seed): a report before the first outage")
      }
    }
    #expect(away > 1_000 && back > 1_000, "the seeds have reported outages: \(away), \(back)")
  }

  /// Each outage has one beginning and one end, and a short one has none.
  private static func strict(_ reports: [Fleet.Report], _ fleet: Fleet, _ group: ClosedRange<Int>) -> String? {
    if fleet.wasSeen(group), reports.isEmpty { return "not reported" }
    if isShort(group, fleet), !reports.isEmpty { return "too short to be reported" }
    for (index, report) in reports.enumerated() where report != (index % 2 == 0 ? .away : .back) {
      return "not in order"
    }
    if reports.last == .away { return "its end is not reported" }
    return reports.count > 2 * group.count ? "more reports than outages" : nil
  }

  private static func isShort(_ group: ClosedRange<Int>, _ fleet: Fleet) -> Bool {
    fleet.length(group) < Fleet.reportAfter.milliseconds - Fleet.sight
  }

  @Test func eachOutageIsReportedOnceAndSoIsItsEndWhicheverReplicasDieOrStart() {
    Self.check(Faults(), Self.strict)
  }

  @Test func aRedisThatLosesItsDataChangesNothingWhileAReplicaRemembers() {
    Self.check(Faults(immortals: 1, losesData: true), Self.strict)
  }

  @Test func aStepOfRedisClockChangesNothingWhileAReplicaRemembers() {
    Self.check(Faults(immortals: 1, stepsClock: true), Self.strict)
  }

  @Test func withoutRedisEveryLongOutageIsReportedAndItsEndComesLast() {
    Self.check(Faults(immortals: 1, redisGoesAway: true)) { reports, fleet, group in
      if Self.isShort(group, fleet), reports.contains(.away) { return "too short to be reported" }
      guard fleet.wasSeen(group) else { return nil }
      return reports.contains(.away) && reports.last == .back ? nil : "its beginning or its end is not reported"
    }
  }
}
