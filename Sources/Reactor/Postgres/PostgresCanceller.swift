// Has statements cancelled on the server, one request at a time. Invariant: each request is settled exactly once, and
// at most one connection is open for it. Asked by connections whose caller left.

import CReactor

/// Who a connection is on its server: enough to never cancel anybody else, for process numbers are used again.
struct PostgresBackendIdentity: Sendable {
  var processID: String
  /// In µs since 1970. A whole number, which no setting of a session writes in another way.
  var startedAt: String

  /// When a session began, of a row that has `backend_start`.
  static let microseconds =
    "pg_catalog.int8(extract(epoch FROM backend_start) OPERATOR(pg_catalog.*) 1000000::pg_catalog.int4)"
}

/// Cancels statements on the server: by libpq's own request from version 17 on, which does not block; before it by
/// `pg_cancel_backend` on a connection opened for that, for `PQcancel` blocks.
@EventLoop
final class PostgresCanceller {
  /// How long one request may take. Less than `PostgresConnection.drainLimit`.
  static let attemptLimit = Duration.seconds(2)
  /// Whether the libpq in use cancels without blocking: then the session's secret key says which one is meant.
  nonisolated static var isByProtocol: Bool { creactor_has_cancel() == 1 }

  /// Not more than there are connections, each of which asks once.
  private var waiting: [PostgresConnection] = []
  private var current: (target: PostgresConnection, attempt: any PostgresCancelAttempt)?

  private let clock: LoopClock

  nonisolated init(clock: LoopClock) {
    self.clock = clock
  }

  /// Whether it has nothing left to do.
  var isIdle: Bool { current == nil && waiting.isEmpty }

  func request(for target: PostgresConnection) {
    waiting.append(target)
    next()
  }

  /// Takes a request back. False where it has been sent, or there is none: its outcome then comes by itself.
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
      target.cancelSettled(outcome)
      self?.next()
    }
  }
}

/// One attempt to cancel one statement. Reports once, or never where it was abandoned.
@EventLoop
protocol PostgresCancelAttempt: AnyObject {
  /// Whether the server may have got it.
  var isSent: Bool { get }
  func begin(_ report: @escaping @EventLoop (PostgresConnectionState.CancelOutcome) -> Void)
  func abandon()
}

/// The way before libpq 17: `pg_cancel_backend` on another connection to the same address.
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
    // Its number and its start tell a session from any other. Its name does not: a transaction may have its own, which
    // the server reports when the transaction has ended.
    statement = target.identity.map { PostgresStatement(Self.sql, [$0.processID, $0.startedAt]) }
  }

  func begin(_ report: @escaping @EventLoop (PostgresConnectionState.CancelOutcome) -> Void) {
    self.report = report
    guard let statement else { return settle(.notSent) }
    handshake = PostgresHandshake(candidate, by: .init(deadline, among: 1, at: clock.now), on: clock) {
      [weak self] result in
      switch result {
      case .success(let pointer): self?.send(statement, on: pointer)
      case .failure: self?.settle(.notSent)
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
      // No row: it is not there any more, or not the one that was meant. Nobody was told.
      case .success(let results): self?.settle(results[2].rowCount == 1 ? .concluded : .notSent)
      // Which failure it was is of no matter: the connection that it was meant for is closed.
      case .failure: self?.settle(.unknown)
      }
    }
  }

  private func settle(_ outcome: PostgresConnectionState.CancelOutcome) {
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

/// The way from libpq 17 on: the protocol's own request, on a socket of its own.
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
    guard let request, creactor_cancel_start(request) == 1 else { return settle(.notSent) }
    isSent = true
    let watcher = IOWatcher { [weak self] _ in self?.poll() }
    let timer = TimerWatcher(clock) { [weak self] in self?.settle(.unknown) }
    self.watcher = watcher
    self.timer = timer
    timer.start(at: deadline)
    watcher.watch(creactor_cancel_socket(request), for: .write)
  }

  private func poll() {
    guard let request else { return }
    // As in PostgresHandshake: the socket can be another one under the same number.
    watcher?.stop()
    creactor_clear_tls_errors()
    switch creactor_cancel_poll(request) {
    case PGRES_POLLING_READING: watcher?.watch(creactor_cancel_socket(request), for: .read)
    case PGRES_POLLING_WRITING: watcher?.watch(creactor_cancel_socket(request), for: .write)
    case PGRES_POLLING_OK: settle(.concluded)
    default: settle(.unknown)
    }
  }

  private func settle(_ outcome: PostgresConnectionState.CancelOutcome) {
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
