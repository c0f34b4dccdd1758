// The states of one connection, as a pure struct: what it waits for, and what follows once its answers are written.
// Invariant: it reads only while nothing waits to be written and no answer is pending; after its last answer it takes
// no further request. Driven by HTTPConnection.

/// What a connection waits for. Each state has its own time limit and list.
enum HTTPConnectionState: Int, CaseIterable {
  /// The next request's first byte. The oldest of these is closed first if connections run out.
  case idle
  /// The rest of a request.
  case receiving
  /// The handler's later answer. No limit here: the handler limits its own waits.
  case answering
  /// The peer to read its answers.
  case writing
  /// The peer's close after the last answer: closing with unread bytes would reset the connection and lose that answer.
  case lingering
  /// The peer's close after a last answer that it has not read yet.
  case flushing
  /// Nothing; it is in no list.
  case closed
}

/// The states of one connection.
///
///     idle, receiving ── bytes, parsed and answered ──▶ written ─────────────▶ next
///                                                          │ in part           ▲
///                                                          ▼                   │
///                                                       writing ── the rest ───┘
///
///     next: receive ──▶ idle, or receiving if a part of a request is kept
///           parse   ──▶ the kept requests are parsed and answered, as above
///           answer  ──▶ answering ── answered ──▶ written, as above
///           linger  ──▶ lingering, or flushing if the peer has much to read
///           close   ──▶ closed, or flushing if the peer has much to read
///
///     receiving: limit reached ──▶ 408, then linger
///     idle, writing, lingering, flushing: limit reached ──▶ closed
///     any: the connection breaks, or its peer or its server closes it ──▶ closed
struct HTTPConnectionStateMachine {
  /// What to do after the gathered answers are written.
  enum Next {
    /// Wait for bytes: the kept ones are not a whole request.
    case receive
    /// Parse the kept bytes, which may contain requests.
    case parse
    /// Run the handler's later answer.
    case answer
    /// The last answer was sent before all of its peer's bytes were read.
    case linger
    /// The last answer was sent, and nothing is left to read.
    case close
  }

  /// How much of the gathered answers the kernel took.
  enum Written {
    case all, part
    /// The connection is broken.
    case failed
  }

  enum Action: Equatable {
    /// Wait for what the state says; its time limit begins now.
    case wait
    /// Wait for what the state says; its time limit has begun already.
    case keepWaiting
    /// Parse the kept bytes.
    case parse
    /// Wait for the handler's later answer.
    case handOver
    /// The last answer is sent: continue with `end`.
    case end(mayClose: Bool)
    /// Shut down the sending side and wait for the peer to close.
    case shutDown
    /// Answer 408, then linger.
    case refuse
    case close
  }

  private(set) var state = HTTPConnectionState.idle
  private var afterWriting = Next.receive

  /// The gathered answers were written, or there were none.
  ///
  /// - Parameters:
  ///   - isPartKept: whether bytes of an incomplete request are kept.
  ///   - completedAny: whether a whole request was among the bytes that were parsed last.
  ///   - isDraining: whether the server takes no further requests.
  mutating func wrote(
    _ written: Written, then next: Next, isPartKept: Bool, completedAny: Bool, isDraining: Bool
  ) -> Action {
    switch state {
    case .idle, .receiving, .answering, .writing: break
    case .lingering, .flushing, .closed: preconditionFailure("nothing is written after the last answer")
    }
    switch written {
    case .all: return go(on: next, isPartKept: isPartKept, completedAny: completedAny, isDraining: isDraining)
    case .part:
      afterWriting = next
      state = .writing
      return .wait
    case .failed: return .close
    }
  }

  /// The kernel took more of what had been written in part.
  mutating func wroteRest(_ written: Written, isPartKept: Bool, isDraining: Bool) -> Action {
    precondition(state == .writing, "only a connection that is writing has a rest to write")
    switch written {
    case .all: return go(on: afterWriting, isPartKept: isPartKept, completedAny: true, isDraining: isDraining)
    case .part: return .keepWaiting
    case .failed: return .close
    }
  }

  private mutating func go(on next: Next, isPartKept: Bool, completedAny: Bool, isDraining: Bool) -> Action {
    switch next {
    case .receive:
      if !isPartKept {
        if isDraining { return .close }
        state = .idle
        return .wait
      }
      // The limit is for a whole request: further bytes of one do not extend it.
      if state == .receiving, !completedAny { return .keepWaiting }
      state = .receiving
      return .wait
    case .parse: return .parse
    case .answer:
      state = .answering
      return .handOver
    case .linger: return .end(mayClose: false)
    case .close: return .end(mayClose: true)
    }
  }

  /// Ends the connection after its last answer.
  ///
  /// - Parameters:
  ///   - mayClose: as in the action.
  ///   - isMuchUnread: whether the kernel buffers much that the peer has not read.
  mutating func end(mayClose: Bool, isMuchUnread: Bool) -> Action {
    if mayClose, !isMuchUnread { return .close }
    state = isMuchUnread ? .flushing : .lingering
    return .shutDown
  }

  /// The handler's later answer has come.
  func answered() {
    // No limit, eviction or event ends a connection that waits for its handler.
    precondition(state == .answering, "an answer that no request waits for")
  }

  /// The time limit of the state has passed.
  func limitReached() -> Action {
    switch state {
    case .receiving: return .refuse
    case .idle, .writing, .lingering, .flushing: return .close
    case .answering, .closed: preconditionFailure("a state without a time limit")
    }
  }

  /// The connection is closed.
  mutating func closed() {
    precondition(state != .closed, "a connection is closed once")
    state = .closed
  }
}
