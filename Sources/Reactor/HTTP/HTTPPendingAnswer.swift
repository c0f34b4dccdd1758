// Answers that a handler owes: what is needed to send one later, and the queue from connections to the server's run.
// Invariant: at most one a connection, so their number is bounded by the connections'. Used by HTTPServer.

/// How to send the answer to a request that is gone from the input by then.
struct HTTPAnswerForm: Equatable, Sendable {
  var isHead: Bool
  var minorVersion: UInt8
  var keepsAlive: Bool
}

/// A handler's `.later`.
struct HTTPPendingAnswer: Sendable {
  let form: HTTPAnswerForm
  let make: @EventLoop @Sendable () async -> HTTPResponse
}

/// A queue from callbacks to the one task that takes from it.
@EventLoop
final class HTTPInbox<Element: Sendable> {
  private var elements: [Element] = []
  private var waiter: CheckedContinuation<Void, Never>?
  private(set) var isFinished = false

  nonisolated init() {}

  func put(_ element: Element) {
    guard !isFinished else { return }
    elements.append(element)
    wake()
  }

  /// Nothing is put or taken from now on.
  func finish() {
    isFinished = true
    elements = []
    wake()
  }

  /// Waits for an element; nil after `finish()`, which a cancelled caller implies.
  func next() async -> Element? {
    await withTaskCancellationHandler {
      while elements.isEmpty, !isFinished {
        await withCheckedContinuation { waiter = $0 }
      }
    } onCancel: {
      EventLoop.perform { self.finish() }
    }
    return elements.isEmpty ? nil : elements.removeFirst()
  }

  private func wake() {
    let continuation = waiter
    waiter = nil
    continuation?.resume()
  }
}
