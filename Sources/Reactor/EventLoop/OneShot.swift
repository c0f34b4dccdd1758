// One value that one task waits for. Invariant: the first value counts, and a wait ends with the value, at its deadline
// or on cancellation, whichever comes first. Used by the Redis client, the PostgreSQL pool
// and the simulator's modelled servers.

@EventLoop
package final class OneShot<Value: Sendable> {
  private var value: Value?
  private var waiter: CheckedContinuation<Value?, Never>?
  private var timer: TimerWatcher?

  package init() {}

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

  private func wait(limit: (MonotonicInstant, LoopClock)?) async -> Value? {
    await withTaskCancellationHandler {
      guard !Task.isCancelled else { return value }
      return await waitThroughCancellation(limit: limit)
    } onCancel: {
      EventLoop.perform { self.finish() }
    }
  }

  /// Like `wait`, but a cancelled task keeps waiting: for the orderly end of a bounded operation.
  func waitThroughCancellation() async -> Value? {
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
    }
  }

  private func finish() {
    timer?.stop()
    timer = nil
    waiter?.resume(returning: value)
    waiter = nil
  }
}
