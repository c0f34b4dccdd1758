// The clock that everything on the loop reads, sleeps on and sets timers by.
// Invariant: a component reads only the clock that it was given, so a test controls all of its time.

/// A loop's clock: the kernel's time (`EventLoop.clock`), or simulated time for tests.
///
/// A component is given its clock when it is made, and its deadlines are instants of that clock. Time limits inside
/// libcurl and c-ares always use the kernel's time.
@EventLoop
public final class LoopClock: Clock {
  /// A clock that stands still until `advance(by:)`, for tests.
  public nonisolated static func manual() -> LoopClock {
    LoopClock(SimulatedClock(VirtualTime(passesWhenIdle: false)))
  }

  /// A clock in virtual time: when the loop has no job to run and no descriptor is ready, it jumps to its next timer.
  /// Hours pass in an instant, and events have the same order each time, provided that everything happens on the loop
  /// and nothing waits for another process or thread. Only one such clock runs at a time.
  public nonisolated static func virtual() -> LoopClock {
    LoopClock(SimulatedClock(VirtualTime()))
  }

  /// Nil for the kernel's time.
  nonisolated let simulated: SimulatedClock?

  /// The kernel's clock, without an argument.
  nonisolated init(_ simulated: SimulatedClock? = nil) {
    self.simulated = simulated
  }

  public nonisolated var minimumResolution: Duration { .nanoseconds(1) }

  public nonisolated var now: MonotonicInstant {
    guard let simulated else { return KernelTime.monotonic }
    return EventLoop.assumeIsolated { simulated.now }
  }

  /// The calendar time, for people and logs.
  public nonisolated var wallTime: WallClockTime {
    guard let simulated else { return KernelTime.wall }
    return EventLoop.assumeIsolated { simulated.time.wall }
  }

  /// When the loop's current turn began, or a simulated clock's time. Avoids a system call where a turn's length does
  /// not matter, such as for a connection's time limit.
  var turnBegan: MonotonicInstant {
    simulated?.now ?? EventLoop.shared.executor.wokenAt
  }

  /// Sleeps until `deadline`; returns at once if it has passed.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(until deadline: MonotonicInstant, tolerance: Duration? = nil) async throws {
    try Task.checkCancellation()
    if await OneShot<Void>().sleep(until: deadline, on: self) == nil { try Task.checkCancellation() }
  }

  /// Sleeps until `deadline` or until `latch` opens, whichever comes first.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(until deadline: MonotonicInstant, orUntil latch: Latch) async throws {
    try Task.checkCancellation()
    let sleeper = OneShot<Void>()
    latch.add(sleeper)
    defer { latch.remove(sleeper) }
    if await sleeper.sleep(until: deadline, on: self) == nil { try Task.checkCancellation() }
  }

  /// Sleeps until `deadline` or until `wakeUp` fires, whichever comes first. Returns at once if it has fired since the
  /// last wait.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(until deadline: MonotonicInstant, orUntil wakeUp: WakeUp) async throws {
    try await wakeUp.sleep(until: deadline, on: self)
  }

  /// Sleeps for `duration` from now.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(for duration: Duration) async throws {
    try await sleep(until: now.advanced(by: duration))
  }

  /// Advances a manual clock and fires all timers up to then, in the order of their instants.
  public func advance(by duration: Duration) {
    guard let simulated else { preconditionFailure("the kernel's clock cannot be advanced") }
    simulated.time.advance(by: duration)
  }

  /// The number of tasks that sleep on this clock, if it is simulated. A test waits for the tasks that it expects, then
  /// advances the clock.
  public var sleeping: Int { simulated?.time.sleeperCount ?? 0 }

  /// When the next timer of this clock fires, if it is simulated; nil if none is set.
  public var nextTimer: MonotonicInstant? { simulated?.time.nextTimer }

  /// Stops this virtual clock's timers until `release`, as SIGSTOP stops a process. Time goes on.
  package func hold() {
    simulated?.hold()
  }

  /// Fires the timers that are due. `lost` is the time since `hold` that the clock did not count, as in a suspended
  /// machine.
  package func release(losing lost: Duration = .zero) {
    simulated?.release(losing: lost)
  }
}
