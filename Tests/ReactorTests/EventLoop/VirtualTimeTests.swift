// Virtual time: the loop's clock jumps to the next timer when there is nothing to do.

import Glibc
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct VirtualTimeTests {
  @EventLoop
  final class Trace {
    var lines: [String] = []
    nonisolated init() {}
  }

  @Test func aDayPassesAtOnce() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let (start, wall, begin) = (clock.now, clock.wallTime, LoopClock.system.now)
      try await clock.sleep(for: .seconds(86_400))
      #expect(start.duration(to: clock.now) == .seconds(86_400))
      #expect(clock.wallTime.seconds - wall.seconds == 86_400)
      #expect(begin.duration(to: LoopClock.system.now) < .seconds(10))
    }
  }

  @EventLoop
  private static func tick(_ name: String, every period: Duration, _ clock: LoopClock, _ trace: Trace) async {
    do {
      while true {
        try await clock.sleep(for: period)
        trace.lines.append("\(name)\(clock.now.nanoseconds / 1_000_000_000 - 1)")
      }
    } catch {
      // Cancelled: the trace is long enough.
    }
  }

  @EventLoop
  private static func ticks() async throws -> [String] {
    let clock = LoopClock.virtual()
    let trace = Trace()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (name, seconds) in [("a", 2), ("b", 3), ("c", 2)] {
        group.addTask { await tick(name, every: .seconds(seconds), clock, trace) }
      }
      try await clock.sleep(for: .milliseconds(6_500))
      group.cancelAll()
    }
    return trace.lines
  }

  @Test func whatHappensAtOneInstantHappensInTheOrderOfItsBeginning() async throws {
    try await onLoop {
      let first = try await Self.ticks()
      #expect(first == ["a2", "c2", "b3", "a4", "c4", "b6", "a6", "c6"])
      for _ in 0..<20 { #expect(try await Self.ticks() == first) }
    }
  }

  @Test func aDeadlineComesAtItsInstant() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let start = clock.now
      await #expect(throws: DeadlineExceeded.self) {
        try await withDeadline(after: .seconds(3_600), on: clock) { try await clock.sleep(for: .seconds(7_200)) }
      }
      #expect(start.duration(to: clock.now) == .seconds(3_600))
      #expect(await OneShot<Void>().wait(until: clock.now.advanced(by: .seconds(60)), on: clock) == nil)
      #expect(start.duration(to: clock.now) == .seconds(3_660))
    }
  }

  /// More turns of the executor than one turn of the loop takes.
  @Test func timeStandsStillWhileAJobCanRun() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let start = clock.now
      async let slept: Void = clock.sleep(for: .nanoseconds(1))
      for _ in 0..<5_000 { await Task.yield() }
      #expect(clock.now == start)
      try await slept
      #expect(start.duration(to: clock.now) == .nanoseconds(1))
    }
  }

  @Test func aDescriptorThatIsReadyComesBeforeTheNextTimer() async throws {
    try await onLoop {
      var ends: [Int32] = [0, 0]
      try #require(pipe(&ends) == 0)
      let clock = LoopClock.virtual()
      let trace = Trace()
      let ended = OneShot<Void>()
      let timer = TimerWatcher(clock) {
        trace.lines.append("timer")
        ended.fire(())
      }
      let watcher = IOWatcher { _ in trace.lines.append("descriptor") }
      watcher.watch(ends[0], for: .read)
      #expect(write(ends[1], "x", 1) == 1)
      timer.start(at: clock.now.advanced(by: .nanoseconds(1)))
      while trace.lines.isEmpty { await Task.yield() }
      watcher.stop()
      _ = await ended.wait()
      #expect(trace.lines == ["descriptor", "timer"])
      for end in ends { close(end) }
    }
  }

  @Test func aClockWithoutATimerLetsTheLoopRest() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let gate = Latch()
      async let slept: Void = clock.sleep(until: .never, orUntil: gate)
      try await eventually("it sleeps") { clock.sleeping == 1 }
      let (turns, now) = (EventLoop.statistics.turns, clock.now)
      try await LoopClock.system.sleep(for: .milliseconds(100))
      #expect(EventLoop.statistics.turns - turns < 20)
      #expect(clock.now == now)
      gate.open()
      try await slept
    }
  }

  @Test func aStoppedTimerHoldsNoTime() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let start = clock.now
      let timers = (1...50).map { number in
        let timer = TimerWatcher(clock) { Issue.record("timer \(number) was stopped") }
        timer.start(at: start.advanced(by: .seconds(number % 7 + 1)))
        return timer
      }
      for timer in timers.shuffled() { timer.stop() }
      #expect(clock.nextTimer == nil)
      try await clock.sleep(for: .seconds(10))
      #expect(start.duration(to: clock.now) == .seconds(10))
    }
  }

  /// A whole component: its backoff, its deadlines and what it tells go by the clock that it was given.
  @Test func aClientThatFindsNoServerTriesForAnHourInVirtualTime() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let configuration = try RedisConfiguration(url: "redis://127.0.0.1:1")
      let redis = RedisClient(
        configuration, clock: clock, backoff: Backoff(initial: .seconds(1), cap: .seconds(60), jitter: 0))
      let begin = LoopClock.system.now
      await withTaskGroup(of: Void.self) { group in
        group.addTask { await redis.run() }
        await #expect(throws: RedisError.notSent("connection refused")) {
          try await redis.waitUntilReady(by: clock.now.advanced(by: .seconds(3_600)))
        }
        group.cancelAll()
      }
      // 1, 2, 4, … 32 s, then one a minute.
      #expect((60...66).contains(redis.statistics.attempts))
      #expect(begin.duration(to: LoopClock.system.now) < .seconds(10))
    }
  }
}
