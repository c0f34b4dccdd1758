// One attempt to connect to one address. Invariant: it ends exactly once, with a connection or an error, at its
// deadline at the latest, and never blocks. Started by PostgresConnection.

import CReactor

/// One connection attempt, driven by the socket's readiness.
///
///     begun ──▶ polling ⟲ (PQconnectPoll wants to read or write; the socket can be another one each time)
///                 ├──▶ connected
///                 └──▶ failed: libpq says so, the deadline comes, or the owner abandons it
@EventLoop
final class PostgresHandshake {
  typealias Completion = @EventLoop (Result<OpaquePointer, any Error>) -> Void

  private let parameters: [PostgresParameter]
  private var connection: OpaquePointer?
  private var completion: Completion?
  private var watcher: IOWatcher?
  private var timer: TimerWatcher?
  private let openBy: MonotonicInstant
  private var isReached = false

  /// Starts at once; `completion` is called later, never from within this call.
  init(
    _ parameters: [PostgresParameter], by limits: PostgresConnection.Limits, on clock: LoopClock,
    completion: @escaping Completion
  ) {
    self.parameters = parameters
    self.completion = completion
    openBy = limits.open
    connection = Self.start(parameters)
    let watcher = IOWatcher { [weak self] _ in self?.poll() }
    let timer = TimerWatcher(clock) { [weak self] in self?.end(.failure(PostgresError.timedOut(.connecting))) }
    self.watcher = watcher
    self.timer = timer
    if let connection, PQstatus(connection) != CONNECTION_BAD {
      creactor_drop_notices(connection)
      // All fields, to include the SQLSTATE: `PostgresError.reason(inClientText:)` takes the first line.
      PQsetErrorVerbosity(connection, PQERRORS_VERBOSE)
      watcher.watch(PQsocket(connection), for: .write)
      timer.start(at: limits.reached)
    } else {
      failure = connection.map(refusal(of:)) ?? .unavailable(reason: "out of memory")
      timer.start(at: clock.now)
    }
  }

  /// A failure before the first turn of the loop.
  private var failure: PostgresError?

  isolated deinit {
    end(.failure(CancellationError()))
  }

  /// Gives up; the completion gets a `CancellationError`.
  func abandon() {
    end(.failure(CancellationError()))
  }

  nonisolated static func start(_ parameters: [PostgresParameter]) -> OpaquePointer? {
    var names: [UnsafePointer<CChar>?] = []
    var values: [UnsafePointer<CChar>?] = []
    for parameter in parameters {
      names.append(UnsafePointer(strdup(parameter.name)))
      values.append(UnsafePointer(strdup(parameter.value)))
    }
    defer {
      for pointer in names + values { free(UnsafeMutableRawPointer(mutating: pointer)) }
    }
    return PQconnectStartParams(names + [nil], values + [nil], 0)
  }

  private func poll() {
    guard let connection else { return }
    // The step may close the socket and open another one with the same number. Stopping first makes the next watch
    // register it again.
    watcher?.stop()
    // libpq does not say why a certificate was refused, and frees the session in the step that fails.
    creactor_watch_refusals()
    creactor_clear_tls_errors()
    let step = PQconnectPoll(connection)
    if !isReached, PQstatus(connection) != CONNECTION_STARTED {
      isReached = true
      timer?.start(at: openBy)
    }
    switch step {
    case PGRES_POLLING_READING: watcher?.watch(PQsocket(connection), for: .read)
    case PGRES_POLLING_WRITING: watcher?.watch(PQsocket(connection), for: .write)
    case PGRES_POLLING_OK: end(.success(connection))
    default:
      let certificate = CertificateRefusal.reason(of: creactor_refusal())
      end(.failure(certificate.map { PostgresError.unavailable(reason: $0) } ?? refusal(of: connection)))
    }
  }

  /// Ends the attempt. A race: it can be abandoned in the turn in which it ended; the first end counts.
  private func end(_ result: Result<OpaquePointer, any Error>) {
    guard let completion else { return }
    self.completion = nil
    watcher?.stop()
    timer?.stop()
    watcher = nil
    timer = nil
    if case .failure = result, let connection { PQfinish(connection) }
    creactor_clear_tls_errors()
    connection = nil
    if let failure { completion(.failure(failure)) } else { completion(result) }
  }

  private func refusal(of connection: OpaquePointer) -> PostgresError {
    guard let text = PQerrorMessage(connection) else { return .unavailable(reason: "connection failed") }
    let reason = PostgresError.reason(inClientText: String(cString: text), hiding: parameters.secrets)
    return .unavailable(reason: reason.text, sqlState: reason.sqlState)
  }
}

/// A connection parameter for libpq.
struct PostgresParameter: Sendable, Equatable {
  var name: String
  var value: String
}

extension [PostgresParameter] {
  /// Values that must be removed from libpq's messages.
  var secrets: [String] {
    filter { PostgresParameterNames.secret.contains($0.name) }.map(\.value)
  }
}
