// A wake-up that can be used again, for a task that works through a queue. Invariant: no wake-up is lost; several
// before the task waits count as one.

/// Wakes one task, and resets when that task wakes.
///
/// Put work where the task looks for it, then call `fire`. The task looks for work before each wait.
@EventLoop
public final class WakeUp {
  private let signal = OneShot<Void>()

  public nonisolated init() {}

  /// Wakes the task that waits, or makes the next wait return at once.
  public func fire() {
    signal.fire(())
  }

  /// Returns when fired. A cancelled task keeps waiting: its cancellation handler fires.
  func waitThroughCancellation() async {
    _ = await signal.waitThroughCancellation()
    signal.reset()
  }

  /// Returns when fired or at `deadline`, whichever comes first. The clock counts it as a sleep.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  func sleep(until deadline: MonotonicInstant, on clock: LoopClock) async throws {
    try Task.checkCancellation()
    let isFired = await signal.sleep(until: deadline, on: clock) != nil
    signal.reset()
    if !isFired { try Task.checkCancellation() }
  }
}
