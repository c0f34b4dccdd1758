// Blocking work in tests: runs on its own thread, awaited from the loop, which all suites share and none may block.

import Foundation
import Synchronization

/// Runs `body`, which may block, on its own thread and returns its result.
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

/// A value passed between threads under a lock, an ordering that the thread sanitizer sees, unlike that of a
/// continuation.
final class Parcel<Content: Sendable>: Sendable {
  private let content = Mutex<Content?>(nil)

  func put(_ content: Content) {
    self.content.withLock { $0 = content }
  }

  /// Returns the stored value; call only after it was put.
  func take() -> Content {
    content.withLock { $0.take() }!
  }
}
