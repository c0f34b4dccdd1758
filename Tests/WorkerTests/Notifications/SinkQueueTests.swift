// A sink's queue: each rule, and its invariants in thousands of random sequences of events.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SinkQueueTests {
  static func at(_ seconds: Double) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(seconds * 1e9))
  }

  static func event(
    _ title: String, kind: Event.Kind = .failure, component: String = "wraps-expired",
    counts: [Event.Count] = []
  ) -> Event {
    Event(
      id: title, kind: kind, time: WallClockTime(seconds: 0, nanoseconds: 0), severity: .info, component: component,
      title: title, metadata: counts)
  }

  static func report(_ deleted: Int, component: String = "wraps-expired") -> Event {
    Event(
      id: "id", time: WallClockTime(seconds: Int64(deleted), nanoseconds: 0), severity: .info, component: component,
      title: "purged", detail: "cutoff=\(deleted)", metadata: [Event.Count("deleted", deleted)])
  }

  /// The titles of what is sent when nothing fails.
  static func drained(_ queue: inout SinkQueue, at now: MonotonicInstant) -> [String] {
    var titles: [String] = []
    while case .send(let event) = queue.next(at: now) {
      titles.append(event.title)
      _ = queue.ended(.delivered, at: now, jitter: 0)
    }
    return titles
  }

  @Test func eventsAreSentInOrder() {
    var queue = SinkQueue()
    for title in ["a", "b", "c"] { #expect(queue.add(Self.event(title), at: Self.at(0)) == nil) }
    #expect(Self.drained(&queue, at: Self.at(0)) == ["a", "b", "c"])
    #expect(queue.next(at: Self.at(0)) == .idle)
  }

  @Test func aFailedEventIsRetriedFirstWithGrowingDelays() {
    var queue = SinkQueue()
    _ = queue.add(Self.event("a"), at: Self.at(0))
    _ = queue.add(Self.event("b"), at: Self.at(0))
    var now = 0.0
    for delay in [1.0, 2, 4, 8, 16, 32, 50, 50] {
      #expect(queue.next(at: Self.at(now)) == .send(Self.event("a")))
      #expect(queue.ended(.failed(retryAfter: nil), at: Self.at(now), jitter: 0.5) == nil)
      guard case .wait(let until) = queue.next(at: Self.at(now)) else {
        Issue.record("no wait after \(now)")
        return
      }
      #expect(abs(Self.at(now).duration(to: until).seconds - delay) < 1e-6)
      now += delay
    }
    #expect(queue.next(at: Self.at(now)) == .send(Self.event("a")))
    #expect(queue.ended(.delivered, at: Self.at(now + 1), jitter: 0) == .seconds(now + 1))
    #expect(queue.next(at: Self.at(now + 1)) == .send(Self.event("b")))
  }

  @Test func retryAfterIsRespectedUpToALimit() {
    for (asked, waits) in [(Duration.seconds(30), 30.0), (.seconds(86_400), 600), (.milliseconds(1), 1)] {
      var queue = SinkQueue()
      _ = queue.add(Self.event("a"), at: Self.at(0))
      _ = queue.next(at: Self.at(0))
      _ = queue.ended(.failed(retryAfter: asked), at: Self.at(0), jitter: 0.5)
      #expect(queue.next(at: Self.at(0)) == .wait(until: Self.at(waits)), "\(asked)")
    }
  }

  @Test func aRejectedEventIsRemovedAndTheNextIsSentAtOnce() {
    var queue = SinkQueue()
    _ = queue.add(Self.event("a"), at: Self.at(0))
    _ = queue.add(Self.event("b"), at: Self.at(0))
    _ = queue.next(at: Self.at(0))
    _ = queue.ended(.rejected, at: Self.at(0), jitter: 0)
    #expect(Self.drained(&queue, at: Self.at(0)) == ["b"])
  }

  @Test func eachEventIsDroppedAnHourAfterItWasAdded() {
    var queue = SinkQueue()
    _ = queue.add(Self.event("a"), at: Self.at(0))
    _ = queue.add(Self.event("b"), at: Self.at(60))
    _ = queue.next(at: Self.at(3_590))
    _ = queue.ended(.failed(retryAfter: .seconds(600)), at: Self.at(3_590), jitter: 0)
    #expect(queue.next(at: Self.at(3_590)) == .wait(until: Self.at(3_600)))
    #expect(queue.next(at: Self.at(3_600)) == .drop(Self.event("a")))
    #expect(queue.next(at: Self.at(3_600)) == .wait(until: Self.at(3_660)))
    #expect(queue.next(at: Self.at(3_660)) == .drop(Self.event("b")))
    #expect(queue.next(at: Self.at(3_660)) == .idle)
  }

  @Test func aFullQueueDropsItsOldestEventThatIsNotBeingSent() {
    var queue = SinkQueue()
    for index in 0..<SinkQueue.lengthLimit { _ = queue.add(Self.event("\(index)"), at: Self.at(0)) }
    _ = queue.next(at: Self.at(0))
    #expect(queue.add(Self.event("new"), at: Self.at(0))?.title == "1")
    _ = queue.ended(.failed(retryAfter: nil), at: Self.at(0), jitter: 0)
    #expect(queue.add(Self.event("newer"), at: Self.at(0))?.title == "0")
    #expect(queue.count == SinkQueue.lengthLimit)
  }

  @Test func queuedReportsOfOneSweeperAreMerged() {
    var queue = SinkQueue()
    for count in [1, 2, 4] { _ = queue.add(Self.report(count), at: Self.at(0)) }
    _ = queue.add(Self.report(8, component: "agents-stale"), at: Self.at(0))
    #expect(queue.count == 2)
    guard case .send(let merged) = queue.next(at: Self.at(0)) else {
      Issue.record("nothing is sent")
      return
    }
    #expect(merged.metadata == [Event.Count("deleted", 7), Event.Count("runs", 3)])
    #expect(merged.detail == "cutoff=4" && merged.time.seconds == 4)
  }

  @Test func anEventThatWasSentIsNoLongerMerged() {
    var queue = SinkQueue()
    _ = queue.add(Self.report(1), at: Self.at(0))
    _ = queue.next(at: Self.at(0))
    _ = queue.add(Self.report(2), at: Self.at(0))
    _ = queue.ended(.failed(retryAfter: nil), at: Self.at(0), jitter: 0)
    _ = queue.add(Self.report(4), at: Self.at(0))
    guard case .send(let first) = queue.next(at: Self.at(5)) else {
      Issue.record("nothing is sent")
      return
    }
    #expect(first.metadata == [Event.Count("deleted", 1)])
    _ = queue.ended(.delivered, at: Self.at(5), jitter: 0)
    guard case .send(let second) = queue.next(at: Self.at(5)) else {
      Issue.record("nothing more is sent")
      return
    }
    #expect(second.metadata == [Event.Count("deleted", 6), Event.Count("runs", 2)])
  }

  @Test func aReportIsNotMergedAcrossAFailureOfItsSweeper() {
    var queue = SinkQueue()
    _ = queue.add(Self.report(1), at: Self.at(0))
    _ = queue.add(Self.event("failed"), at: Self.at(0))
    _ = queue.add(Self.event("recovered", kind: .recovery), at: Self.at(0))
    _ = queue.add(Self.report(2), at: Self.at(0))
    #expect(Self.drained(&queue, at: Self.at(0)) == ["purged", "failed", "recovered", "purged"])
  }

  @Test func aProcessThatShutsDownRetriesAtOnceAndDropsTheRest() {
    var queue = SinkQueue()
    _ = queue.add(Self.event("a"), at: Self.at(0))
    _ = queue.add(Self.event("b"), at: Self.at(0))
    _ = queue.next(at: Self.at(0))
    _ = queue.ended(.failed(retryAfter: .seconds(300)), at: Self.at(0), jitter: 0)
    queue.retryNow()
    #expect(queue.next(at: Self.at(0)) == .send(Self.event("a")))
    #expect(queue.removeAll().map(\.title) == ["a", "b"])
    #expect(queue.next(at: Self.at(0)) == .idle)
  }

  /// In any order of events: the bound holds, order is kept, each event ends once as delivered, rejected, dropped,
  /// or left, none is sent after its hour, and no wait exceeds the limit of Retry-After.
  @Test func noSequenceOfEventsLosesOneOrSendsItOutOfOrder() {
    for seed in UInt64(0)..<3_000 {
      var random = SeededRandom(seed: seed)
      var queue = SinkQueue()
      var now = 0.0
      var added = 0
      var gone: [Int] = []
      var addedAt: [Int: Double] = [:]
      func number(_ event: Event) -> Int { Int(event.title) ?? -1 }
      for _ in 0..<400 {
        now += Double.random(in: 0...20, using: &random)
        if Int.random(in: 0..<3, using: &random) > 0 || seed % 5 == 0 {
          let event = Self.event("\(added)")
          addedAt[added] = now
          added += 1
          if let dropped = queue.add(event, at: Self.at(now)) { gone.append(number(dropped)) }
        }
        if queue.count > SinkQueue.lengthLimit { Issue.record("seed \(seed): \(queue.count) events") }
        switch queue.next(at: Self.at(now)) {
        case .send(let event):
          if now - addedAt[number(event), default: 0] >= 3_600 { Issue.record("seed \(seed): too old") }
          now += Double.random(in: 0...10, using: &random)
          let outcome: SinkQueue.Outcome =
            switch Int.random(in: 0..<4, using: &random) {
            case 0: .failed(retryAfter: .seconds(Int.random(in: 0...4_000, using: &random)))
            case 1: .failed(retryAfter: nil)
            case 2: .rejected
            default: .delivered
            }
          let jitter = Double.random(in: 0..<1, using: &random)
          if queue.ended(outcome, at: Self.at(now), jitter: jitter) != nil { gone.append(number(event)) }
        case .drop(let event): gone.append(number(event))
        case .wait(let until):
          let wait = Self.at(now).duration(to: until).seconds
          if wait <= 0 || wait > 600 { Issue.record("seed \(seed): waits \(wait) s") }
        case .idle:
          if queue.count > 0 { Issue.record("seed \(seed): rests with \(queue.count) events") }
        }
      }
      gone += queue.removeAll().map(number)
      // Events leave the queue in the order in which they were added.
      if gone != Array(0..<added) { Issue.record("seed \(seed): \(gone)") }
    }
  }
}
