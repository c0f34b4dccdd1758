// A bound on any awaited operation. Invariant: when it returns, the operation has ended; nothing is left running.

/// The operation did not end in time and was cancelled.
public struct DeadlineExceeded: Error, Equatable {
  public init() {}
}

/// Runs `operation` and cancels it at `deadline`.
///
/// The operation must answer to cancellation: what this returns or throws comes after the operation has ended.
///
/// - Throws: `DeadlineExceeded` where the deadline came first, else what `operation` throws.
@EventLoop
public func withDeadline<Value: Sendable>(
  _ deadline: MonotonicInstant, on clock: LoopClock,
  _ operation: @escaping @EventLoop @Sendable () async throws -> Value
) async throws -> Value {
  try await withThrowingTaskGroup(of: Value?.self) { group in
    group.addTask { try await operation() }
    group.addTask {
      try await clock.sleep(until: deadline)
      return nil
    }
    defer { group.cancelAll() }
    guard let first = try await group.next(), let value = first else { throw DeadlineExceeded() }
    return value
  }
}

/// Runs `operation` and cancels it after `limit`, counted from now.
///
/// - Throws: `DeadlineExceeded` where the limit came first, else what `operation` throws.
@EventLoop
public func withDeadline<Value: Sendable>(
  after limit: Duration, on clock: LoopClock,
  _ operation: @escaping @EventLoop @Sendable () async throws -> Value
) async throws -> Value {
  try await withDeadline(clock.now.advanced(by: limit), on: clock, operation)
}
