// The two pure state machines of the client through thousands of random orders of events.

import TestSupport
import Testing

@testable import Reactor

private func instant(_ milliseconds: Int64) -> MonotonicInstant {
  MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
}

@Suite struct PostgresConnectionStateTests {
  @Test func aStatementThatEndsByItselfWithdrawsItsCancellation() {
    var state = PostgresConnectionState()
    #expect(state.began() == true)
    #expect(state.began() == false)
    #expect(state.abandoned() == .requestCancel)
    #expect(state.abandoned() == .nothing)
    #expect(state.synced() == .withdrawCancel)
    #expect(state.began() == false)
    #expect(state.cancelEnded(.notSent) == .reportClean)
    #expect(state.began() == true)
  }

  @Test func aCancellationOfUnknownFateClosesTheConnection() {
    for endsFirst in [true, false] {
      var state = PostgresConnectionState()
      _ = state.began()
      _ = state.abandoned()
      if endsFirst { _ = state.synced() }
      #expect(state.cancelEnded(.unknown) == .close)
      #expect(state.phase == .closed)
    }
  }

  /// The world around it: whether the server still runs the statement, and whether a request can still arrive there.
  @Test func noOrderOfEventsLendsAConnectionThatACancellationCanStillHit() {
    for seed in 0..<20_000 {
      var random = SeededRandom(seed: UInt64(seed))
      var state = PostgresConnectionState()
      var isRunning = false
      var isRequested = false
      var canArrive = false
      for _ in 0..<30 {
        var action = PostgresConnectionState.Action.nothing
        switch Int.random(in: 0..<8, using: &random) {
        case 0, 1:
          if state.began() {
            #expect(!isRunning && !canArrive, "seed \(seed)")
            isRunning = true
          }
        case 2: action = state.abandoned()
        case 3, 4:
          if isRunning {
            isRunning = false
            action = state.synced()
          }
        case 5:
          if isRequested {
            isRequested = false
            let outcome = [PostgresConnectionState.CancelOutcome.concluded, .notSent, .unknown]
              .randomElement(using: &random)!
            canArrive = outcome == .unknown
            action = state.cancelEnded(outcome)
          }
        case 6: if [.cancelling, .answered, .cancelled].contains(state.phase) { action = state.limitReached() }
        default: if Int.random(in: 0..<10, using: &random) == 0 { action = state.closed() }
        }
        switch action {
        case .requestCancel:
          isRequested = true
          canArrive = true
        case .withdrawCancel:
          if isRequested, Bool.random(using: &random) {
            isRequested = false
            canArrive = false
            #expect(state.cancelEnded(.notSent) == .reportClean, "seed \(seed)")
          }
        case .reportClean: #expect(!isRunning && !canArrive && state.phase == .idle, "seed \(seed)")
        case .deliver: #expect(state.phase == .idle && !isRunning, "seed \(seed)")
        case .close:
          #expect(state.phase == .closed, "seed \(seed)")
          isRunning = false
        case .nothing: break
        }
        if state.phase == .closed { break }
      }
      // A server that answers nothing any more: the limit ends all but who never left.
      if ![.idle, .running, .closed].contains(state.phase) { _ = state.limitReached() }
      #expect([.idle, .running, .closed].contains(state.phase), "seed \(seed)")
    }
  }
}

@Suite struct PostgresPoolStateTests {
  @Test func theKeptConnectionStaysUntilItIsAged() {
    var state = PostgresPoolState(limit: 3, lifetime: .seconds(100), idleTimeout: .seconds(10))
    #expect(state.request(1, now: instant(0)) == [.wait(1), .open(1, for: 1)])
    #expect(state.request(2, now: instant(0)) == [.wait(2), .open(2, for: 2)])
    #expect(state.opened(1, now: instant(0)) == [.lend(1, to: 1)])
    #expect(state.opened(2, now: instant(0)) == [.lend(2, to: 2)])
    #expect(state.nextExpiry == nil)
    #expect(state.returned(1, now: instant(1_000)) == [])
    #expect(state.nextExpiry == instant(100_000))
    #expect(state.returned(2, now: instant(2_000)) == [])
    #expect(state.nextExpiry == instant(11_000))
    #expect(state.closeExpired(instant(10_999)) == [])
    #expect(state.closeExpired(instant(11_000)) == [.close(1)])
    #expect(state.nextExpiry == instant(100_000))
    #expect(state.request(3, now: instant(99_999)) == [.lend(2, to: 3)])
    #expect(state.returned(2, now: instant(100_000)) == [.close(2)])
    #expect(state.open == 0)
  }

  @Test func aFailedAttemptGivesItsPlaceToTheNextInTheQueue() {
    var state = PostgresPoolState(limit: 1, lifetime: .seconds(100), idleTimeout: .seconds(10))
    #expect(state.request(1, now: instant(0)) == [.wait(1), .open(1, for: 1)])
    #expect(state.request(2, now: instant(0)) == [.wait(2)])
    #expect(state.request(3, now: instant(0)) == [.wait(3)])
    #expect(state.failed(1, now: instant(1)) == [.fail(1), .open(2, for: 2)])
    #expect(state.leaveQueue(3) == true)
    #expect(state.leaveQueue(1) == false)
    #expect(state.close() == [.refuse(2)])
    #expect(state.request(4, now: instant(2)) == [.refuse(4)])
    #expect(state.opened(2, now: instant(3)) == [.close(2)])
  }

  @Test func anAttemptWhoseCallerLeftIsForTheNextOneToCome() {
    var state = PostgresPoolState(limit: 2, lifetime: .seconds(100), idleTimeout: .seconds(10))
    #expect(state.request(1, now: instant(0)) == [.wait(1), .open(1, for: 1)])
    #expect(state.isOpening(for: 1))
    #expect(state.leaveQueue(1) == true)
    #expect(state.request(2, now: instant(1)) == [.wait(2)])
    #expect(state.isOpening(for: 2))
    #expect(state.request(3, now: instant(1)) == [.wait(3), .open(2, for: 3)])
    #expect(state.leaveQueue(2) == true)
    // Nobody is left without one: it fails, and nobody is told.
    #expect(state.failed(1, now: instant(2)) == [])
    #expect(state.leaveQueue(3) == true)
    #expect(state.opened(2, now: instant(3)) == [])
    #expect(state.request(4, now: instant(4)) == [.lend(2, to: 4)])
  }

  @Test func theQueueIsBounded() {
    var state = PostgresPoolState(limit: 1, lifetime: .seconds(100), idleTimeout: .seconds(10))
    _ = state.request(0, now: instant(0))
    _ = state.opened(1, now: instant(0))
    for requestID in 1...1024 {
      #expect(state.request(UInt64(requestID), now: instant(0)) == [.wait(UInt64(requestID))])
    }
    #expect(state.request(2_000, now: instant(0)) == [.refuse(2_000)])
  }

  @Test func noOrderOfEventsBreaksTheBooks() {
    for seed in 0..<4_000 {
      var world = PoolWorld(seed: UInt64(seed))
      for _ in 0..<120 { world.step() }
      world.finish()
    }
  }
}

/// All that a pool sees, at random, with what must hold after each step.
private struct PoolWorld {
  let seed: UInt64
  var random: SeededRandom
  var state: PostgresPoolState
  var now: Int64 = 0
  var lastRequestID: UInt64 = 0
  var queue: [UInt64] = []
  var opening: Set<UInt64> = []
  var lent: Set<UInt64> = []
  var idle: Set<UInt64> = []
  var cancelling: Set<UInt64> = []
  var bornAt: [UInt64: Int64] = [:]

  init(seed: UInt64) {
    self.seed = seed
    random = SeededRandom(seed: seed)
    state = PostgresPoolState(
      limit: Int.random(in: 1...5, using: &random), lifetime: .seconds(1), idleTimeout: .milliseconds(200))
  }

  mutating func step() {
    now += Int64.random(in: 0...60, using: &random)
    switch Int.random(in: 0..<15, using: &random) {
    case 0...3: request()
    case 4, 5: connect()
    case 6, 7: giveBack()
    case 8: clean()
    case 9: if let connectionID = opening.randomElement(using: &random) { fail(connectionID) }
    case 10: if let connectionID = idle.union(cancelling).randomElement(using: &random) { remove(connectionID) }
    case 11: if let requestID = queue.randomElement(using: &random) { leave(requestID) }
    case 12: apply(state.closeExpired(instant(now)))
    case 13: apply(state.closeIdle(now: instant(now)))
    default: if Int.random(in: 0..<40, using: &random) == 0 { apply(state.close()) }
    }
    check()
  }

  private mutating func request() {
    lastRequestID += 1
    queue.append(lastRequestID)
    apply(state.request(lastRequestID, now: instant(now)))
  }

  private mutating func connect() {
    guard let connectionID = opening.randomElement(using: &random) else { return }
    opening.remove(connectionID)
    idle.insert(connectionID)
    bornAt[connectionID] = now
    apply(state.opened(connectionID, now: instant(now)), opened: connectionID)
  }

  private mutating func fail(_ connectionID: UInt64) {
    opening.remove(connectionID)
    apply(state.failed(connectionID, now: instant(now)), opened: connectionID)
  }

  private mutating func giveBack() {
    guard let connectionID = lent.randomElement(using: &random) else { return }
    lent.remove(connectionID)
    if Int.random(in: 0..<4, using: &random) == 0 {
      cancelling.insert(connectionID)
      state.returnedUnclean(connectionID)
    } else {
      idle.insert(connectionID)
      apply(state.returned(connectionID, now: instant(now)))
    }
  }

  private mutating func clean() {
    guard let connectionID = cancelling.randomElement(using: &random) else { return }
    cancelling.remove(connectionID)
    idle.insert(connectionID)
    apply(state.becameClean(connectionID, now: instant(now)))
  }

  private mutating func remove(_ connectionID: UInt64) {
    idle.remove(connectionID)
    cancelling.remove(connectionID)
    apply(state.removed(connectionID, now: instant(now)))
  }

  private mutating func leave(_ requestID: UInt64) {
    let hasLeft = state.leaveQueue(requestID)
    hold(hasLeft, "the books differ")
    queue.removeAll { $0 == requestID }
  }

  /// `opened`: the connectionID whose attempt has ended, which may be for someone who came later.
  private mutating func apply(_ actions: [PostgresPoolState.Action], opened: UInt64? = nil) {
    for action in actions {
      switch action {
      case .lend(let connectionID, let requestID):
        hold(queue.first == requestID || (connectionID == opened && queue.contains(requestID)), "out of order")
        hold(idle.contains(connectionID), "lent what was not idle")
        hold(now - bornAt[connectionID]! < 1_000, "lent an aged one")
        queue.removeAll { $0 == requestID }
        idle.remove(connectionID)
        lent.insert(connectionID)
      case .open(let connectionID, let requestID):
        hold(queue.contains(requestID), "opened for nobody")
        opening.insert(connectionID)
      case .fail(let requestID):
        hold(queue.contains(requestID), "failed for nobody")
        queue.removeAll { $0 == requestID }
      case .wait(let requestID): hold(queue.last == requestID, "the books differ")
      case .refuse(let requestID): queue.removeAll { $0 == requestID }
      case .close(let connectionID):
        let closed = idle.remove(connectionID)
        hold(closed != nil, "closed what was in use")
      }
    }
  }

  /// `#expect` costs microseconds each: too many here.
  private func hold(_ condition: Bool, _ what: @autoclosure () -> String, _ line: Int = #line) {
    if !condition { Issue.record("seed \(seed), line \(line): \(what())") }
  }

  private func check() {
    let total = opening.count + lent.count + idle.count + cancelling.count
    hold(total <= state.limit, "the books differ")
    hold(state.waiting == queue.count, "the books differ")
    hold(state.idle == idle.count && state.lent == lent.count, "the books differ")
    hold(state.cancelling == cancelling.count && state.opening == opening.count, "the books differ")
    hold(queue.isEmpty || idle.isEmpty, "waits for nothing")
    let served = queue.count { state.isOpening(for: $0) }
    hold(served == queue.count || total == state.limit, "waits for nothing")
    hold(served == min(queue.count, opening.count), "an attempt is for nobody though someone waits")
    if state.isClosed { hold(idle.isEmpty && queue.isEmpty, "the books differ") }
  }

  /// Everybody finishes: nobody is left waiting, and after the idle timeout at most one connection is kept.
  mutating func finish() {
    while !(opening.isEmpty && lent.isEmpty && cancelling.isEmpty && queue.isEmpty) {
      connect()
      giveBack()
      clean()
      check()
    }
    now += 200
    apply(state.closeExpired(instant(now)))
    hold(idle.count <= 1, "the books differ")
    now += 1_000
    apply(state.closeExpired(instant(now)))
    hold(idle.isEmpty && state.nextExpiry == nil, "the books differ")
  }
}
