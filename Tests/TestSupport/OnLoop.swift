// Runs a test's body on the event loop, which has its own thread in a test bundle.
// Invariant: a test waits for a condition with a deadline, never for a fixed time.

import Foundation
import Reactor

private let startLoopThread: Void = Thread { EventLoop.runForever() }.start()

/// Runs `body` on the loop, like the worker's root task, and returns its result.
public func onLoop<Value: Sendable>(
  _ body: @escaping @EventLoop @Sendable () async throws -> Value
) async throws -> Value {
  _ = startLoopThread
  return try await Task(executorPreference: EventLoop.taskExecutor, operation: { @Sendable in try await body() }).value
}

/// The condition of `eventually` did not become true in time.
public struct NeverHappened: Error, CustomStringConvertible {
  public let description: String
}

/// Waits until `condition` holds, checking every few milliseconds.
///
/// - Throws: `NeverHappened` after `limit`.
@EventLoop
public func eventually(
  _ what: String, within limit: Duration = .seconds(10), _ condition: @EventLoop () async throws -> Bool
) async throws {
  let deadline = LoopClock.system.now.advanced(by: limit)
  while try await !condition() {
    if LoopClock.system.now >= deadline { throw NeverHappened(description: "not within \(limit): \(what)") }
    try await LoopClock.system.sleep(for: .milliseconds(5))
  }
}
