// The loop as an executor, its clock, its timers and the deadline helper.

import TestSupport
import Testing

@testable import Reactor

@Suite struct EventLoopTests {
  @Test func aSleepNeverEndsBeforeItsInstant() async throws {
    try await onLoop {
      for milliseconds in [0, 1, 3, 7, 20] {
        let start = LoopClock.system.now
        try await LoopClock.system.sleep(for: .milliseconds(milliseconds))
        #expect(start.duration(to: LoopClock.system.now) >= .milliseconds(milliseconds))
      }
    }
  }

  @Test func aCancelledSleepEndsAtOnce() async throws {
    try await onLoop {
      let start = LoopClock.system.now
      await withTaskGroup { group in
        for _ in 0..<100 {
          group.addTask {
            await #expect(throws: CancellationError.self) { try await LoopClock.system.sleep(for: .seconds(60)) }
          }
        }
        group.cancelAll()
      }
      #expect(start.duration(to: LoopClock.system.now) < .seconds(10))
    }
  }

  @Test func childrenStayOnTheLoopsThread() async throws {
    try await onLoop {
      let total = await withTaskGroup(of: Int.self) { group in
        for number in 0..<5_000 {
          group.addTask {
            EventLoop.shared.preconditionIsolated()
            await Task.yield()
            EventLoop.shared.preconditionIsolated()
            return number
          }
        }
        var total = 0
        for await number in group { total += number }
        return total
      }
      #expect(total == 5_000 * 4_999 / 2)
    }
  }

  @Test func aDeadlineCancelsTheOperationAndWaitsForItsEnd() async throws {
    try await onLoop {
      let ended = Flag()
      await #expect(throws: DeadlineExceeded.self) {
        try await withDeadline(after: .milliseconds(20), on: .system) {
          defer { ended.isSet = true }
          try await LoopClock.system.sleep(for: .seconds(60))
        }
      }
      #expect(ended.isSet)
    }
  }

  @Test func anOperationInTimeReturnsItsValueOrItsError() async throws {
    try await onLoop {
      let value = try await withDeadline(after: .seconds(10), on: .system) { 42 }
      #expect(value == 42)
      await #expect(throws: Flag.Wrong.self) {
        try await withDeadline(after: .seconds(10), on: .system) { throw Flag.Wrong() }
      }
    }
  }

  @Test func aManualClockWakesSleepersInTheOrderOfTheirDeadlines() async throws {
    try await onLoop {
      let clock = LoopClock.manual()
      let order = Flag()
      try await withThrowingTaskGroup { group in
        for seconds in [3, 1, 2, 9] {
          group.addTask { try await order.note(seconds, after: clock) }
        }
        try await eventually("all sleep") { clock.sleeping == 4 }
        clock.advance(by: .seconds(3))
        try await eventually("three woke") { order.numbers.count == 3 }
        #expect(order.numbers == [1, 2, 3])
        #expect(clock.sleeping == 1)
        group.cancelAll()
        await #expect(throws: CancellationError.self) { try await group.waitForAll() }
      }
    }
  }

  @Test func timesBeyondTheClocksEndsAreItsEnds() {
    let now = MonotonicInstant(nanoseconds: 1_000)
    let (first, last) = (MonotonicInstant(nanoseconds: .min), MonotonicInstant(nanoseconds: .max))
    #expect(now.advanced(by: .seconds(Int64.max)) == last && now.advanced(by: .nanoseconds(Int64.max)) == last)
    #expect(first.advanced(by: .seconds(-1)) == first)
    #expect(first.duration(to: now) == .nanoseconds(Int64.max) && now.duration(to: first) == .nanoseconds(Int64.min))
    #expect(Duration.seconds(Int64.max).milliseconds == .max && Duration.seconds(-Int64.max).nanoseconds == .min)
    #expect(Duration.nanoseconds(Int64.max).nanoseconds == .max && Duration.nanoseconds(Int64.min).nanoseconds == .min)
    #expect(Duration.milliseconds(-1_500).milliseconds == -1_500 && Duration.nanoseconds(-1).milliseconds == 0)
  }

  @Test func aWatcherStoppedInItsOwnCallbackIsFreed() async throws {
    try await onLoop {
      weak var seen: TimerWatcher?
      let flag = Flag()
      do {
        let timer = TimerWatcher(.system) { flag.isSet = true }
        timer.start(at: LoopClock.system.now)
        seen = timer
      }
      try await eventually("fired") { flag.isSet }
      try await eventually("freed") { seen == nil }
    }
  }
}

@EventLoop private final class Flag {
  struct Wrong: Error {}
  var isSet = false
  var numbers: [Int] = []
  nonisolated init() {}

  func note(_ seconds: Int, after clock: LoopClock) async throws {
    try await clock.sleep(for: .seconds(seconds))
    numbers.append(seconds)
  }
}
