// Cancels statements on the server, one request at a time. Invariant: each request ends exactly once, and at most one
// connection is open for it. Used by connections whose caller has left.

import CReactor

/// Identifies a session on its server. Process IDs are reused, so it holds enough to never cancel another session.
struct PostgresBackendIdentity: Sendable {
  var processID: String
  /// In µs since 1970. An integer, because no session setting affects its format.
  var startedAt: String

  /// When a session began, from a row that has `backend_start`.
  static let microseconds =
    "pg_catalog.int8(extract(epoch FROM backend_start) OPERATOR(pg_catalog.*) 1000000::pg_catalog.int4)"
}

/// Cancels statements on the server: from libpq 17 by libpq's non-blocking request; before that by `pg_cancel_backend`
/// over a connection of its own, because `PQcancel` blocks.
@EventLoop
final class PostgresCanceller {
  /// The time limit of a request. Less than `PostgresConnection.cleanUpLimit`.
  static let attemptLimit = Duration.seconds(2)
  /// Whether the libpq in use cancels without blocking. The session's secret key then identifies the session.
  nonisolated static var isByProtocol: Bool { creactor_has_cancel() == 1 }

  /// At most one per connection.
  private var waiting: [PostgresConnection] = []
  private var current: (target: PostgresConnection, attempt: any PostgresCancelAttempt)?

  private let clock: LoopClock

  nonisolated init(clock: LoopClock) {
    self.clock = clock
  }

  /// Whether it has nothing to do.
  var isIdle: Bool { current == nil && waiting.isEmpty }

  func request(for target: PostgresConnection) {
    waiting.append(target)
    next()
  }

  /// Withdraws a request. Returns false if it has been sent, so that its outcome will be reported, or does not exist.
  func withdraw(_ target: PostgresConnection) -> Bool {
    if let index = waiting.firstIndex(where: { $0 === target }) {
      waiting.remove(at: index)
      return true
    }
    guard let current, current.target === target, !current.attempt.isSent else { return false }
    self.current = nil
    current.attempt.abandon()
    next()
    return true
  }

  private func next() {
    guard current == nil, !waiting.isEmpty else { return }
    let target = waiting.removeFirst()
    let deadline = clock.now.advanced(by: Self.attemptLimit)
    let attempt: any PostgresCancelAttempt =
      Self.isByProtocol
      ? PostgresCancelRequest(target, by: deadline, on: clock)
      : PostgresCancelStatement(target, by: deadline, on: clock)
    current = (target, attempt)
    attempt.begin { [weak self, weak target] outcome in
      guard let target else { return }
      if let self, self.current?.target === target { self.current = nil }
      target.cancelEnded(outcome)
      self?.next()
    }
  }
}

/// One attempt to cancel one statement. Reports once, or never if abandoned.
@EventLoop
protocol PostgresCancelAttempt: AnyObject {
  /// Whether the server may have received it.
  var isSent: Bool { get }
  func begin(_ report: @escaping @EventLoop (PostgresConnectionState.CancelOutcome) -> Void)
  func abandon()
}

/// Before libpq 17: `pg_cancel_backend` over another connection to the same address.
@EventLoop
private final class PostgresCancelStatement: PostgresCancelAttempt {
  private static let sql = """
    SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE pid OPERATOR(pg_catalog.=) $1::pg_catalog.int4
      AND \(PostgresBackendIdentity.microseconds) OPERATOR(pg_catalog.=) $2::pg_catalog.int8
      AND usename OPERATOR(pg_catalog.=) session_user
    """

  private let deadline: MonotonicInstant
  private let clock: LoopClock
  private let candidate: [PostgresParameter]
  private let statement: PostgresStatement?
  private var handshake: PostgresHandshake?
  private var connection: PostgresConnection?
  private var report: (@EventLoop (PostgresConnectionState.CancelOutcome) -> Void)?
  private(set) var isSent = false

  init(_ target: PostgresConnection, by deadline: MonotonicInstant, on clock: LoopClock) {
    self.deadline = deadline
    self.clock = clock
    candidate = target.candidate
    // A session's process ID and start identify it. Its application_name does not: a transaction may set its own, and
    // the server reports that only after the transaction.
    statement = target.identity.map { PostgresStatement(Self.sql, [$0.processID, $0.startedAt]) }
  }

  func begin(_ report: @escaping @EventLoop (PostgresConnectionState.CancelOutcome) -> Void) {
    self.report = report
    guard let statement else { return end(.notSent) }
    handshake = PostgresHandshake(candidate, by: .init(deadline, among: 1, at: clock.now), on: clock) {
      [weak self] result in
      switch result {
      case .success(let pointer): self?.send(statement, on: pointer)
      case .failure: self?.end(.notSent)
      }
    }
  }

  private func send(_ statement: PostgresStatement, on pointer: OpaquePointer) {
    handshake = nil
    let connection = PostgresConnection(pointer, candidate: candidate, clock: clock, canceller: nil)
    self.connection = connection
    isSent = true
    connection.start([PostgresServerSettings.isolation, PostgresServerSettings.asLogin, statement], by: deadline) {
      [weak self] result in
      switch result {
      // No row: the session has ended, or its process ID belongs to another one. No signal was sent.
      case .success(let results): self?.end(results[2].rowCount == 1 ? .concluded : .notSent)
      // The failure does not matter, because the connection is closed in any case.
      case .failure: self?.end(.unknown)
      }
    }
  }

  private func end(_ outcome: PostgresConnectionState.CancelOutcome) {
    let report = report.take()
    abandon()
    report?(outcome)
  }

  func abandon() {
    report = nil
    handshake?.abandon()
    handshake = nil
    connection?.close()
    connection = nil
  }
}

/// From libpq 17: the protocol's cancel request, on its own socket.
@EventLoop
private final class PostgresCancelRequest: PostgresCancelAttempt {
  private let deadline: MonotonicInstant
  private let clock: LoopClock
  private var request: OpaquePointer?
  private var report: (@EventLoop (PostgresConnectionState.CancelOutcome) -> Void)?
  private var watcher: IOWatcher?
  private var timer: TimerWatcher?
  private(set) var isSent = false

  init(_ target: PostgresConnection, by deadline: MonotonicInstant, on clock: LoopClock) {
    self.deadline = deadline
    self.clock = clock
    request = target.connection.flatMap { creactor_cancel_create($0) }
  }

  func begin(_ report: @escaping @EventLoop (PostgresConnectionState.CancelOutcome) -> Void) {
    self.report = report
    guard let request, creactor_cancel_start(request) == 1 else { return end(.notSent) }
    isSent = true
    let watcher = IOWatcher { [weak self] _ in self?.poll() }
    let timer = TimerWatcher(clock) { [weak self] in self?.end(.unknown) }
    self.watcher = watcher
    self.timer = timer
    timer.start(at: deadline)
    watcher.watch(creactor_cancel_socket(request), for: .write)
  }

  private func poll() {
    guard let request else { return }
    // As in PostgresHandshake, the socket may be a new one with the same descriptor.
    watcher?.stop()
    creactor_clear_tls_errors()
    switch creactor_cancel_poll(request) {
    case PGRES_POLLING_READING: watcher?.watch(creactor_cancel_socket(request), for: .read)
    case PGRES_POLLING_WRITING: watcher?.watch(creactor_cancel_socket(request), for: .write)
    case PGRES_POLLING_OK: end(.concluded)
    default: end(.unknown)
    }
  }

  private func end(_ outcome: PostgresConnectionState.CancelOutcome) {
    let report = report.take()
    abandon()
    report?(outcome)
  }

  func abandon() {
    report = nil
    watcher?.stop()
    timer?.stop()
    watcher = nil
    timer = nil
    if let request { creactor_cancel_finish(request) }
    creactor_clear_tls_errors()
    request = nil
  }
}
