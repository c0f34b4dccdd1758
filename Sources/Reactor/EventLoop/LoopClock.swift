// Time: the one clock that everything on the loop reads and sleeps on, and that timers are set by.
// Invariant: a component reads no other clock than the one that it was given, so where that is turned all of it is.

/// A loop's clock: the kernel's time (`EventLoop.clock`), or a time for tests and simulations.
///
/// Whoever makes a component gives it its clock, and its deadlines are instants of that clock. Libraries that keep time
/// by themselves (libcurl's and c-ares' own limits) go by the kernel's in any case.
@EventLoop
public final class LoopClock: Clock {
  /// A clock that stands still until `advance(by:)`, for tests.
  public nonisolated static func manual() -> LoopClock {
    LoopClock(SimulatedTime(passesWhenIdle: false))
  }

  /// A clock in virtual time: when no job is to be run and no descriptor is ready, it jumps to its next timer. Hours
  /// pass in an instant, and the order of what happens is the same each time, if all of it happens on the loop and
  /// nothing waits for another process or thread. One such clock runs at a time.
  public nonisolated static func virtual() -> LoopClock {
    LoopClock(SimulatedTime(passesWhenIdle: true))
  }

  /// Nil where the time is the kernel's.
  nonisolated let simulated: SimulatedTime?

  /// The kernel's clock, without an argument.
  nonisolated init(_ simulated: SimulatedTime? = nil) {
    self.simulated = simulated
  }

  public nonisolated var minimumResolution: Duration { .nanoseconds(1) }

  public nonisolated var now: MonotonicInstant {
    guard let simulated else { return KernelTime.monotonic }
    return EventLoop.assumeIsolated { simulated.now }
  }

  /// The calendar's time, for people and logs.
  public nonisolated var wallTime: WallClockTime {
    guard let simulated else { return KernelTime.wall }
    return EventLoop.assumeIsolated { simulated.wall }
  }

  /// When the loop's present turn began, or a simulated clock's time: for what may be late by a turn's length, such as
  /// the time limit of a connection. It costs no look at the kernel's clock.
  var turnBegan: MonotonicInstant {
    simulated?.now ?? EventLoop.shared.executor.wokenAt
  }

  /// Sleeps until `deadline`; returns at once where it has passed.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(until deadline: MonotonicInstant, tolerance: Duration? = nil) async throws {
    try await sleep(until: deadline, Sleeper())
  }

  /// Sleeps until `deadline` or until `gate` opens, whichever comes first.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(until deadline: MonotonicInstant, orUntil gate: Latch) async throws {
    let sleeper = Sleeper()
    defer { gate.remove(sleeper) }
    try await sleep(until: deadline, sleeper, gate)
  }

  private func sleep(until deadline: MonotonicInstant, _ sleeper: Sleeper, _ gate: Latch? = nil) async throws {
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        sleeper.begin(continuation)
        sleeper.arm(at: deadline, on: self)
        gate?.add(sleeper)
      }
    } onCancel: {
      EventLoop.perform { sleeper.cancel() }
    }
  }

  /// Sleeps for `duration` from now.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func sleep(for duration: Duration) async throws {
    try await sleep(until: now.advanced(by: duration))
  }

  /// Turns a manual clock forward and fires, in the order of their instants, all timers until then.
  public func advance(by duration: Duration) {
    guard let simulated else { preconditionFailure("the kernel's clock cannot be turned") }
    simulated.advance(by: duration)
  }

  /// How many tasks sleep on this clock, where it is not the kernel's: a test waits until those that it expects do,
  /// then turns.
  public var sleeping: Int { simulated?.sleeperCount ?? 0 }

  /// When the next timer on this clock fires, where it is not the kernel's; nil where none is set.
  public var nextTimer: MonotonicInstant? { simulated?.nextTimer }
}

/// One task that sleeps. Woken or cancelled, whichever comes first; the other then does nothing.
@EventLoop
final class Sleeper {
  private var continuation: CheckedContinuation<Void, any Error>?
  private var timer: TimerWatcher?
  private var isCancelled = false
  private var isDone = false

  nonisolated init() {}

  func begin(_ continuation: CheckedContinuation<Void, any Error>) {
    self.continuation = continuation
    if isCancelled { finish(.failure(CancellationError())) }
  }

  func arm(at deadline: MonotonicInstant, on clock: LoopClock) {
    guard !isDone else { return }
    let timer = TimerWatcher(clock) { [weak self] in self?.wake() }
    timer.start(at: deadline)
    self.timer = timer
    clock.simulated?.sleeperCount += 1
  }

  func wake() {
    finish(.success(()))
  }

  func cancel() {
    isCancelled = true
    finish(.failure(CancellationError()))
  }

  private func finish(_ result: Result<Void, any Error>) {
    guard let continuation else { return }
    self.continuation = nil
    isDone = true
    if let timer {
      timer.stop()
      timer.clock.simulated?.sleeperCount -= 1
    }
    timer = nil
    continuation.resume(with: result)
  }
}
