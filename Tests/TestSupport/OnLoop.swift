// Runs a test's body on the event loop, which has a thread of its own in a test bundle.
// Invariant: a wait in a test is for a condition, with a deadline; no test sleeps and hopes.

import Foundation
import Reactor

private let startLoopThread: Void = Thread { EventLoop.runForever() }.start()

/// Runs `body` on the loop, as the worker's root task runs, and returns what it returns.
public func onLoop<Value: Sendable>(
  _ body: @escaping @EventLoop @Sendable () async throws -> Value
) async throws -> Value {
  _ = startLoopThread
  return try await Task(executorPreference: EventLoop.taskExecutor, operation: { @Sendable in try await body() }).value
}

/// The condition of `eventually` did not come true in time.
public struct NeverHappened: Error, CustomStringConvertible {
  public let description: String
}

/// Waits until `condition` holds, asking every few milliseconds.
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
