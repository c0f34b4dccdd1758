// The three ways to wait: latch, one-shot and wake-up.

import TestSupport
import Testing

@testable import Reactor

@Suite struct WaitingTests {
  @Test func aWakeUpBeforeTheWaitEndsItAtOnceAndOnlyOnce() async throws {
    try await onLoop {
      let clock = LoopClock.manual()
      let wakeUp = WakeUp()
      wakeUp.fire()
      wakeUp.fire()
      try await clock.sleep(until: .never, orUntil: wakeUp)
      let began = clock.now
      async let slept: Void = clock.sleep(until: began.advanced(by: .seconds(1)), orUntil: wakeUp)
      try await eventually("the second wait sleeps") { clock.sleeping == 1 }
      clock.advance(by: .seconds(1))
      try await slept
      #expect(clock.sleeping == 0)
    }
  }

  @Test func aWakeUpWakesTheTaskThatWaits() async throws {
    try await onLoop {
      let clock = LoopClock.manual()
      let wakeUp = WakeUp()
      for _ in 0..<3 {
        async let slept: Void = clock.sleep(until: .never, orUntil: wakeUp)
        try await eventually("it sleeps") { clock.sleeping == 1 }
        wakeUp.fire()
        try await slept
        #expect(clock.sleeping == 0)
      }
    }
  }

  @Test func cancellationEndsEachKindOfSleepAndIsNotCountedAsAWakeUp() async throws {
    try await onLoop {
      let clock = LoopClock.manual()
      let (wakeUp, latch) = (WakeUp(), Latch())
      try await withThrowingTaskGroup { group in
        group.addTask {
          await #expect(throws: CancellationError.self) { try await clock.sleep(until: .never, orUntil: wakeUp) }
        }
        group.addTask {
          await #expect(throws: CancellationError.self) { try await clock.sleep(until: .never, orUntil: latch) }
        }
        try await eventually("both sleep") { clock.sleeping == 2 }
        group.cancelAll()
        // A task that is cancelled does not start to sleep either, whatever has fired.
        latch.open()
        group.addTask {
          await #expect(throws: CancellationError.self) { try await clock.sleep(until: .never, orUntil: latch) }
        }
        try await group.waitForAll()
      }
      #expect(clock.sleeping == 0)
      async let slept: Void = clock.sleep(until: .never, orUntil: wakeUp)
      try await eventually("it sleeps again") { clock.sleeping == 1 }
      wakeUp.fire()
      try await slept
    }
  }

  @Test func aOneShotDeliversItsFirstValueAndNothingAfterItsDeadline() async throws {
    try await onLoop {
      let clock = LoopClock.manual()
      let early = OneShot<Int>()
      early.fire(1)
      early.fire(2)
      #expect(await early.wait() == 1)
      let late = OneShot<Int>()
      async let value = late.wait(until: clock.now.advanced(by: .seconds(1)), on: clock)
      try await eventually("its timer is set") { clock.nextTimer != nil }
      clock.advance(by: .seconds(1))
      #expect(await value == nil)
    }
  }
}
