// Blocking work in tests: on a thread of its own, awaited from the loop, which every suite shares and nobody may block.

import Foundation
import Synchronization

/// Runs `body`, which may block, on a thread of its own and returns what it returns.
public func offLoop<Value: Sendable, Failure: Error>(
  _ body: @escaping @Sendable () throws(Failure) -> Value
) async throws(Failure) -> Value {
  let parcel = Parcel<Result<Value, Failure>>()
  await withCheckedContinuation { continuation in
    Thread.detachNewThread {
      parcel.put(Result(catching: body))
      continuation.resume()
    }
  }
  return try parcel.take().get()
}

/// What one thread leaves for another behind a lock, whose order the thread sanitizer sees; that of a continuation and
/// what it resumes it does not see.
final class Parcel<Content: Sendable>: Sendable {
  private let content = Mutex<Content?>(nil)

  func put(_ content: Content) {
    self.content.withLock { $0 = content }
  }

  /// What was put: the taker was told so.
  func take() -> Content {
    content.withLock { $0.take() }!
  }
}
