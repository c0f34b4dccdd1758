// The event loop as a global actor: what is marked @EventLoop runs on the loop's one thread; the compiler proves it.
// Invariant: one root task with the loop as its task executor preference; all else is its structured child.

import CReactor

/// The one event loop of the process, as a global actor.
///
/// A custom serial executor alone is not enough to keep continuations on one thread: the task executor preference of
/// the root task is, and it is inherited by structured children only (SE-0417). Therefore a program has one `run`, and
/// starts all its work with task groups and `async let`.
@globalActor
public actor EventLoop {
  public static let shared = EventLoop()

  /// The kernel's time, by which the loop waits. For a program's outermost part, which hands it to whatever it makes:
  /// no component takes it by itself.
  public nonisolated static let clock = LoopClock()

  nonisolated let executor = LoopExecutor()

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    executor.asUnownedSerialExecutor()
  }

  /// Runs `body` as the root task, with the calling thread as the loop's thread, and returns when it has ended.
  ///
  /// Called once in a process, from `main`. SIGPIPE is ignored from here on: a closed peer is an error of the write.
  public nonisolated static func run(_ body: @escaping @EventLoop @Sendable () async -> Int32) -> Int32 {
    creactor_ignore_sigpipe()
    let executor = shared.executor
    let status = ExitStatus()
    startRootTask { @Sendable in
      status.code = await body()
      executor.stop()
    }
    executor.run()
    return status.code
  }

  private nonisolated static func startRootTask(_ body: @escaping @Sendable () async -> Void) {
    Task(executorPreference: shared.executor, operation: body)
  }

  /// Where the root task leaves its exit status for the thread that ran the loop: the same one.
  private final class ExitStatus: @unchecked Sendable {
    var code: Int32 = 0
  }

  /// Calls `operation` at once, given that the caller is on the loop's thread (a C callback is); traps elsewhere.
  nonisolated static func assumeIsolated<T>(_ operation: @EventLoop () throws -> T) rethrows -> T {
    shared.executor.checkIsolated()
    // The way of MainActor.assumeIsolated: the isolation was checked above, so it can be taken off the type.
    return try withoutActuallyEscaping(operation) { escaping in
      try unsafeBitCast(escaping, to: (() throws -> T).self)()
    }
  }

  /// `operation` as what a C callback can call at once, without allocating anything as `assumeIsolated` does. Like that
  /// it traps where it is called off the loop's thread.
  nonisolated static func callable<Argument>(
    _ operation: @escaping @EventLoop (Argument) -> Void
  ) -> (Argument) -> Void {
    let unchecked = unsafeBitCast(operation, to: ((Argument) -> Void).self)
    return { argument in
      shared.executor.checkIsolated()
      unchecked(argument)
    }
  }

  /// Runs `operation` on the loop: at once on its own thread, else in its next turn. For cancellation handlers, which
  /// run on the thread that cancels.
  nonisolated static func perform(_ operation: @escaping @EventLoop @Sendable () -> Void) {
    shared.executor.perform { assumeIsolated(operation) }
  }

  /// What the loop did since it began.
  @EventLoop public static var statistics: LoopStatistics {
    shared.executor.statistics
  }

  /// The preference that keeps a task and its structured children on the loop. Only a root task needs it.
  public nonisolated static var taskExecutor: any TaskExecutor {
    shared.executor
  }

  /// Runs the loop on the calling thread for ever: for a host that has its own main, such as a test bundle.
  public nonisolated static func runForever() -> Never {
    creactor_ignore_sigpipe()
    shared.executor.run()
    fatalError("the event loop ended")
  }

  nonisolated static var loop: OpaquePointer { shared.executor.loop }
}
