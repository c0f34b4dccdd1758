// Pending answers: what is needed to send one later, and the queue from connections to the server's `run`.
// Invariant: at most one per connection, so connections bound their number. Used by HTTPServer.

/// How to answer a request that is no longer in the input by then.
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

/// A queue from callbacks to a single consumer task.
@EventLoop
final class HTTPInbox<Element: Sendable> {
  private var elements: [Element] = []
  private let wakeUp = WakeUp()
  private(set) var isFinished = false

  nonisolated init() {}

  /// Appends an element. The queue must not be finished.
  func put(_ element: Element) {
    precondition(!isFinished, "a finished queue takes nothing more")
    elements.append(element)
    wakeUp.fire()
  }

  /// Closes the queue.
  func finish() {
    isFinished = true
    elements = []
    wakeUp.fire()
  }

  /// Waits for an element; nil after `finish()` or in a cancelled task.
  func next() async -> Element? {
    await withTaskCancellationHandler {
      while elements.isEmpty, !isFinished { await wakeUp.waitThroughCancellation() }
    } onCancel: {
      EventLoop.perform { self.finish() }
    }
    return elements.isEmpty ? nil : elements.removeFirst()
  }
}
