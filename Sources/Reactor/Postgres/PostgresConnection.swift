// One open connection to PostgreSQL: sends statements, reads their results, and recovers after an interruption.
// Invariant: a caller is released at once at its deadline or cancellation; the connection takes its next statement only
// when PostgresConnectionState allows it. Used through PostgresPool or on its own.

import CReactor

/// One open connection to PostgreSQL, for one caller at a time.
///
/// It is always in libpq's pipeline mode, so one statement and many take the same path and one round trip.
@EventLoop
public final class PostgresConnection {
  /// How long a connection may take to become clean after an interruption before it is closed.
  static let cleanUpLimit = Duration.seconds(3)

  /// The server knows no prepared statement of that name (invalid_sql_statement_name), or a table has changed so that
  /// it is no longer usable (feature_not_supported).
  private static let lostStatementStates = ["26000", "0A000"]

  private static var lastNumber: UInt64 = 0

  /// Unique in the process.
  public let number: UInt64
  /// The first statements of every pipeline that opens a transaction: they make it read committed, with the URL's
  /// settings, whatever the session, the role and the database have. Their results come first.
  public internal(set) var prelude: [PostgresStatement] = [PostgresServerSettings.isolation]
  /// State that a caller keeps with this connection, for as long as it is open.
  public var attachment: (any Sendable)?

  /// What it reports to its owner.
  enum Event {
    /// The server answered these statements.
    case answered([PostgresStatement])
    /// It refused to write anything: it is a standby, or its transactions are read-only by default.
    case refusedToWrite
    /// It did not answer before the caller's deadline.
    case overdue
    /// It can be used again after an interruption: the server has answered these statements.
    case clean([PostgresStatement])
    /// It ended, with these statements unanswered; none if it was idle. The error says why.
    case closed(unanswered: [PostgresStatement], PostgresError)
  }
  var observer: (@EventLoop (PostgresConnection, Event) -> Void)?

  let candidate: [PostgresParameter]
  /// The session's identity, for cancel requests; nil until the session is set up.
  var identity: PostgresBackendIdentity?
  /// Whether its identity and prelude are known. Before that it can only be used to ping the server.
  var isSetUp = false
  /// Whether the server's last answer was that it cannot be written to.
  var isReadOnly = false
  /// When it last answered.
  var answeredAt = MonotonicInstant(nanoseconds: 0)
  private(set) var connection: OpaquePointer?
  private(set) var state = PostgresConnectionState()
  private let canceller: PostgresCanceller?
  private var watcher: IOWatcher?
  private let clock: LoopClock
  private var timer: TimerWatcher?
  private var flight: Flight?
  private var flightNumber: UInt64 = 0
  /// Whether the server received a cancel request and has answered neither that nor the statements.
  private var isCancelUnanswered = false
  private var parameters = PostgresParameterBuffer()
  private var prepared = PreparedStatements()

  typealias Completion = @EventLoop (Result<[PostgresResult], any Error>) -> Void

  /// The pipeline in flight: its statements, and the results so far.
  private struct Flight {
    let statements: [PostgresStatement]
    var count: Int { statements.count }
    var index = 0
    /// The statements that are being prepared: the server answers their preparation first.
    var preparations: [Int] = []
    /// The index of the statement that applies the URL's settings.
    var settingsIndex: Int?
    var isPreparing: Bool { preparations.first == index }
    var results: [PostgresResult] = []
    var error: PostgresError?
    /// Whether the commit failed, which the server reports like the failure of one more statement.
    var isEndRefused = false
    var isOver: Bool { index > (isEndRefused ? count + 1 : count) }
    var completion: Completion?
  }

  /// Takes over `connection`, which is connected. Without a canceller, it is closed if its caller leaves early.
  init(
    _ connection: OpaquePointer, candidate: [PostgresParameter], clock: LoopClock, canceller: PostgresCanceller?
  ) {
    Self.lastNumber += 1
    number = Self.lastNumber
    self.connection = connection
    self.candidate = candidate
    self.clock = clock
    self.canceller = canceller
    PQsetnonblocking(connection, 1)
    PQenterPipelineMode(connection)
    watcher = IOWatcher { [weak self] _ in self?.advance() }
    timer = TimerWatcher(clock) { [weak self] in self?.timerFired() }
    watch()
  }

  isolated deinit {
    close()
  }

  /// The server's process as named by the protocol.
  public var backendPID: Int32 {
    connection.map { PQbackendPID($0) } ?? 0
  }

  /// The server's version in libpq's form: 170002 is 17.2.
  public var serverVersion: Int {
    connection.map { Int(PQserverVersion($0)) } ?? 0
  }

  /// Whether it is open, idle and not in a transaction.
  var isClean: Bool {
    guard state.phase == .idle, let connection else { return false }
    return PQstatus(connection) == CONNECTION_OK && PQtransactionStatus(connection) == PQTRANS_IDLE
  }

  /// The same, and checks the socket for a peer that has closed it meanwhile.
  var isReusable: Bool {
    guard isClean, let connection else { return false }
    creactor_clear_tls_errors()
    if PQconsumeInput(connection) == 0 || PQstatus(connection) != CONNECTION_OK {
      close()
      return false
    }
    return PQtransactionStatus(connection) == PQTRANS_IDLE
  }

  /// Runs one statement, in a transaction of its own.
  ///
  /// - Throws: `PostgresError`; `CancellationError` as soon as the task is cancelled, and the statement is cancelled on
  ///   the server.
  public func query(_ statement: PostgresStatement, by deadline: MonotonicInstant) async throws -> PostgresResult {
    try await pipeline([statement], by: deadline)[0]
  }

  /// Runs statements in one round trip and one implicit transaction. If one fails, none takes effect, and the
  /// connection can be used again.
  ///
  /// - Returns: a result for each statement.
  /// - Throws: as `query`. `PostgresError.server` has the index of the statement that failed, or their number if the
  ///   commit failed (a deferred constraint).
  public func pipeline(_ statements: [PostgresStatement], by deadline: MonotonicInstant) async throws
    -> [PostgresResult]
  {
    try Task.checkCancellation()
    guard !statements.isEmpty else { return [] }
    let flight = flightNumber + 1
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        start(statements, by: deadline) { continuation.resume(with: $0) }
      }
    } onCancel: {
      EventLoop.perform { self.abandon(flight) }
    }
  }

  /// Sends statements and calls `completion` once, with the results or an error.
  func start(_ statements: [PostgresStatement], by deadline: MonotonicInstant, completion: @escaping Completion) {
    guard let connection, state.phase != .closed else {
      return completion(.failure(PostgresError.connectionLost(reason: "connection closed")))
    }
    for statement in statements {
      if let fault = statement.fault { return completion(.failure(fault)) }
    }
    guard state.began() else { return completion(.failure(PostgresError.busy)) }
    creactor_clear_tls_errors()
    flightNumber += 1
    flight = Flight(statements: statements, completion: completion)
    if let settings = prelude.last, !settings.parameters.isEmpty {
      flight?.settingsIndex = statements.firstIndex { $0.sql == settings.sql }
    }
    do throws(PostgresError) {
      for (index, statement) in statements.enumerated() { try send(statement, index, on: connection) }
      guard PQpipelineSync(connection) == 1 else { throw loss(of: connection) }
    } catch {
      // Part of the pipeline may already be in libpq's buffer, so the connection is no longer usable.
      return end(with: error)
    }
    timer?.start(at: deadline)
    watch()
  }

  private func send(_ statement: PostgresStatement, _ index: Int, on connection: OpaquePointer) throws(PostgresError) {
    let name = statement.isPrepared ? try preparedName(of: statement.sql, index, on: connection) : nil
    let isSent = parameters.with(statement.parameters) { count, values in
      if let name { return PQsendQueryPrepared(connection, name, count, values, nil, nil, 0) }
      return PQsendQueryParams(connection, statement.sql, count, nil, values, nil, nil, 0)
    }
    guard isSent == 1 else { throw loss(of: connection) }
  }

  /// The statement's name on the server; prepares it if it is new. Nil behind a pooler, where the next pipeline may
  /// reach another session, and if too many are prepared.
  private func preparedName(
    of text: String, _ index: Int, on connection: OpaquePointer
  ) throws(PostgresError) -> String? {
    guard identity != nil else { return nil }
    if let name = prepared.name(of: text) { return name }
    guard let name = prepared.add(text) else { return nil }
    guard PQsendPrepare(connection, name, text, 0, nil) == 1 else { throw loss(of: connection) }
    flight?.preparations.append(index)
    return name
  }

  /// Releases the caller of `flight` if it still waits.
  private func abandon(_ number: UInt64, with error: any Error = CancellationError()) {
    guard number == flightNumber else { return }
    let action = state.abandoned()
    guard action != .nothing else { return }
    let completion = flight?.completion.take()
    timer?.start(at: clock.now.advanced(by: Self.cleanUpLimit))
    perform(action)
    completion?(.failure(error))
  }

  /// Reports how an attempt to cancel the current statement ended. Called by the canceller.
  func cancelEnded(_ outcome: PostgresConnectionState.CancelOutcome) {
    perform(state.cancelEnded(outcome))
  }

  /// Closes the socket at once, whatever is in flight. Never waits for the server.
  public func close() {
    perform(state.closed())
  }

  private func perform(_ action: PostgresConnectionState.Action) {
    switch action {
    case .nothing: break
    case .deliver: deliver()
    case .requestCancel:
      if let canceller { canceller.request(for: self) } else { close() }
    case .withdrawCancel:
      if canceller?.withdraw(self) ?? true { cancelEnded(.notSent) }
    case .reportClean:
      timer?.stop()
      guard let flight = flight.take() else { preconditionFailure("nothing was sent that could be cleaned up") }
      observer?(self, .clean(flight.statements))
    case .close: finish(PostgresError.connectionLost(reason: "connection closed"))
    }
  }

  private func deliver() {
    timer?.stop()
    guard let flight else { preconditionFailure("an answer to statements that were not sent") }
    // Callers expect a result for each statement.
    guard flight.error != nil || flight.results.count == flight.count else { return end(with: Self.nonsense) }
    self.flight = nil
    if flight.error?.isReadOnly ?? false { isReadOnly = true }
    observer?(self, isReadOnly ? .refusedToWrite : .answered(flight.statements))
    if let error = flight.error {
      flight.completion?(.failure(error))
    } else {
      flight.completion?(.success(flight.results))
    }
  }

  private func timerFired() {
    if state.phase == .running {
      observer?(self, .overdue)
      abandon(flightNumber, with: PostgresError.timedOut(.statement))
    } else {
      isCancelUnanswered = state.phase == .cancelled
      perform(state.limitReached())
    }
  }

  /// Ends the pipeline because the connection failed.
  private func end(with error: PostgresError) {
    guard state.closed() == .close else { return }
    finish(error)
  }

  /// Closes the socket. Sending Terminate does not block, because the connection is non-blocking.
  private func finish(_ error: PostgresError) {
    let flight = flight.take()
    // Its caller was released.
    let hasLeft = flight.map { $0.completion == nil } ?? false
    watcher?.stop()
    timer?.stop()
    watcher = nil
    timer = nil
    _ = canceller?.withdraw(self)
    if let connection { PQfinish(connection) }
    // Errors that libpq left in OpenSSL's queue would be reported to the next user of TLS.
    creactor_clear_tls_errors()
    connection = nil
    attachment = nil
    let observer = observer.take()
    flight?.completion?(.failure(error))
    // If no cancel request was received, nothing is known about statements whose caller has left.
    let isLoss = isCancelUnanswered || !hasLeft
    observer?(
      self, .closed(unanswered: isLoss ? flight?.statements ?? [] : [], hasLeft ? .timedOut(.statement) : error))
  }

  // MARK: - The socket

  private func advance() {
    guard let connection else { return }
    repeat {
      creactor_clear_tls_errors()
      let isLost = PQconsumeInput(connection) == 0
      guard readResults(of: connection) else { return }
      dropNotifications(of: connection)
      if isLost || PQstatus(connection) != CONNECTION_OK { return end(with: loss(of: connection)) }
    } while hasHiddenInput(connection)
    watch()
  }

  /// A pooler's session may listen for another client. libpq keeps notifications until they are read.
  private func dropNotifications(of connection: OpaquePointer) {
    while let notification = PQnotifies(connection) { PQfreemem(notification) }
  }

  /// Whether TLS holds bytes that libpq has not read, because a record is larger than libpq's buffer. The socket does
  /// not become readable for them.
  private func hasHiddenInput(_ connection: OpaquePointer) -> Bool {
    guard self.connection != nil, let session = PQgetssl(connection) else { return false }
    return SSL_pending(OpaquePointer(session)) > 0
  }

  /// Sends what is buffered. Watches for input, and for room to write if not everything could be sent.
  private func watch() {
    guard let connection else { return }
    creactor_clear_tls_errors()
    let flushed = PQflush(connection)
    if flushed < 0 { return end(with: loss(of: connection)) }
    watcher?.watch(PQsocket(connection), for: flushed == 0 ? .read : [.read, .write])
  }

  /// Reads what has arrived. Returns false if that closed the connection.
  private func readResults(of connection: OpaquePointer) -> Bool {
    // For a lost connection libpq returns what had arrived and does not wait for more.
    while flight != nil, PQstatus(connection) == CONNECTION_BAD || PQisBusy(connection) == 0 {
      guard let result = PQgetResult(connection) else {
        // The end of a statement's results. After the last one comes the sync, or nothing.
        if flight!.isPreparing { flight!.preparations.removeFirst() } else { flight!.index += 1 }
        if PQstatus(connection) != CONNECTION_OK || flight!.isOver { return true }
        continue
      }
      switch PQresultStatus(result) {
      case PGRES_COMMAND_OK where flight!.isPreparing:
        PQclear(result)
        prepared.confirmed()
      case PGRES_TUPLES_OK, PGRES_COMMAND_OK, PGRES_EMPTY_QUERY:
        flight?.results.append(PostgresResult(result))
      case PGRES_PIPELINE_SYNC:
        PQclear(result)
        prepared.pipelineEnded()
        perform(state.synced())
        return self.connection != nil
      case PGRES_PIPELINE_ABORTED:
        PQclear(result)
      case PGRES_FATAL_ERROR:
        let error = serverError(result, statement: flight?.index ?? 0)
        if let error, let state = error.sqlState, !error.isRaised, Self.lostStatementStates.contains(state) {
          prepared.lost()
        }
        if flight?.error == nil { flight?.error = error }
        if flight?.index == flight?.count { flight?.isEndRefused = true }
        PQclear(result)
      default:
        // A COPY, which is not supported: libpq would return this result forever.
        PQclear(result)
        end(with: Self.nonsense)
        return false
      }
    }
    return true
  }

  /// The primary message, the SQLSTATE and the object; nil if the error is libpq's own.
  private func serverError(_ result: OpaquePointer, statement: Int) -> PostgresError? {
    func field(_ code: Character) -> String? {
      PQresultErrorField(result, Int32(code.asciiValue!)).map { String(cString: $0) }
    }
    guard let state = field("C") else { return nil }
    let message = field("M") ?? ""
    var place = PostgresErrorPlace(
      schema: field("s"), table: field("t"), column: field("c"), constraint: field("n") ?? field("d"))
    let sourceFunction = field("R") ?? ""
    place.isRaised = PostgresErrorPlace.isRaised(sourceFunction: sourceFunction)
    place.isPublication = sourceFunction == PostgresErrorPlace.publicationCheck
    place.object = PostgresErrorPlace.object(inMessage: message, sourceFunction: sourceFunction)
    if state == PostgresError.lockState {
      place.object = field("W").flatMap(PostgresErrorPlace.lockedRelation(inContext:))
    }
    if statement == flight?.settingsIndex {
      place.object = prelude.last?.setting(namedIn: message).map { "setting \($0)" }
    }
    return .server(sqlState: state, message: message, statement: statement, place: place)
  }

  /// The server violates the protocol.
  private static let nonsense = PostgresError.connectionLost(reason: "not the PostgreSQL protocol")

  /// How the connection was lost, with the server's last error if it sent one.
  private func loss(of connection: OpaquePointer) -> PostgresError {
    if case .server(let state, let message, _, _)? = flight?.error {
      return .connectionLost(reason: message, sqlState: state)
    }
    let text = PQerrorMessage(connection).map { String(cString: $0) } ?? ""
    let reason = PostgresError.reason(inClientText: text, hiding: candidate.secrets)
    return .connectionLost(reason: reason.text, sqlState: reason.sqlState)
  }
}
