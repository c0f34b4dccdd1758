// Blocking work in tests: on a thread of its own, awaited from the loop, which every suite shares and nobody may block.

import Foundation

/// Runs `body`, which may block, on a thread of its own and returns what it returns.
public func offLoop<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
  }
}
