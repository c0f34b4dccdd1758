// The connections of the process to one PostgreSQL. Invariant: whoever takes one gives it back clean, or it is closed;
// while all is well the pool does nothing by itself but to close what expires. Used by the worker's sweeps and probes.

import CReactor

/// Lends connections, one caller each: opened on demand up to a limit, closed when unused, replaced when aged.
///
/// Who finds none waits in the order of coming. A caller that leaves in the middle of a statement (its deadline, its
/// task's cancellation) leaves the connection to the pool, which has the statement cancelled on the server and lends
/// the connection again when it is clean, or closes it after a bounded time.
@EventLoop
public final class PostgresPool {
  /// What the pool did and has.
  public struct Statistics: Sendable, Equatable {
    /// Connections that exist.
    public var open = 0
    /// Those that nobody uses.
    public var idle = 0
    /// Those whose last statement is being cancelled.
    public var draining = 0
    /// Callers who wait for one.
    public var waiting = 0
    /// Connections made since the beginning.
    public var connectsTotal: UInt64 = 0
    /// Attempts that failed since the beginning.
    public var failedConnects: UInt64 = 0
    /// Connections that ended other than by the pool's will since the beginning.
    public var lost: UInt64 = 0
  }

  /// How long the server may take to answer whether it is there.
  public nonisolated static let questionLimit = Duration.seconds(2)

  /// Called when the server becomes ready, unavailable, or unavailable for another reason: once a change, not once a
  /// try.
  public var onStateChange: (@EventLoop (ServerAvailability) -> Void)?

  /// How long a look at a connection that was not used for a while may take.
  private static let lookLimit = Duration.seconds(1)
  /// A connection that was used within this time is not looked at.
  private static let trustedFor = Duration.seconds(2)

  let configuration: PostgresConfiguration
  let connectTimeout: Duration
  let clock: LoopClock
  private let canceller: PostgresCanceller
  var state: PostgresPoolState
  private var connections: [PostgresPoolState.Slot: PostgresConnection] = [:]
  private var waiters: [PostgresPoolState.Ticket: PostgresPoolWaiter] = [:]
  private var lastTicket: PostgresPoolState.Ticket = 0
  /// Of those who wait, who only ask whether the server answers: an answer on another connection is theirs too.
  var questions: Set<PostgresPoolState.Ticket> = []
  private var counts = Statistics()
  private var sweepTimer: TimerWatcher?
  private var sweepAt: MonotonicInstant?
  private var isPatient = true
  var health = PostgresHealth()
  /// Whether `run` opens the connections. Without it the callers do, each for as long as it waits.
  var isRunning = false
  /// What is to be opened, in `run`.
  var orders: [PostgresPoolOrder] = []
  /// Wakes `run`: an order, or the end.
  var ordered = OneShot<Void>()
  /// Wakes the task that checks the server: on doubt, or at the end.
  var doubted = OneShot<Void>()
  /// Of those who wait for a server that can be written to.
  var writableSignals: [OneShot<Void>] = []
  private var closers: [OneShot<Void>] = []

  /// Opens nothing yet.
  ///
  /// - Parameters:
  ///   - connectionLifetime: a connection older than this is not lent again.
  ///   - idleTimeout: unused connections are closed after this, but for one that is kept up to its lifetime.
  ///   - connectTimeout: how long opening a connection may take, over all addresses. It goes on when the caller that it
  ///     was begun for has left: a caller's own deadline can be shorter.
  public init(
    _ configuration: PostgresConfiguration, maximumConnections: Int, connectionLifetime: Duration,
    idleTimeout: Duration = .seconds(60), connectTimeout: Duration = .seconds(10), clock: LoopClock
  ) {
    self.configuration = configuration
    self.connectTimeout = connectTimeout
    self.clock = clock
    canceller = PostgresCanceller(clock: clock)
    state = PostgresPoolState(limit: maximumConnections, lifetime: connectionLifetime, idleTimeout: idleTimeout)
    sweepTimer = TimerWatcher(clock) { [weak self] in self?.sweep() }
  }

  isolated deinit {
    sweepTimer?.stop()
    for connection in connections.values { connection.close() }
  }

  public var statistics: Statistics {
    var statistics = counts
    statistics.open = state.open
    statistics.idle = state.idle
    statistics.draining = state.draining
    statistics.waiting = state.waiting
    return statistics
  }

  /// Why the server cannot be used, fit to be shown to anyone; nil while it can.
  public var outage: String? {
    switch health.availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "not connected yet"
    }
  }

  /// Takes in what a connection met: tells a change, and has `run` ask where doubt begins.
  func note(_ event: PostgresHealth.Event) {
    if event == .answered {
      for ticket in questions { leave(ticket, AnsweredElsewhere()) }
    }
    let wasInDoubt = health.isInDoubt
    let change = health.met(event)
    if health.isInDoubt, !wasInDoubt { doubted.fire(()) }
    if change == .ready { for signal in writableSignals { signal.fire(()) } }
    // What else is open leads to the same server: the next question goes over a new connection, perhaps to another one.
    if health.isReadOnly { perform(state.closeIdle(now: clock.now)) }
    if let change, !state.isClosed { onStateChange?(change) }
  }

  /// Lends a connection to `body`, and waits for one until `deadline` if none is free.
  ///
  /// `body` leaves no transaction open; a connection with one is closed. It does not keep the connection.
  ///
  /// - Throws: `PostgresError.poolExhausted` where none became free in time; `unavailable` with "connecting" where one
  ///   is still being opened; why none could be opened; what `body` throws; `CancellationError` as soon as the task is
  ///   cancelled.
  public func withConnection<Value: Sendable>(
    by deadline: MonotonicInstant, _ body: @EventLoop (PostgresConnection) async throws -> Value
  ) async throws -> Value {
    let (slot, connection, _) = try await take(by: deadline, opening: .greeting)
    defer { giveBack(slot, connection) }
    if !connection.isGreeted { try await greet(connection, by: deadline) }
    return try await body(connection)
  }

  /// Refuses new callers and closes all connections: idle ones now, lent ones when they come back.
  ///
  /// Returns when the statements that were being cancelled have ended, which is bounded.
  public func close() async {
    perform(state.close())
    sweepTimer?.stop()
    ordered.fire(())
    doubted.fire(())
    // Draining has a limit of its own, so this cannot wait for ever. The statement must end on the server: no shortcut.
    if state.draining > 0 {
      let closer = OneShot<Void>()
      closers.append(closer)
      _ = await closer.waitThroughCancellation()
    }
  }

  /// From now on, closes connections whose last statement is being cancelled, instead of waiting for the server.
  public func waitNoLonger() {
    isPatient = false
    for (slot, connection) in connections where state.isDraining(slot) { discard(slot, connection) }
  }

  // MARK: - Taking and giving back

  /// Why a question needs no connection any more.
  struct AnsweredElsewhere: Error {}

  func take(
    by deadline: MonotonicInstant, opening: PostgresConnection.Opening
  ) async throws -> (slot: PostgresPoolState.Slot, connection: PostgresConnection, isNew: Bool) {
    while true {
      try Task.checkCancellation()
      let (slot, isNew) = try await grant(by: deadline, opening)
      guard let connection = connections[slot] else { continue }
      if isNew { return (slot, connection, true) }
      // The server may have closed it while nobody looked.
      if connection.isReusable {
        let quiet = connection.answeredAt.duration(to: clock.now)
        if quiet < Self.trustedFor { return (slot, connection, false) }
        if try await isAlive(slot, connection, by: deadline) { return (slot, connection, true) }
      }
      discard(slot, connection)
    }
  }

  /// Looks at a connection that was not used for a while: what is between may have forgotten it, and drops its packets
  /// without a word. That is nobody's failure, and no doubt about the server.
  ///
  /// It costs a round trip, about four times a minute in an idle worker. Sent along with the first statements it would
  /// cost none; but then these could still arrive after they were given up and sent over another connection.
  private func isAlive(
    _ slot: PostgresPoolState.Slot, _ connection: PostgresConnection, by deadline: MonotonicInstant
  ) async throws -> Bool {
    let observer = connection.observer.take()
    do {
      let limit = min(deadline, clock.now.advanced(by: Self.lookLimit))
      let answer = try await connection.query(.question, by: limit)
      connection.observer = observer
      connection.answeredAt = clock.now
      try check(answer.saysReadOnly(column: 0), connection)
      note(.answered)
      return true
    } catch {
      discard(slot, connection)
      if error as? PostgresError == .readOnly { throw error }
      try Task.checkCancellation()
      // The others that nobody uses were not used for longer.
      perform(state.closeIdle(now: clock.now))
      return false
    }
  }

  private func grant(
    by deadline: MonotonicInstant, _ opening: PostgresConnection.Opening
  ) async throws -> PostgresPoolGrant {
    // `run` may have been started and not have had its turn yet.
    if !isRunning { await Task.yield() }
    lastTicket += 1
    let ticket = lastTicket
    let waiter = PostgresPoolWaiter()
    waiters[ticket] = waiter
    if opening == .question { questions.insert(ticket) }
    defer {
      waiters[ticket] = nil
      questions.remove(ticket)
    }
    perform(state.request(ticket, now: clock.now))
    waiter.expire(at: deadline, on: clock) { [weak self] in self?.expire(ticket) }
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
      EventLoop.perform { self.leave(ticket, CancellationError()) }
    }
  }

  /// A caller's deadline has come.
  private func expire(_ ticket: PostgresPoolState.Ticket) {
    guard state.isOpening(for: ticket) else { return leave(ticket, PostgresError.poolExhausted) }
    // What is known of the server says more than that it is being tried again.
    var reason = "connecting"
    if case .unavailable(let known)? = health.availability { reason = known }
    leave(ticket, PostgresError.unavailable(reason: reason))
  }

  private func leave(_ ticket: PostgresPoolState.Ticket, _ error: any Error) {
    if state.leaveQueue(ticket) { waiters[ticket]?.end(.failure(error)) }
  }

  func open(_ order: PostgresPoolOrder, by deadline: MonotonicInstant) async {
    let slot = order.slot
    do {
      let connection = try await PostgresConnection.connect(
        configuration, by: deadline, on: clock, opening: order.opening,
        mustBeWritable: !configuration.expectsReadOnly, canceller: canceller)
      if state.isClosed {
        connection.close()
        throw PostgresError.poolClosed
      }
      counts.connectsTotal += 1
      connections[slot] = connection
      connection.answeredAt = clock.now
      connection.observer = { [weak self] connection, event in self?.observed(slot, connection, event) }
      note(.answered)
      perform(state.opened(slot, now: clock.now), opened: slot)
      planSweep()
    } catch {
      if let error = error as? PostgresError, error != .poolClosed {
        counts.failedConnects += 1
        note(.refused(error.publicReason))
      }
      perform(state.failed(slot, now: clock.now), failingWith: error)
    }
  }

  /// Greets on a connection that was opened to ask whether the server answers.
  private func greet(_ connection: PostgresConnection, by deadline: MonotonicInstant) async throws {
    do {
      try await connection.greet(configuration, by: deadline)
    } catch {
      try Task.checkCancellation()
      throw error
    }
    try check(connection.isReadOnly, connection)
  }

  func giveBack(_ slot: PostgresPoolState.Slot, _ connection: PostgresConnection) {
    switch connection.state.phase {
    case .draining, .answered, .cancelled:
      isPatient ? state.returnedDraining(slot) : discard(slot, connection)
    case .idle where connection.isClean && (!connection.isReadOnly || configuration.expectsReadOnly):
      perform(state.returned(slot, now: clock.now))
    case .idle, .running, .closed:
      discard(slot, connection)
    }
    planSweep()
  }

  private func discard(_ slot: PostgresPoolState.Slot, _ connection: PostgresConnection) {
    connections[slot] = nil
    connection.observer = nil
    connection.close()
    perform(state.removed(slot, now: clock.now))
    resumeClosers()
  }

  /// A connection met an answer or none, became clean, or was closed by other than the pool.
  private func observed(
    _ slot: PostgresPoolState.Slot, _ connection: PostgresConnection, _ event: PostgresConnection.Event
  ) {
    switch event {
    case .answered:
      connection.answeredAt = clock.now
      note(.answered)
    case .refusedToWrite: note(configuration.expectsReadOnly ? .answered : .refused(PostgresError.readOnlyReason))
    case .overdue: note(.troubled)
    case .clean:
      // Before it was given back: then its phase says all.
      if connection.isReusable {
        perform(state.drained(slot, now: clock.now))
      } else {
        discard(slot, connection)
      }
      planSweep()
      resumeClosers()
    case .closed:
      counts.lost += 1
      note(.troubled)
      // A lent one stays in the books until its caller gives it back.
      if !state.isLent(slot) { discard(slot, connection) }
    }
  }

  private func resumeClosers() {
    guard state.draining == 0 else { return }
    let closers = self.closers
    self.closers = []
    for closer in closers { closer.fire(()) }
  }

  // MARK: - Actions

  /// `opened` is the slot whose connection has just answered; `error` is for those for whom none could be opened.
  private func perform(
    _ actions: [PostgresPoolState.Action], opened: PostgresPoolState.Slot? = nil,
    failingWith error: any Error = PostgresError.poolClosed
  ) {
    for action in actions {
      switch action {
      case .lend(let slot, let ticket): waiters[ticket]?.end(.success((slot, isNew: slot == opened)))
      case .open(let slot, let ticket):
        let order = PostgresPoolOrder(slot: slot, opening: questions.contains(ticket) ? .question : .greeting)
        if isRunning {
          orders.append(order)
          ordered.fire(())
        } else {
          waiters[ticket]?.ask(toOpen: order)
        }
      case .refuse(let ticket):
        waiters[ticket]?.end(.failure(state.isClosed ? PostgresError.poolClosed : PostgresError.poolExhausted))
      case .fail(let ticket): waiters[ticket]?.end(.failure(error))
      case .wait: break
      case .close(let slot):
        let connection = connections.removeValue(forKey: slot)
        connection?.observer = nil
        connection?.close()
      }
    }
  }

  /// Closes what has expired. The timer calls it; so do tests that turn the clock.
  func sweep() {
    sweepAt = nil
    perform(state.sweep(clock.now))
    planSweep()
  }

  /// One timer, set only while something can expire: an idle process is not woken for nothing.
  private func planSweep() {
    guard let next = state.nextSweep, !state.isClosed else { return }
    if let sweepAt, sweepAt <= next { return }
    sweepAt = next
    sweepTimer?.start(at: next)
  }
}
