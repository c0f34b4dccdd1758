// The process's connections to one PostgreSQL server. Invariant: a connection comes back clean or is closed; while the
// server is healthy, the pool does nothing by itself except close expired connections. Used by sweeps and probes.

import CReactor

/// Lends connections to one caller each. They are opened on demand up to a limit, closed when unused, and replaced when
/// old.
///
/// Callers that find none free wait in order of arrival. If a caller leaves in the middle of a statement, at its
/// deadline or on cancellation, the pool cancels the statement on the server. It lends the connection again once that
/// is clean, or closes it after a bounded time.
@EventLoop
public final class PostgresPool {
  /// The pool's counters and gauges.
  public struct Statistics: Sendable, Equatable {
    /// Established connections.
    public var open = 0
    /// Connections that are not in use.
    public var idle = 0
    /// Connections whose last statement is being cancelled.
    public var cancelling = 0
    /// Callers that wait for a connection.
    public var waiting = 0
    /// Connections established since the start.
    public var connectsTotal: UInt64 = 0
    /// Failed connection attempts since the start.
    public var failedConnects: UInt64 = 0
    /// Connections since the start that ended without the pool closing them.
    public var lost: UInt64 = 0
  }

  /// The time limit of a ping.
  public nonisolated static let pingLimit = Duration.seconds(2)

  /// Called when the server becomes ready, unavailable, or unavailable for another reason: once per change, not per
  /// attempt.
  public var onStateChange: (@EventLoop (ServerAvailability) -> Void)?

  /// The time limit of the check of a connection that was not used for a while.
  private static let checkLimit = Duration.seconds(1)
  /// A connection that was used within this time is lent unchecked.
  private static let trustedFor = Duration.seconds(2)

  /// Called when the server refuses user or password. If it calls `logIn(as:)` with new ones, the connection is retried
  /// once immediately.
  public var onLoginRefused: (@EventLoop () -> Void)?

  var configuration: PostgresConfiguration
  let connectTimeout: Duration
  let clock: LoopClock
  let canceller: PostgresCanceller
  var state: PostgresPoolState
  private var connections: [PostgresPoolState.ConnectionID: PostgresConnection] = [:]
  private var waiters: [PostgresPoolState.RequestID: PostgresPoolWaiter] = [:]
  private var lastRequestID: PostgresPoolState.RequestID = 0
  /// Waiting requests that only ping the server. An answer on another connection ends them too.
  var pings: Set<PostgresPoolState.RequestID> = []
  private var counts = Statistics()
  private var expiryTimer: TimerWatcher?
  private var expiryTimerAt: MonotonicInstant?
  private var isPatient = true
  var health = PostgresHealth()
  /// Whether `run` opens the connections. Otherwise each caller opens its own while it waits.
  var isRunning = false
  /// Connections for `run` to open.
  var orders: [PostgresPoolOrder] = []
  /// Wakes `run` to open a connection or to end.
  var ordered = OneShot<Void>()
  /// Wakes the task that checks the server, when doubt begins or the pool closes.
  var doubted = OneShot<Void>()
  /// Callers that wait for a writable server.
  var writableSignals: [OneShot<Void>] = []
  private var closers: [OneShot<Void>] = []

  /// Opens nothing yet.
  ///
  /// - Parameters:
  ///   - connectionLifetime: a connection older than this is not lent any more.
  ///   - idleTimeout: unused connections are closed after this, except one, which is kept up to its lifetime.
  ///   - connectTimeout: the time limit for opening a connection, over all addresses. It continues after its caller has
  ///     left, because a caller's deadline can be shorter.
  public init(
    _ configuration: PostgresConfiguration, maximumConnections: Int, connectionLifetime: Duration,
    idleTimeout: Duration = .seconds(60), connectTimeout: Duration = .seconds(10), clock: LoopClock
  ) {
    self.configuration = configuration
    self.connectTimeout = connectTimeout
    self.clock = clock
    canceller = PostgresCanceller(clock: clock)
    state = PostgresPoolState(limit: maximumConnections, lifetime: connectionLifetime, idleTimeout: idleTimeout)
    expiryTimer = TimerWatcher(clock) { [weak self] in self?.closeExpired() }
  }

  isolated deinit {
    expiryTimer?.stop()
    for connection in connections.values { connection.close() }
  }

  public var statistics: Statistics {
    var statistics = counts
    statistics.open = state.open
    statistics.idle = state.idle
    statistics.cancelling = state.cancelling
    statistics.waiting = state.waiting
    return statistics
  }

  /// Why the server cannot be used, in words that may be shown to anyone; nil while it can.
  public var outage: String? {
    switch health.availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "not connected yet"
    }
  }

  /// Whether statements may be answered: the server is ready, or it answers pings and has lost statements.
  public var isWorthAsking: Bool { outage == nil || health.isOnTrial }

  /// Records what happened on a connection: reports a change, and wakes the task that checks the server when doubt
  /// begins.
  func note(_ event: PostgresHealth.Event) {
    switch event {
    case .accepted, .answered: for requestID in pings { leave(requestID, AnsweredElsewhere()) }
    case .refused, .pingFailed, .lost, .cancelled, .troubled: break
    }
    let wasInDoubt = health.isInDoubt
    let change = health.met(event, at: clock.now)
    if health.isInDoubt, !wasInDoubt { doubted.fire(()) }
    if change == .ready || health.isOnTrial { for signal in writableSignals { signal.fire(()) } }
    // Idle connections are to this server. A new one may reach a writable server.
    if health.isReadOnly { perform(state.closeIdle(now: clock.now)) }
    if let change, !state.isClosed { onStateChange?(change) }
  }

  /// Lends a connection to `body`; waits until `deadline` if none is free.
  ///
  /// `body` must not keep the connection. A connection that it leaves in a transaction is closed.
  ///
  /// - Throws: `PostgresError.poolExhausted` if none became free in time; `unavailable` with "connecting" if one is
  ///   still being opened; the failure to open one; what `body` throws; `CancellationError` as soon as the task is
  ///   cancelled.
  public func withConnection<Value: Sendable>(
    by deadline: MonotonicInstant, _ body: @EventLoop (PostgresConnection) async throws -> Value
  ) async throws -> Value {
    let (connectionID, connection, _) = try await take(by: deadline, for: .use)
    defer { giveBack(connectionID, connection) }
    if !connection.isSetUp { try await setUpSession(connection, by: deadline) }
    return try await body(connection)
  }

  /// Refuses new callers and closes all connections: idle ones now, lent ones when they come back.
  ///
  /// Returns when the statements that are being cancelled have ended, after a bounded time.
  public func close() async {
    perform(state.close())
    expiryTimer?.stop()
    ordered.fire(())
    doubted.fire(())
    // Cancelling has its own time limit. A cancelled task waits too, because the statement must end on the server.
    if state.cancelling > 0 {
      let closer = OneShot<Void>()
      closers.append(closer)
      _ = await closer.waitThroughCancellation()
    }
  }

  /// From now on closes connections whose last statement is being cancelled, instead of waiting for the server.
  public func waitNoLonger() {
    isPatient = false
    for (connectionID, connection) in connections where state.isCancelling(connectionID) {
      discard(connectionID, connection)
    }
  }

  // MARK: - Taking and giving back

  /// Ends a ping that waits for a connection when another connection gets an answer.
  struct AnsweredElsewhere: Error {}

  func take(
    by deadline: MonotonicInstant, for purpose: PostgresConnection.Purpose
  ) async throws -> (connectionID: PostgresPoolState.ConnectionID, connection: PostgresConnection, isNew: Bool) {
    while true {
      try Task.checkCancellation()
      let (connectionID, isNew) = try await grant(by: deadline, purpose)
      guard let connection = connections[connectionID] else { continue }
      if isNew { return (connectionID, connection, true) }
      // The server may have closed it while it was idle.
      if connection.isReusable {
        let quiet = connection.answeredAt.duration(to: clock.now)
        if quiet < Self.trustedFor { return (connectionID, connection, false) }
        if try await checkIdle(connectionID, connection, by: deadline) { return (connectionID, connection, true) }
      }
      discard(connectionID, connection)
    }
  }

  /// Checks a connection that was not used for a while, and discards it unless it answers. A NAT or firewall may have
  /// forgotten it and drop its packets silently, which is not a failure and says nothing about the server.
  ///
  /// It costs a round trip, about four times a minute in an idle worker. Sending it with the first statements would
  /// save that, but they could then arrive after the pool had given up and sent them over another connection.
  private func checkIdle(
    _ connectionID: PostgresPoolState.ConnectionID, _ connection: PostgresConnection, by deadline: MonotonicInstant
  ) async throws -> Bool {
    let observer = connection.observer.take()
    do {
      let limit = min(deadline, clock.now.advanced(by: Self.checkLimit))
      let isReadOnly = try await connection.askReadOnly(configuration, by: limit)
      connection.observer = observer
      connection.answeredAt = clock.now
      try check(isReadOnly, connection)
      note(.accepted)
      return true
    } catch {
      discard(connectionID, connection)
      if error as? PostgresError == .readOnly { throw error }
      try Task.checkCancellation()
      // The other idle connections have been unused for even longer.
      perform(state.closeIdle(now: clock.now))
      return false
    }
  }

  private func grant(
    by deadline: MonotonicInstant, _ purpose: PostgresConnection.Purpose
  ) async throws -> PostgresPoolGrant {
    // `run` may have been started but not scheduled yet.
    if !isRunning { await Task.yield() }
    lastRequestID += 1
    let requestID = lastRequestID
    let waiter = PostgresPoolWaiter()
    waiters[requestID] = waiter
    if purpose == .ping { pings.insert(requestID) }
    defer {
      waiters[requestID] = nil
      pings.remove(requestID)
    }
    perform(state.request(requestID, now: clock.now))
    waiter.expire(at: deadline, on: clock) { [weak self] in self?.expire(requestID) }
    return try await withTaskCancellationHandler {
      while true {
        if let result = waiter.result { return try result.get() }
        if let order = waiter.order.take() {
          await open(order, by: deadline)
        } else {
          await waiter.wait()
        }
      }
    } onCancel: {
      EventLoop.perform { self.leave(requestID, CancellationError()) }
    }
  }

  /// A caller's deadline has passed.
  private func expire(_ requestID: PostgresPoolState.RequestID) {
    guard state.isOpening(for: requestID) else {
      return leave(requestID, PostgresError.poolExhausted(serverLimit: state.serverLimitReason))
    }
    // A known outage says more than "connecting".
    var reason = "connecting"
    if case .unavailable(let known)? = health.availability { reason = known }
    leave(requestID, PostgresError.unavailable(reason: reason))
  }

  private func leave(_ requestID: PostgresPoolState.RequestID, _ error: any Error) {
    if state.leaveQueue(requestID) { waiters[requestID]?.end(.failure(error)) }
  }

  func open(_ order: PostgresPoolOrder, by deadline: MonotonicInstant) async {
    let connectionID = order.connectionID
    do {
      let connection = try await connect(for: order.purpose, by: deadline)
      if state.isClosed {
        connection.close()
        throw PostgresError.poolClosed
      }
      counts.connectsTotal += 1
      connections[connectionID] = connection
      connection.answeredAt = clock.now
      connection.observer = { [weak self] connection, event in self?.observed(connectionID, connection, event) }
      note(.accepted)
      perform(state.opened(connectionID, now: clock.now), opened: connectionID)
      setExpiryTimer()
    } catch let error as PostgresError where error.isFull && state.open + state.opening > 1 {
      // Not an outage: callers can take turns with the existing connections.
      counts.failedConnects += 1
      perform(state.refusedAsFull(connectionID, reason: error.publicReason, now: clock.now))
    } catch {
      if let error = error as? PostgresError, error != .poolClosed {
        counts.failedConnects += 1
        note(order.purpose == .ping ? .pingFailed(error.publicReason) : .refused(error.publicReason))
      }
      perform(state.failed(connectionID, now: clock.now), failingWith: error)
    }
  }

  /// Sets up the session of a connection that was opened for a ping.
  private func setUpSession(_ connection: PostgresConnection, by deadline: MonotonicInstant) async throws {
    do {
      try await connection.setUpSession(configuration, by: deadline)
    } catch {
      try Task.checkCancellation()
      throw error
    }
    try check(connection.isReadOnly, connection)
  }

  func giveBack(_ connectionID: PostgresPoolState.ConnectionID, _ connection: PostgresConnection) {
    switch connection.state.phase {
    case .cancelling, .answered, .cancelled:
      isPatient ? state.returnedUnclean(connectionID) : discard(connectionID, connection)
    case .idle where connection.isClean && (!connection.isReadOnly || configuration.expectsReadOnly):
      perform(state.returned(connectionID, now: clock.now))
    case .idle, .running, .closed:
      discard(connectionID, connection)
    }
    setExpiryTimer()
  }

  private func discard(_ connectionID: PostgresPoolState.ConnectionID, _ connection: PostgresConnection) {
    connections[connectionID] = nil
    connection.observer = nil
    connection.close()
    perform(state.removed(connectionID, now: clock.now))
    resumeClosers()
  }

  /// Handles a connection's event: it got an answer or none in time, became clean, or closed without the pool's doing.
  private func observed(
    _ connectionID: PostgresPoolState.ConnectionID, _ connection: PostgresConnection, _ event: PostgresConnection.Event
  ) {
    switch event {
    case .answered(let request):
      connection.answeredAt = clock.now
      note(.answered(request))
    case .refusedToWrite: note(configuration.expectsReadOnly ? .accepted : .refused(PostgresError.readOnlyReason))
    case .overdue: note(.troubled)
    case .clean(let request):
      note(.cancelled(request))
      // It may still be lent; `giveBack` then reads its phase.
      if connection.isReusable {
        perform(state.becameClean(connectionID, now: clock.now))
      } else {
        discard(connectionID, connection)
      }
      setExpiryTimer()
      resumeClosers()
    case .closed(let unanswered, let error):
      counts.lost += 1
      if isForUse(unanswered), let loss = PostgresTrial.Loss(error) {
        note(.lost(unanswered, loss))
      } else {
        note(.troubled)
      }
      // A lent one keeps its entry until its caller gives it back.
      if !state.isLent(connectionID) { discard(connectionID, connection) }
    }
  }

  /// Whether these are a caller's statements: neither a ping nor those that set up a session.
  private func isForUse(_ request: [PostgresStatement]) -> Bool {
    let own = [configuration.serverSettings.ping.last?.sql, PostgresStatement.sessionSetup.last?.sql]
    return !request.isEmpty && !own.contains(request.last?.sql)
  }

  private func resumeClosers() {
    guard state.cancelling == 0 else { return }
    let closers = self.closers
    self.closers = []
    for closer in closers { closer.fire(()) }
  }

  // MARK: - Actions

  /// `opened` is the connection that has just answered; `error` is for requests whose connection could not be opened.
  private func perform(
    _ actions: [PostgresPoolState.Action], opened: PostgresPoolState.ConnectionID? = nil,
    failingWith error: any Error = PostgresError.poolClosed
  ) {
    for action in actions {
      switch action {
      case .lend(let connectionID, let requestID):
        waiters[requestID]?.end(.success((connectionID, isNew: connectionID == opened)))
      case .open(let connectionID, let requestID):
        let order = PostgresPoolOrder(
          connectionID: connectionID, purpose: pings.contains(requestID) ? .ping : .use)
        if isRunning {
          orders.append(order)
          ordered.fire(())
        } else {
          waiters[requestID]?.resume(toOpen: order)
        }
      case .refuse(let requestID):
        waiters[requestID]?.end(.failure(state.isClosed ? PostgresError.poolClosed : PostgresError.poolExhausted()))
      case .fail(let requestID): waiters[requestID]?.end(.failure(error))
      case .wait: break
      case .close(let connectionID):
        let connection = connections.removeValue(forKey: connectionID)
        connection?.observer = nil
        connection?.close()
      }
    }
  }

  /// Closes idle connections that have expired. Called by the timer.
  func closeExpired() {
    expiryTimerAt = nil
    perform(state.closeExpired(clock.now))
    setExpiryTimer()
  }

  /// One timer, set only while something can expire, so that it never wakes an idle process needlessly.
  private func setExpiryTimer() {
    guard let next = state.nextExpiry, !state.isClosed else { return }
    if let expiryTimerAt, expiryTimerAt <= next { return }
    expiryTimerAt = next
    expiryTimer?.start(at: next)
  }
}
