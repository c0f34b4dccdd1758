// When a Redis is said to be ready that passes the health check and ends connections under its owner's commands.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct RedisTrialTests {
  private static func at(_ seconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: seconds * 1_000_000_000)
  }

  private static let closed = RedisConnectionFailure.closed(.endOfStream)

  @Test func oneLossWhoseCommandsAreNotSentAgainIsNoTrial() {
    var trial = RedisTrial()
    trial.lost([1], Self.closed, isIdle: false, at: Self.at(0))
    trial.opened([], at: Self.at(1))
    #expect(!trial.isOn && trial.reason == nil && trial.endsAt == nil)
  }

  @Test func oneLossIsATrialUntilTheCommandThatIsSentAgainIsAnswered() {
    var trial = RedisTrial()
    trial.lost([1], Self.closed, isIdle: false, at: Self.at(0))
    trial.opened([1], at: Self.at(1))
    #expect(trial.isOn && trial.reason == nil)
    let isOver = trial.answered(1)
    #expect(isOver && !trial.isOn && !trial.isSuspicious)
  }

  @Test func aSecondLossUnderTheSameCommandLastsUntilThatCommandIsAnswered() {
    var trial = RedisTrial()
    for second in Int64(0)..<2 {
      trial.lost([1], Self.closed, isIdle: false, at: Self.at(second))
      trial.opened([], at: Self.at(second))
    }
    #expect(trial.isOn && trial.reason == RedisTrial.closesUnderCommands)
    let isOverByAnother = trial.answered(2)
    #expect(!isOverByAnother && trial.isOn, "another command's answer says nothing of this one")
    let isOver = trial.answered(1)
    #expect(isOver && !trial.isOn && trial.reason == nil)
  }

  @Test func lossesUnderDifferentCommandsAddUp() {
    var trial = RedisTrial()
    trial.lost([1], Self.closed, isIdle: false, at: Self.at(0))
    trial.opened([], at: Self.at(0))
    trial.lost([2], Self.closed, isIdle: false, at: Self.at(1))
    trial.opened([], at: Self.at(1))
    #expect(trial.isOn)
    let isOver = trial.answered(2)
    #expect(isOver)
  }

  @Test func aCommandThatIsAnsweredIsInnocentAndTheOtherRemainsUnderSuspicion() {
    var trial = RedisTrial()
    for second in Int64(0)..<2 { trial.lost([1, 2], Self.closed, isIdle: false, at: Self.at(second)) }
    trial.opened([], at: Self.at(2))
    let isOver = trial.answered(1)
    #expect(isOver && trial.isSuspicious)
    trial.lost([1, 2], Self.closed, isIdle: false, at: Self.at(3))
    trial.opened([], at: Self.at(4))
    let isOverByTheInnocent = trial.answered(1)
    #expect(!isOverByTheInnocent && trial.isOn)
    let isOverAgain = trial.answered(2)
    #expect(isOverAgain)
  }

  @Test func aConnectionThatStaysOpenForLongEndsTheTrial() throws {
    var trial = RedisTrial()
    for second in Int64(0)..<2 { trial.lost([1], Self.closed, isIdle: false, at: Self.at(second)) }
    trial.opened([], at: Self.at(2))
    let end = try #require(trial.endsAt)
    #expect(end == Self.at(2).advanced(by: RedisTrial.quietLimit))
    let isOverBefore = trial.passed(at: end.advanced(by: .nanoseconds(-1)))
    #expect(!isOverBefore && trial.isOn)
    let isOver = trial.passed(at: end)
    #expect(isOver && !trial.isOn && !trial.isSuspicious)
  }

  @Test func oldLossesAreForgotten() {
    var trial = RedisTrial()
    trial.lost([1], Self.closed, isIdle: false, at: Self.at(0))
    trial.opened([], at: Self.at(1))
    trial.lost([1], Self.closed, isIdle: false, at: Self.at(1).advanced(by: RedisTrial.quietLimit))
    #expect(trial.reason == nil)
  }

  @Test func aHealthCheckThatIsCutOffIsNamedAtTheSecondTime() {
    var trial = RedisTrial()
    trial.lost([RedisTrial.check], Self.closed, isIdle: false, at: Self.at(0))
    #expect(trial.reason == nil)
    trial.lost([RedisTrial.check], Self.closed, isIdle: false, at: Self.at(1))
    #expect(trial.reason == RedisTrial.closesUnderCommands)
    trial.opened([], at: Self.at(2))
    #expect(!trial.isOn && trial.reason == nil && !trial.isSuspicious)
  }

  @Test func aSystemErrorIsRecognizedByItsCodeAndOthersKeepTheirText() {
    #expect(RedisConnectionFailure(systemText: String(cString: strerror(ECONNREFUSED))) == .refused)
    #expect(RedisConnectionFailure(systemText: String(cString: strerror(ECONNRESET))) == .closed(.reset))
    #expect(RedisConnectionFailure(systemText: String(cString: strerror(EPIPE))) == .closed(.brokenPipe))
    #expect(!RedisErrorReply.hasCode("Can't create socket: Too many open files"))
    #expect(RedisErrorReply.hasCode("ERR max number of clients reached") && RedisErrorReply.hasCode("LOADING x"))
    #expect(RedisConnectionFailure(systemText: "No route to host").reason == "no route to host")
    for failure: RedisConnectionFailure in [.refused, .closed(.reset), .closed(.brokenPipe)] {
      #expect(RedisConnectionFailure(systemText: failure.reason.capitalizedFirst) == failure)
    }
  }

  @Test func theReasonStaysTheSameForAsLongAsItLasts() {
    var trial = RedisTrial()
    for failure in [.timedOut, Self.closed] { trial.lost([1], failure, isIdle: false, at: Self.at(0)) }
    let reason = trial.reason
    for failure: RedisConnectionFailure in [.timedOut, .closed(.reset), .closed(.brokenPipe)] {
      trial.lost([1], failure, isIdle: false, at: Self.at(0))
      #expect(trial.reason == reason)
    }
  }

  @Test func idleConnectionsThatAreReplacedEndNoTrialAndDoNotProlongIt() {
    var trial = RedisTrial()
    for second in Int64(0)..<2 { trial.lost([1], Self.closed, isIdle: false, at: Self.at(second)) }
    trial.opened([], at: Self.at(2))
    let end = trial.endsAt
    trial.lost([], Self.closed, isIdle: true, at: Self.at(4))
    trial.opened([], at: Self.at(4))
    #expect(trial.isOn && trial.endsAt == end)
  }

  @Test func commandsThatDoTheSameWithTheSameKeyAreOneKind() {
    let take = ["EVALSHA", "abc", "2", "lock", "record"]
    #expect(RedisCommand(take + ["token"]).kind == RedisCommand(take + ["another"]).kind)
    #expect(RedisCommand(take).kind != RedisCommand(["EVALSHA", "abc", "2", "lock", "other"]).kind)
    #expect(RedisCommand(take).kind != RedisCommand(["EVALSHA", "def", "2", "lock", "record"]).kind)
    #expect(RedisCommand(["GET", "k"]).kind != RedisCommand(["GET", "l"]).kind)
    #expect(RedisCommand(["SET", "k", "1"]).kind == RedisCommand(["SET", "k", "2"]).kind)
    for odd in [["EVAL"], ["EVAL", "s"], ["EVAL", "s", "-1", "k"], ["EVAL", "s", "99999999999999999999999"], [""]] {
      #expect(RedisCommand(odd).kind != RedisCommand(["GET", "k"]).kind)
    }
  }

  /// Random orders of a client's life: a server that ends the connection under some kinds of commands, for a while.
  @Test(arguments: UInt64(0)..<400)
  func aServerThatEndsConnectionsIsUnavailableUntilItStops(seed: UInt64) {
    var life = TrialLife(seed: seed)
    for _ in 0..<400 { life.step() }
    life.heal()
    #expect(life.violations.isEmpty, "seed \(seed): \(life.violations.prefix(3))")
  }
}

/// A client whose callers send commands of five kinds, of which the server ends the connection under some.
private struct TrialLife {
  var violations: [String] = []
  private var trial = RedisTrial()
  private var random: SeededRandom
  private var now: Int64 = 0
  private var deadly: Set<UInt64>
  private var isOpen = false
  private var isReady = false
  private var again: [UInt64] = []
  /// How often it was said to be ready and then lost, since there was last no suspicion.
  private var falls = 0
  private var openedAt: Int64 = 0

  private var instant: MonotonicInstant { MonotonicInstant(nanoseconds: now) }

  init(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let count = Int.random(in: 1...3, using: &random)
    deadly = Set((0..<count).map { _ in UInt64.random(in: 1...5, using: &random) })
    self.random = random
  }

  mutating func step() {
    now += Int64.random(in: 1_000_000...2_500_000_000, using: &random)
    if trial.passed(at: instant) { becomeReady() }
    if !trial.isSuspicious || isOpen && now - openedAt >= 10_000_000_000 { falls = 0 }
    if isOpen { send() } else { open() }
    // The first two, then one for each kind that turns out to be innocent.
    if falls > 7 { violations.append("ready and unavailable in turns, \(falls) times") }
    if let end = trial.endsAt, end > instant.advanced(by: RedisTrial.quietLimit) { violations.append("ends late") }
    if trial.isOn != (trial.endsAt != nil) { violations.append("a trial without an end") }
  }

  private mutating func open() {
    (isOpen, openedAt) = (true, now)
    trial.opened(again, at: instant)
    if !trial.isOn { becomeReady() }
    if !again.isEmpty { deliver(again, isFirst: false) }
  }

  private mutating func send() {
    deliver((0..<Int.random(in: 0...3, using: &random)).map { _ in UInt64.random(in: 1...5, using: &random) })
  }

  /// The server executes commands in their order, up to the first under which it ends the connection. Answers before it
  /// may be lost with it.
  private mutating func deliver(_ kinds: [UInt64], isFirst: Bool = true) {
    again = []
    let fatal = kinds.firstIndex(where: deadly.contains)
    let answered = fatal.map { Int.random(in: 0...$0, using: &random) } ?? kinds.count
    for kind in kinds.prefix(answered) {
      if trial.answered(kind) { becomeReady() }
    }
    guard fatal != nil else { return }
    let lost = Array(kinds.dropFirst(answered))
    isOpen = false
    if isReady { falls += 1 }
    isReady = false
    trial.lost(lost, .closed(.endOfStream), isIdle: false, at: instant)
    if isFirst, Bool.random(using: &random) { again = lost }
  }

  private mutating func becomeReady() {
    isReady = true
  }

  /// The server ends no connection any more: soon it is ready, and stays so.
  mutating func heal() {
    deadly = []
    let begin = now
    if !isOpen { open() }
    while trial.isOn, now < begin + 20_000_000_000 {
      now += 500_000_000
      if trial.passed(at: instant) { becomeReady() }
    }
    if trial.isOn || !isReady { violations.append("not ready after it was healed") }
  }
}

extension String {
  fileprivate var capitalizedFirst: String { prefix(1).uppercased() + dropFirst() }
}
