// A time limit for any awaited operation. Invariant: when it returns, the operation has ended.

/// The operation did not end in time and was cancelled.
public struct DeadlineExceeded: Error, Equatable {
  public init() {}
}

/// Runs `operation` and cancels it at `deadline`.
///
/// The operation must respond to cancellation, because this waits for it to end.
///
/// - Throws: `DeadlineExceeded` if the deadline came first, otherwise what `operation` throws.
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
/// - Throws: `DeadlineExceeded` if the limit came first, otherwise what `operation` throws.
@EventLoop
public func withDeadline<Value: Sendable>(
  after limit: Duration, on clock: LoopClock,
  _ operation: @escaping @EventLoop @Sendable () async throws -> Value
) async throws -> Value {
  try await withDeadline(clock.now.advanced(by: limit), on: clock, operation)
}
