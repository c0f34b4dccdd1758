// The states of one open connection. Invariant: a connection is reported clean only when the server has answered
// everything that was sent and no cancellation can still arrive. Driven by PostgresConnection.

/// The states of one open connection.
///
///              began                    synced: deliver
///     idle ─────────────▶ running ─────────────────────────▶ idle
///                            │
///                            │ abandoned (deadline, task cancelled): the caller is released, requestCancel
///                            ▼
///                        cancelling ── synced ──▶ answered ─┐
///                            │                             │ cancel ended: clean ──▶ idle
///                            │ cancel concluded            │
///                            ▼                             │
///                        cancelled ── synced: clean ───────┴──▶ idle
///
///     cancelling, cancelled, answered: limit reached, or it is unknown whether the cancellation was sent ──▶ closed
///     any: lost or closed by its owner ──▶ closed
///
/// A cancellation that arrives after its statement has ended would cancel the next one. `answered` prevents that.
struct PostgresConnectionState: Equatable {
  enum Phase: Equatable {
    case idle, running, cancelling, answered, cancelled, closed
  }

  /// How a cancel request ended.
  enum CancelOutcome: Equatable {
    /// The server has received it, or the session has ended: no signal comes after this.
    case concluded
    /// The request was never sent.
    case notSent
    /// It may have been sent, and may still arrive.
    case unknown
  }

  enum Action: Equatable {
    case nothing
    /// Deliver the results to the caller.
    case deliver
    /// Cancel the statement on the server; report the outcome with `cancelEnded`.
    case requestCancel
    /// The statement ended by itself: withdraw the request if it has not been sent, and report with `cancelEnded`.
    case withdrawCancel
    /// The connection can be used again.
    case reportClean
    /// Close the socket.
    case close
  }

  private(set) var phase = Phase.idle

  /// Statements are being sent. Returns false if the connection cannot take any.
  mutating func began() -> Bool {
    guard phase == .idle else { return false }
    phase = .running
    return true
  }

  /// The caller left before the answer.
  mutating func abandoned() -> Action {
    switch phase {
    case .running:
      phase = .cancelling
      return .requestCancel
    // A race: the answer came, or the connection was lost, in the same turn of the loop.
    case .idle, .closed: return .nothing
    // A race: it left at its deadline already, and was cancelled in the same turn.
    case .cancelling, .answered, .cancelled: return .nothing
    }
  }

  /// The server answered everything that was sent.
  mutating func synced() -> Action {
    switch phase {
    case .running:
      phase = .idle
      return .deliver
    case .cancelling:
      phase = .answered
      return .withdrawCancel
    case .cancelled:
      phase = .idle
      return .reportClean
    // Only a server that violates the protocol answers twice.
    case .answered: return closed()
    case .idle, .closed: preconditionFailure("nothing is read without a statement in flight")
    }
  }

  mutating func cancelEnded(_ outcome: CancelOutcome) -> Action {
    switch (phase, outcome) {
    case (.cancelling, .concluded):
      phase = .cancelled
      return .nothing
    case (.answered, .concluded), (.answered, .notSent):
      phase = .idle
      return .reportClean
    case (.cancelling, .notSent), (.cancelling, .unknown), (.answered, .unknown):
      return closed()
    // A race: the connection was lost while the request was under way.
    case (.closed, _): return .nothing
    case (.idle, _), (.running, _), (.cancelled, _):
      preconditionFailure("a cancel request ends once, while its statement is being cancelled")
    }
  }

  /// The time limit for becoming clean has passed.
  mutating func limitReached() -> Action {
    switch phase {
    case .cancelling, .answered, .cancelled: closed()
    case .idle, .running, .closed: preconditionFailure("only a connection that is being cleaned has this limit")
    }
  }

  /// The connection was lost, or its owner closes it, which may close it again.
  mutating func closed() -> Action {
    guard phase != .closed else { return .nothing }
    phase = .closed
    return .close
  }
}
