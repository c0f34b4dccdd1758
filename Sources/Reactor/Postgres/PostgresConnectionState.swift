// The states of one open connection. Invariant: a connection is reported clean only when the server has answered all
// that was sent and no cancellation can still arrive. Pure: PostgresConnection tells it what happened and does what
// it says.

/// The states of one open connection.
///
///              began                    synced: deliver
///     idle ─────────────▶ running ─────────────────────────▶ idle
///                            │
///                            │ abandoned (deadline, task cancelled): the caller is released, askCancel
///                            ▼
///                        draining ── synced ──▶ answered ──┐
///                            │                             │ cancel settled: clean ──▶ idle
///                            │ cancel concluded            │
///                            ▼                             │
///                        cancelled ── synced: clean ───────┴──▶ idle
///
///     draining, cancelled, answered: limit reached, or it is unknown whether the cancellation was sent ──▶ closed
///     any: lost or closed by its owner ──▶ closed
///
/// A cancellation that is still on its way when the statement has ended would hit the next one: therefore `answered`.
struct PostgresConnectionState: Equatable {
  enum Phase: Equatable {
    case idle, running, draining, answered, cancelled, closed
  }

  /// How the attempt to cancel on the server ended.
  enum CancelOutcome: Equatable {
    /// The server has been told, or has nothing left to be told: no signal comes after this.
    case concluded
    /// The request was never sent.
    case notSent
    /// It may have been sent, and may still arrive.
    case unknown
  }

  enum Action: Equatable {
    case nothing
    /// Give the results to the caller.
    case deliver
    /// Have the statement cancelled on the server; report the outcome with `cancelSettled`.
    case askCancel
    /// The statement ended by itself: take the request back if it has not been sent, and report with `cancelSettled`.
    case withdrawCancel
    /// The connection can be used again.
    case reportClean
    /// Close the socket.
    case close
  }

  private(set) var phase = Phase.idle

  /// Statements are sent now. False where the connection cannot take any.
  mutating func began() -> Bool {
    guard phase == .idle else { return false }
    phase = .running
    return true
  }

  /// The caller left before the answer came.
  mutating func abandoned() -> Action {
    guard phase == .running else { return .nothing }
    phase = .draining
    return .askCancel
  }

  /// The server answered everything that was sent.
  mutating func synced() -> Action {
    switch phase {
    case .running:
      phase = .idle
      return .deliver
    case .draining:
      phase = .answered
      return .withdrawCancel
    case .cancelled:
      phase = .idle
      return .reportClean
    case .idle, .answered, .closed:
      return .nothing
    }
  }

  mutating func cancelSettled(_ outcome: CancelOutcome) -> Action {
    switch (phase, outcome) {
    case (.draining, .concluded):
      phase = .cancelled
      return .nothing
    case (.answered, .concluded), (.answered, .notSent):
      phase = .idle
      return .reportClean
    case (.draining, .notSent), (.draining, .unknown), (.answered, .unknown):
      return closed()
    case (.idle, _), (.running, _), (.cancelled, _), (.closed, _):
      return .nothing
    }
  }

  /// The time for getting clean is over.
  mutating func limitReached() -> Action {
    switch phase {
    case .draining, .answered, .cancelled: closed()
    case .idle, .running, .closed: .nothing
    }
  }

  /// The connection was lost, or its owner wants it closed.
  mutating func closed() -> Action {
    guard phase != .closed else { return .nothing }
    phase = .closed
    return .close
  }
}
