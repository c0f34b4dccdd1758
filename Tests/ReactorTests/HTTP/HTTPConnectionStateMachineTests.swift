// The states of an HTTP connection through thousands of random orders of events.

import TestSupport
import Testing

@testable import Reactor

@Suite struct HTTPConnectionStateMachineTests {
  private static func wrote(
    _ machine: inout HTTPConnectionStateMachine, _ next: HTTPConnectionStateMachine.Next,
    _ written:
      HTTPConnectionStateMachine.Written = .all, isPartKept: Bool = false, completedAny: Bool = true,
    isDraining: Bool = false
  ) -> HTTPConnectionStateMachine.Action {
    machine.wrote(written, then: next, isPartKept: isPartKept, completedAny: completedAny, isDraining: isDraining)
  }

  @Test func moreBytesOfOneRequestDoNotExtendItsLimit() {
    var machine = HTTPConnectionStateMachine()
    #expect(Self.wrote(&machine, .receive, isPartKept: true, completedAny: false) == .wait)
    #expect(machine.state == .receiving)
    #expect(Self.wrote(&machine, .receive, isPartKept: true, completedAny: false) == .keepWaiting)
    #expect(Self.wrote(&machine, .receive, isPartKept: true, completedAny: true) == .wait)
    #expect(machine.limitReached() == .refuse)
  }

  @Test func whatFollowsWaitsUntilThePeerHasTakenTheAnswers() {
    var machine = HTTPConnectionStateMachine()
    #expect(Self.wrote(&machine, .answer, .part) == .wait)
    #expect(machine.state == .writing)
    #expect(machine.wroteRest(.part, isPartKept: true, isDraining: false) == .keepWaiting)
    #expect(machine.wroteRest(.all, isPartKept: true, isDraining: false) == .handOver)
    #expect(machine.state == .answering)
  }

  @Test func aLastAnswerThatThePeerHasYetToReadIsFlushed() {
    var machine = HTTPConnectionStateMachine()
    #expect(Self.wrote(&machine, .close) == .end(mayClose: true))
    #expect(machine.end(mayClose: true, isMuchUnread: false) == .close)
    #expect(machine.end(mayClose: true, isMuchUnread: true) == .shutDown)
    #expect(machine.state == .flushing)
    #expect(machine.limitReached() == .close)
  }

  @Test func aDrainClosesAConnectionOnceItHasNothingToAnswer() {
    var machine = HTTPConnectionStateMachine()
    #expect(Self.wrote(&machine, .receive, isPartKept: true, completedAny: false, isDraining: true) == .wait)
    #expect(Self.wrote(&machine, .receive, isDraining: true) == .close)
  }

  /// A peer that sends, reads, stalls and vanishes at random, a handler that answers at random, and time that passes.
  @Test func everyOrderOfEventsAnswersInOrderAndEnds() {
    for seed in 0..<20_000 {
      var world = HTTPConnectionWorld(seed: UInt64(seed))
      for _ in 0..<40 where world.machine.state != .closed { world.step() }
      world.finish()
      #expect(world.violations.isEmpty, "seed \(seed): \(world.violations)")
    }
  }
}

/// A connection without a socket: counts what the peer sent and got.
private struct HTTPConnectionWorld {
  var violations: [String] = []
  private(set) var machine = HTTPConnectionStateMachine()
  private var random: SeededRandom
  private var isDraining = false
  /// Requests that were read and are not answered yet, in order; true for one that the handler answers later.
  private var kept: [Bool] = []
  /// Whether a part of a request follows them.
  private var isPartKept = false
  private var isLast = false
  private var isAnswerPending = false
  private var isLimitRunning = true

  init(seed: UInt64) { random = SeededRandom(seed: seed) }

  mutating func step() {
    switch Int.random(in: 0..<12, using: &random) {
    case 0...5: becomeReady()
    case 6, 7: if machine.state == .answering { answer() }
    case 8: if isLimitRunning { perform(machine.limitReached()) }
    case 9: if [.idle, .receiving].contains(machine.state) { perform(.close) }
    case 10: if Int.random(in: 0..<8, using: &random) == 0 { isDraining = true }
    default: break
    }
  }

  /// Everything that waits comes: the connection then ends by its limits.
  mutating func finish() {
    for _ in 0..<20 where machine.state != .closed {
      if machine.state == .answering { answer() } else { perform(machine.limitReached()) }
    }
    if machine.state != .closed { violations.append("open for ever in \(machine.state)") }
  }

  private mutating func becomeReady() {
    switch machine.state {
    case .idle, .receiving:
      if isAnswerPending || isLast { violations.append("reads though an answer is pending, or after the last one") }
      kept = (0..<Int.random(in: 0...3, using: &random)).map { _ in Int.random(in: 0..<4, using: &random) == 0 }
      isPartKept = kept.isEmpty || Bool.random(using: &random)
      perform(parse(isRead: true))
    case .writing:
      perform(machine.wroteRest(written(), isPartKept: hasKept, isDraining: isDraining))
    case .lingering, .flushing: if Bool.random(using: &random) { perform(.close) }
    case .answering, .closed: break
    }
  }

  private var hasKept: Bool { isPartKept || !kept.isEmpty }

  private mutating func written() -> HTTPConnectionStateMachine.Written {
    switch Int.random(in: 0..<10, using: &random) {
    case 0: .failed
    case 1...3: .part
    default: .all
    }
  }

  private mutating func wrote(
    _ next: HTTPConnectionStateMachine.Next, completedAny: Bool = true
  ) -> HTTPConnectionStateMachine.Action {
    machine.wrote(
      written(), then: next, isPartKept: hasKept, completedAny: completedAny, isDraining: isDraining)
  }

  /// Answers what is kept, as a connection does.
  private mutating func parse(isRead: Bool = false) -> HTTPConnectionStateMachine.Action {
    let count = kept.count
    while !kept.isEmpty {
      if kept.removeFirst() {
        isAnswerPending = true
        return wrote(.answer)
      }
      if isDraining || Int.random(in: 0..<8, using: &random) == 0 {
        isLast = true
        return wrote(hasKept ? .linger : .close)
      }
      if !kept.isEmpty, Int.random(in: 0..<4, using: &random) == 0 { return wrote(.parse) }
    }
    return wrote(.receive, completedAny: count > 0)
  }

  private mutating func answer() {
    machine.answered()
    if !isAnswerPending { violations.append("answers a request that no one sent") }
    isAnswerPending = false
    if isDraining { isLast = true }
    perform(wrote(isDraining ? hasKept ? .linger : .close : .parse))
  }

  private mutating func perform(_ first: HTTPConnectionStateMachine.Action) {
    var action = first
    while true {
      switch action {
      case .parse: action = parse()
      case .end(let mayClose):
        if !isLast { violations.append("ends before its last answer") }
        if mayClose, hasKept { violations.append("closes with unread bytes") }
        (kept, isPartKept) = ([], false)
        action = machine.end(mayClose: mayClose, isMuchUnread: Bool.random(using: &random))
      case .refuse:
        if machine.state != .receiving { violations.append("408 in \(machine.state)") }
        isLast = true
        action = wrote(.linger)
      case .close:
        machine.closed()
        return
      case .wait, .handOver, .shutDown:
        isLimitRunning = action != .handOver
        return check(action)
      case .keepWaiting: return
      }
    }
  }

  private mutating func check(_ action: HTTPConnectionStateMachine.Action) {
    switch machine.state {
    case .idle: if hasKept || isDraining { violations.append("idle with bytes to answer, or in a drain") }
    case .receiving: if !isPartKept || !kept.isEmpty { violations.append("waits for a request that it has") }
    case .answering: if !isAnswerPending { violations.append("waits for no answer") }
    case .writing: break
    case .lingering, .flushing:
      if action != .shutDown || !isLast { violations.append("lingers before its last answer") }
    case .closed: violations.append("waits though it is closed")
    }
  }
}
