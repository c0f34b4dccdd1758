// The event loop as a global actor: code marked @EventLoop runs on the loop's one thread, as the compiler proves.
// Invariant: there is one root task, whose task executor preference is the loop. Every other task is its structured
// child.

import CReactor

/// The one event loop of the process, as a global actor.
///
/// A custom serial executor alone does not keep continuations on one thread. The root task's executor preference does,
/// and only structured children inherit it (SE-0417). So a program calls `run` once and starts all other work with task
/// groups and `async let`.
@globalActor
public actor EventLoop {
  public static let shared = EventLoop()

  /// The kernel's time, by which the loop waits. Only the outermost part of a program uses it and passes it to the
  /// components that it makes.
  public nonisolated static let clock = LoopClock()

  nonisolated let executor = LoopExecutor()

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    executor.asUnownedSerialExecutor()
  }

  /// Runs `body` as the root task, with the calling thread as the loop's thread, and returns when it has ended.
  ///
  /// Called once in a process, from `main`. SIGPIPE is ignored from then on; writing to a closed peer fails instead.
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

  /// Carries the exit status from the root task to the thread that ran the loop, which is the same one.
  private final class ExitStatus: @unchecked Sendable {
    var code: Int32 = 0
  }

  /// Calls `operation` at once. Traps if the caller is not on the loop's thread; C callbacks are.
  @inline(__always)
  package nonisolated static func assumeIsolated<T>(_ operation: @EventLoop () -> T) -> T {
    shared.executor.checkIsolated()
    // Isolation was checked above, so it can be removed from a type: from that of what calls `operation`, not from that
    // of `operation` as MainActor.assumeIsolated does. That takes withoutActuallyEscaping, whose check puts the length
    // of this file's path into the program: other bytes in each checkout.
    return unsafeBitCast(call as @EventLoop (@EventLoop () -> T) -> T, to: ((@EventLoop () -> T) -> T).self)(operation)
  }

  @EventLoop private static func call<T>(_ operation: @EventLoop () -> T) -> T { operation() }

  /// Makes `operation` callable from a C callback. Like `assumeIsolated`, it traps off the loop's thread.
  nonisolated static func callable<Argument>(
    _ operation: @escaping @EventLoop (Argument) -> Void
  ) -> (Argument) -> Void {
    let unchecked = unsafeBitCast(operation, to: ((Argument) -> Void).self)
    return { argument in
      shared.executor.checkIsolated()
      unchecked(argument)
    }
  }

  /// Runs `operation` on the loop: at once if called on its thread, otherwise in its next turn. For cancellation
  /// handlers, which run on the thread that cancels.
  nonisolated static func perform(_ operation: @escaping @EventLoop @Sendable () -> Void) {
    shared.executor.perform { assumeIsolated(operation) }
  }

  /// Statistics of the loop since it started.
  @EventLoop public static var statistics: LoopStatistics {
    shared.executor.statistics
  }

  /// The preference that keeps a task and its structured children on the loop. Only a root task needs it.
  public nonisolated static var taskExecutor: any TaskExecutor {
    shared.executor
  }

  /// Runs the loop on the calling thread forever, for a host with its own main, such as a test bundle.
  public nonisolated static func runForever() -> Never {
    creactor_ignore_sigpipe()
    shared.executor.run()
    fatalError("the event loop ended")
  }

  nonisolated static var loop: OpaquePointer { shared.executor.loop }
}
