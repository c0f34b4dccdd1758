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
  public var onStateChange: (@EventLoop (PostgresAvailability) -> Void)?

  private let configuration: PostgresConfiguration
  private let clock: LoopClock
  private let canceller = PostgresCanceller()
  private var state: PostgresPoolState
  private var connections: [PostgresPoolState.Slot: PostgresConnection] = [:]
  private var waiters: [PostgresPoolState.Ticket: Waiter] = [:]
  private var lastTicket: PostgresPoolState.Ticket = 0
  /// Of those who wait, who only ask whether the server answers: an answer on another connection is theirs too.
  private var questions: Set<PostgresPoolState.Ticket> = []
  private var counts = Statistics()
  private var sweepTimer: TimerWatcher?
  private var sweepAt: MonotonicInstant?
  private var isPatient = true
  private var pulse = PostgresPulse()
  /// What `run` waits for: doubt, or the end.
  private var bell = LoopSignal<Void>()
  /// Of those who wait for a server that can be written to.
  private var writableSignals: [LoopSignal<Void>] = []
  private var closers: [CheckedContinuation<Void, Never>] = []

  /// Opens nothing yet.
  ///
  /// - Parameters:
  ///   - connectionLifetime: a connection older than this is not lent again.
  ///   - idleTimeout: unused connections are closed after this, but for one that is kept up to its lifetime.
  public init(
    _ configuration: PostgresConfiguration, maximumConnections: Int, connectionLifetime: Duration,
    idleTimeout: Duration = .seconds(60), clock: LoopClock = .system
  ) {
    self.configuration = configuration
    self.clock = clock
    state = PostgresPoolState(limit: maximumConnections, lifetime: connectionLifetime, idleTimeout: idleTimeout)
    sweepTimer = TimerWatcher { [weak self] in self?.sweep() }
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
    switch pulse.availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "not connected yet"
    }
  }

  /// Whether the server answers and cannot be written to: a standby, or read-only by default. Nothing is lent then.
  public var isReadOnly: Bool { pulse.isReadOnly }

  /// Waits while the server is read-only: false where it still was at `deadline`. The pool asks it meanwhile.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  public func waitUntilWritable(by deadline: MonotonicInstant) async throws -> Bool {
    guard isReadOnly else { return true }
    let signal = LoopSignal<Void>()
    writableSignals.append(signal)
    defer { writableSignals.removeAll { $0 === signal } }
    let isWritable = await signal.wait(until: deadline) != nil
    try Task.checkCancellation()
    return isWritable
  }

  /// Keeps the pool until the task is cancelled or the pool closed, then closes it: the structured way to own one.
  ///
  /// After trouble it asks the server, again and again until that answers; else it only waits.
  public func run() async {
    while !state.isClosed, !Task.isCancelled {
      if pulse.isInDoubt {
        await ask()
        if pulse.isInDoubt { await ring(within: pulse.pause(chance: Chance.fraction())) }
      } else {
        await ring(within: nil)
      }
    }
    await close()
  }

  /// Waits for the bell.
  private func ring(within limit: Duration?) async {
    bell = LoopSignal()
    _ = await bell.wait(until: limit.map { MonotonicInstant.system.advanced(by: $0) })
  }

  private func ask() async {
    do {
      try await ping(by: .system.advanced(by: Self.questionLimit))
    } catch {
      // What it says was noted where it happened.
    }
  }

  /// Asks the server whether it answers. Where all connections are in use, an answer that one of them gets will do.
  ///
  /// - Throws: as `withConnection`.
  public func ping(by deadline: MonotonicInstant) async throws {
    do {
      // A session that ends instead of answering is no verdict; each that did is one less in the pool.
      while try await !isAnswered(by: deadline) {}
    } catch is AnsweredElsewhere {
      return
    } catch let error as PostgresError {
      switch error {
      // The server speaks, or it was not asked.
      case .server, .poolExhausted, .poolClosed, .busy: break
      case .unavailable, .connectionLost, .timedOut: note(.refused(error.publicReason))
      }
      throw error
    }
  }

  /// Asks over one connection. False where that was lost, and another one should be asked.
  private func isAnswered(by deadline: MonotonicInstant) async throws -> Bool {
    let (slot, connection, isNew) = try await take(by: deadline, opening: .question)
    defer { giveBack(slot, connection) }
    // One that was opened for this has just answered the question.
    if isNew { return true }
    do {
      let answer = try await connection.query(.question, by: deadline)
      guard answer.saysReadOnly(column: 0), !configuration.expectsReadOnly else { return true }
      connection.isReadOnly = true
      throw PostgresError.readOnly
    } catch PostgresError.connectionLost {
      return false
    }
  }

  /// Takes in what a connection met: tells a change, and has `run` ask where doubt begins.
  private func note(_ event: PostgresPulse.Event) {
    if event == .answered {
      for ticket in questions { leave(ticket, AnsweredElsewhere()) }
    }
    let wasInDoubt = pulse.isInDoubt
    let change = pulse.met(event)
    if pulse.isInDoubt, !wasInDoubt { bell.fire(()) }
    if change == .ready { for signal in writableSignals { signal.fire(()) } }
    // What else is open leads to the same server: the next question goes over a new connection, perhaps to another one.
    if pulse.isReadOnly { perform(state.closeIdle(now: clock.now)) }
    if let change, !state.isClosed { onStateChange?(change) }
  }

  /// Lends a connection to `body`, and waits for one until `deadline` where none is free.
  ///
  /// `body` leaves no transaction open; a connection with one is closed. It does not keep the connection.
  ///
  /// - Throws: `PostgresError.poolExhausted` where none became free in time; why none could be opened; what `body`
  ///   throws; `CancellationError` as soon as the task is cancelled.
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
    bell.fire(())
    // Draining has a limit of its own, so this cannot wait for ever. The statement must end on the server: no shortcut.
    if state.draining > 0 {
      await withCheckedContinuation { closers.append($0) }
    }
  }

  /// From now on, closes connections whose last statement is being cancelled, instead of waiting for the server.
  public func waitNoLonger() {
    isPatient = false
    for (slot, connection) in connections where state.isDraining(slot) { discard(slot, connection) }
  }

  // MARK: - Taking and giving back

  /// Why a question needs no connection any more.
  private struct AnsweredElsewhere: Error {}

  /// What a caller who asked gets.
  private enum Grant {
    case lent(PostgresPoolState.Slot)
    case mayOpen(PostgresPoolState.Slot)
  }

  private func take(
    by deadline: MonotonicInstant, opening: PostgresConnection.Opening
  ) async throws -> (slot: PostgresPoolState.Slot, connection: PostgresConnection, isNew: Bool) {
    while true {
      try Task.checkCancellation()
      switch try await grant(by: deadline, opening) {
      case .mayOpen(let slot):
        return (slot, try await open(slot, by: deadline, opening), true)
      case .lent(let slot):
        guard let connection = connections[slot] else { continue }
        // The server may have closed it while nobody looked.
        if connection.isReusable { return (slot, connection, false) }
        discard(slot, connection)
      }
    }
  }

  private func grant(by deadline: MonotonicInstant, _ opening: PostgresConnection.Opening) async throws -> Grant {
    lastTicket += 1
    let ticket = lastTicket
    let waiter = Waiter()
    waiters[ticket] = waiter
    defer { waiters[ticket] = nil }
    perform(state.request(ticket, now: clock.now))
    if let result = waiter.result { return try result.get() }
    if opening == .question { questions.insert(ticket) }
    defer { questions.remove(ticket) }
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        waiter.wait(continuation)
        waiter.expire(at: deadline) { [weak self] in self?.leave(ticket, PostgresError.poolExhausted) }
      }
    } onCancel: {
      EventLoop.perform { self.leave(ticket, CancellationError()) }
    }
  }

  private func leave(_ ticket: PostgresPoolState.Ticket, _ error: any Error) {
    if state.leaveQueue(ticket) { waiters[ticket]?.end(.failure(error)) }
  }

  private func open(
    _ slot: PostgresPoolState.Slot, by deadline: MonotonicInstant, _ opening: PostgresConnection.Opening
  ) async throws -> PostgresConnection {
    do {
      let connection = try await PostgresConnection.connect(
        configuration, by: deadline, opening: opening, mustBeWritable: !configuration.expectsReadOnly,
        canceller: canceller)
      if state.isClosed {
        connection.close()
        throw PostgresError.poolClosed
      }
      counts.connectsTotal += 1
      connections[slot] = connection
      connection.observer = { [weak self] connection, event in self?.observed(slot, connection, event) }
      state.opened(slot, now: clock.now)
      note(.answered)
      return connection
    } catch {
      if let error = error as? PostgresError, error != .poolClosed {
        counts.failedConnects += 1
        note(.refused(error.publicReason))
      }
      perform(state.removed(slot, now: clock.now))
      throw error
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
  }

  private func giveBack(_ slot: PostgresPoolState.Slot, _ connection: PostgresConnection) {
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
    case .answered: note(.answered)
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
    for closer in closers { closer.resume() }
  }

  // MARK: - Actions

  private func perform(_ actions: [PostgresPoolState.Action]) {
    for action in actions {
      switch action {
      case .lend(let slot, let ticket): waiters[ticket]?.end(.success(.lent(slot)))
      case .open(let slot, let ticket): waiters[ticket]?.end(.success(.mayOpen(slot)))
      case .refuse(let ticket):
        waiters[ticket]?.end(.failure(state.isClosed ? PostgresError.poolClosed : PostgresError.poolExhausted))
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

  /// One caller who asked.
  @EventLoop
  private final class Waiter {
    private(set) var result: Result<Grant, any Error>?
    private var continuation: CheckedContinuation<Grant, any Error>?
    private var timer: TimerWatcher?

    func wait(_ continuation: CheckedContinuation<Grant, any Error>) {
      if let result { continuation.resume(with: result) } else { self.continuation = continuation }
    }

    func expire(at deadline: MonotonicInstant, _ callback: @escaping @EventLoop () -> Void) {
      guard result == nil else { return }
      let timer = TimerWatcher(callback: callback)
      timer.start(at: deadline)
      self.timer = timer
    }

    func end(_ result: Result<Grant, any Error>) {
      guard self.result == nil else { return }
      self.result = result
      timer?.stop()
      timer = nil
      continuation.take()?.resume(with: result)
    }
  }
}
