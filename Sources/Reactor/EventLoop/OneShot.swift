// One value that one task waits for: what the latch, the wake-up and the clock's sleep are built on. Invariant: the
// first value counts, and a wait ends with the value, at its deadline or on cancellation, whichever comes first.

@EventLoop
package final class OneShot<Value: Sendable> {
  private var value: Value?
  private var waiter: CheckedContinuation<Value?, Never>?
  private var timer: TimerWatcher?
  /// Whether the clock counts the wait as a sleep.
  private var isSleep = false

  package nonisolated init() {}

  /// Delivers the value. Later values are ignored.
  package func fire(_ value: Value) {
    guard self.value == nil else { return }
    self.value = value
    finish()
  }

  /// The value, or nil if the task is cancelled.
  package func wait() async -> Value? {
    await wait(limit: nil)
  }

  /// The value, or nil at the deadline or if the task is cancelled.
  package func wait(until deadline: MonotonicInstant, on clock: LoopClock) async -> Value? {
    await wait(limit: (deadline, clock))
  }

  /// Like `wait(until:on:)`, and counted in the clock's `sleeping`.
  func sleep(until deadline: MonotonicInstant, on clock: LoopClock) async -> Value? {
    isSleep = true
    return await wait(limit: (deadline, clock))
  }

  private func wait(limit: (MonotonicInstant, LoopClock)?) async -> Value? {
    await withTaskCancellationHandler {
      guard !Task.isCancelled else { return value }
      return await waitThroughCancellation(limit: limit)
    } onCancel: {
      EventLoop.perform { self.finish() }
    }
  }

  /// Like `wait`, but a cancelled task keeps waiting: for the orderly end of a bounded operation.
  package func waitThroughCancellation() async -> Value? {
    await waitThroughCancellation(limit: nil)
  }

  private func waitThroughCancellation(limit: (MonotonicInstant, LoopClock)?) async -> Value? {
    precondition(waiter == nil, "one task waits")
    if let value { return value }
    return await withCheckedContinuation { continuation in
      waiter = continuation
      guard let (deadline, clock) = limit else { return }
      let timer = TimerWatcher(clock) { self.finish() }
      timer.start(at: deadline)
      self.timer = timer
      if isSleep { clock.simulated?.time.sleeperCount += 1 }
    }
  }

  /// Forgets the value, so that the next one counts. Called by the task that waits.
  func reset() {
    value = nil
  }

  private func finish() {
    if let timer {
      timer.stop()
      if isSleep { timer.clock.simulated?.time.sleeperCount -= 1 }
    }
    timer = nil
    waiter.take()?.resume(returning: value)
  }
}
