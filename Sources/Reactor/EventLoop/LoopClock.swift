// Time: the one clock that everything on the loop reads and sleeps on, and the instants that it shows.
// Invariant: nothing else in the package reads the monotonic time, so a test that turns the clock turns all of it.

import CReactor

/// A point on the monotonic clock (CLOCK_MONOTONIC), in nanoseconds.
public struct MonotonicInstant: InstantProtocol, Hashable, Sendable {
  public var nanoseconds: Int64

  public init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds
  }

  /// Later than any other: for a sleep that something else ends.
  public static var never: MonotonicInstant { MonotonicInstant(nanoseconds: .max) }

  /// The instant so long after this one; what would lie beyond the clock's ends is the end. A wait's length may come
  /// from outside, from a server or a setting, and the longest of them only never ends.
  public func advanced(by duration: Duration) -> MonotonicInstant {
    let length = duration.nanoseconds
    let (sum, isBeyond) = nanoseconds.addingReportingOverflow(length)
    return MonotonicInstant(nanoseconds: isBeyond ? length < 0 ? .min : .max : sum)
  }

  public func duration(to other: MonotonicInstant) -> Duration {
    let (length, isBeyond) = other.nanoseconds.subtractingReportingOverflow(nanoseconds)
    return .nanoseconds(isBeyond ? self < other ? .max : .min : length)
  }

  public static func < (left: MonotonicInstant, right: MonotonicInstant) -> Bool {
    left.nanoseconds < right.nanoseconds
  }

  /// What the kernel's clock shows. Only the clock and the loop's own timers read it.
  static var system: MonotonicInstant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return MonotonicInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }
}

extension Duration {
  /// Whole nanoseconds, rounded towards zero; beyond 64 bits the nearest number that there is.
  public var nanoseconds: Int64 { count(perSecond: 1_000_000_000) }

  /// Whole milliseconds, in the same way.
  public var milliseconds: Int64 { count(perSecond: 1_000) }

  @inline(__always)
  private func count(perSecond: Int64) -> Int64 {
    let (seconds, attoseconds) = components
    let (whole, isBeyond) = seconds.multipliedReportingOverflow(by: perSecond)
    let (sum, isJustBeyond) = whole.addingReportingOverflow(attoseconds / (1_000_000_000_000_000_000 / perSecond))
    return isBeyond || isJustBeyond ? seconds < 0 ? .min : .max : sum
  }

  /// Seconds with their fraction.
  public var seconds: Double {
    let (seconds, attoseconds) = components
    return Double(seconds) + Double(attoseconds) * 1e-18
  }
}

/// The loop's clock: the kernel's monotonic time, or one that a test turns by hand.
@EventLoop
public final class LoopClock: Clock {
  /// The real one.
  public static let system = LoopClock(turned: false)

  /// A clock that stands still until `advance(by:)`, for tests.
  public static func manual() -> LoopClock {
    LoopClock(turned: true)
  }

  private let isManual: Bool
  private var manualNow = MonotonicInstant(nanoseconds: 1_000_000_000)
  private var sleepers: [Sleeper] = []

  private init(turned: Bool) {
    isManual = turned
  }

  public nonisolated var minimumResolution: Duration { .nanoseconds(1) }

  public nonisolated var now: MonotonicInstant {
    isManual ? EventLoop.assumeIsolated { manualNow } : .system
  }

  /// When the loop's present turn began, or a manual clock's time: for what may be late by a turn's length, such as the
  /// time limit of a connection. It costs no look at the kernel's clock.
  var turnBegan: MonotonicInstant {
    isManual ? manualNow : EventLoop.shared.executor.wokenAt
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
  public func sleep(until deadline: MonotonicInstant, orUntil gate: Gate) async throws {
    let sleeper = Sleeper()
    defer { gate.remove(sleeper) }
    try await sleep(until: deadline, sleeper, gate)
  }

  private func sleep(until deadline: MonotonicInstant, _ sleeper: Sleeper, _ gate: Gate? = nil) async throws {
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        sleeper.begin(continuation)
        sleeper.deadline = deadline
        if isManual {
          deadline <= manualNow ? sleeper.wake() : sleepers.append(sleeper)
        } else {
          sleeper.arm(at: deadline)
        }
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

  /// Turns a manual clock forward and wakes, in the order of their deadlines, all who slept until then.
  public func advance(by duration: Duration) {
    precondition(isManual, "only a manual clock can be turned")
    manualNow = manualNow.advanced(by: duration)
    let due = sleepers.filter { $0.deadline <= manualNow }.sorted { $0.deadline < $1.deadline }
    sleepers.removeAll { $0.deadline <= manualNow || $0.isDone }
    for sleeper in due { sleeper.wake() }
  }

  /// How many sleep on this manual clock: a test waits until those that it expects do, then turns.
  public var sleeping: Int {
    sleepers.count { !$0.isDone }
  }
}

/// One task that sleeps. Woken or cancelled, whichever comes first; the other then does nothing.
@EventLoop
final class Sleeper {
  var deadline = MonotonicInstant(nanoseconds: 0)
  private var continuation: CheckedContinuation<Void, any Error>?
  private var timer: TimerWatcher?
  private var isCancelled = false
  private(set) var isDone = false

  nonisolated init() {}

  func begin(_ continuation: CheckedContinuation<Void, any Error>) {
    self.continuation = continuation
    if isCancelled { finish(.failure(CancellationError())) }
  }

  func arm(at deadline: MonotonicInstant) {
    guard !isDone else { return }
    let timer = TimerWatcher { [weak self] in self?.wake() }
    timer.start(at: deadline)
    self.timer = timer
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
    timer?.stop()
    timer = nil
    continuation.resume(with: result)
  }
}
