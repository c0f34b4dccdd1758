// PostgreSQL as the runs see it: sessions with a batch each, the guard with its deadline on the server's own clock,
// the advisory lock, cancelling timers, and sessions that idle because their client froze mid-batch.
// Invariant: a batch is committed as a whole by its last message, or not at all.

import Coordination
import Reactor

/// A session of the server.
@EventLoop
final class PostgresSession {
  fileprivate(set) var isOpen = true
  fileprivate var batch: PostgresServer.Batch?
  /// The server start that it belongs to.
  fileprivate let start: Int

  fileprivate init(start: Int) {
    self.start = start
  }
}

@EventLoop
final class PostgresServer {
  enum Condition { case up, away, hanging }

  /// A batch as it is sent. Times in µs of the server's clock, lengths in µs.
  @EventLoop
  final class Batch {
    let sweeper: Int
    let epoch: Int64
    let deadline: Int64
    /// How long its statements take, and how many rows they change.
    let writeLength: Int64
    private let plannedRows: Int
    /// Before which message the client froze, and for how long: 1 the write, 2 the closing statement, 3 the end.
    let cut: (message: Int, length: Int64)?
    /// What it inserts: the slot's jobs.
    let jobs: [Judge.Job]
    /// Its change to individually modelled rows.
    let change: (any RowChange)?
    fileprivate var began: Int64 = 0
    fileprivate var isTransaction = false
    fileprivate var isGuarded = false
    fileprivate(set) var hasWritten = false
    /// When transaction_timeout ends the session, if the server has it.
    fileprivate var sessionEnd = Int64.max
    /// The closing statement ran in time, but the commit arrived late.
    fileprivate(set) var isLastMessageLate = false

    init(
      sweeper: Int, epoch: Int64, deadline: Int64, writeLength: Int64, rows: Int, cut: (message: Int, length: Int64)?,
      jobs: [Judge.Job], change: (any RowChange)?
    ) {
      self.sweeper = sweeper
      self.epoch = epoch
      self.deadline = deadline
      self.writeLength = writeLength
      plannedRows = rows
      self.cut = cut
      self.jobs = jobs
      self.change = change
    }

    var rows: Int { change?.rows ?? plannedRows }
  }

  enum Answer {
    /// The server's clock at the first and at the last statement, and whether the batch held the advisory lock.
    case done(began: Int64, clock: Int64, isGuarded: Bool)
    case tooLate
    case lockTimeout
    case cancelled
    /// The session has ended, possibly by transaction_timeout.
    case gone(byTimeout: Bool)
  }

  private let world: World
  private let scenario: Scenario
  private let judge: Judge
  private let mutation: Mutation?
  var clock: DriftingClock
  private(set) var condition = Condition.up
  private var backlog: [@EventLoop () -> Void] = []
  private var holders: [PostgresSession?]
  private var starts = 0
  /// Only in seeds that include them.
  private(set) var reveals: RevealTable?
  private(set) var connections: ConnectionTable?
  private(set) var secrets: SecretTable?
  /// When another session's lock on the tables ends, in true time.
  var tablesLockedUntil: Int64 = 0

  init(_ world: World, _ scenario: Scenario, _ redis: RedisServer, _ judge: Judge, _ mutation: Mutation?) {
    self.world = world
    self.scenario = scenario
    self.judge = judge
    self.mutation = mutation
    clock = DriftingClock(partsPerMillion: world.any(scenario.drifts), offset: 1_700_000_123_000_000)
    holders = scenario.intervals.map { _ in nil }
    switch scenario.later {
    case .reveals:
      reveals = RevealTable(world, scenario, judge, mutation) { [unowned self] in time }
    case .connections:
      connections = ConnectionTable(world, scenario, judge, mutation, redis: redis) { [unowned self] in time }
      secrets = SecretTable(world, scenario, judge, mutation, redis: redis) { [unowned self] in time }
    case nil: break
    }
  }

  /// What a batch does to individually modelled rows; nil if it changes none.
  func change(_ statements: [PostgresStatement], _ roles: [StatementRole], _ sweeper: Int) -> (any RowChange)? {
    guard roles.contains(where: \.changesRows) else { return nil }
    return switch (scenario.later, sweeper) {
    case (.reveals, Scenario.reveal): reveals.map { RevealChange(statements, roles, in: $0) }
    case (.connections, Scenario.connections): connections.map { ConnectionChange(statements, roles, in: $0) }
    case (.connections, Scenario.stuck): connections.map { PageChange(statements, roles, in: $0) }
    case (.connections, Scenario.retention): secrets.map { PageChange(statements, roles, in: $0) }
    default: nil
    }
  }

  /// Its clock in µs.
  var time: Int64 { clock.reading(at: world.now) }

  /// Runs `body` as soon as the server runs; never if it is down.
  func receive(_ body: @escaping @EventLoop () -> Void) {
    switch condition {
    case .up: body()
    case .hanging: backlog.append(body)
    case .away: break
    }
  }

  func connect() -> PostgresSession {
    PostgresSession(start: starts)
  }

  func isOpen(_ session: PostgresSession) -> Bool {
    session.isOpen && session.start == starts
  }

  /// Executes a received batch message by message.
  func execute(_ batch: Batch, in session: PostgresSession, answer: @escaping @EventLoop (Answer) -> Void) {
    guard isOpen(session), session.batch == nil else { return answer(.gone(byTimeout: false)) }
    session.batch = batch
    batch.isTransaction = true
    let began = time
    batch.began = began
    let left = max(1_000, batch.deadline - began)
    let isAhead = began < batch.deadline || mutation == .noDeadline
    batch.isGuarded = isAhead && (mutation == .noAdvisoryLock || lock(batch.sweeper, for: session))
    if scenario.hasTransactionTimeout, mutation != .noDeadline {
      batch.sessionEnd = world.now + left + 250_000
      // In a batch that arrives whole, each statement has its own timer.
      if batch.cut != nil { world.at(batch.sessionEnd) { [self] in receive { [self] in timeOut(batch, in: session) } } }
    }
    guard isAhead else {
      abort(session)
      return answer(.tooLate)
    }
    message(1, of: batch, in: session, answer: answer) { [self] in
      write(batch, in: session, timeout: left, answer: answer)
    }
  }

  /// The next message arrives: at once or, if the batch was cut there, when its client continues.
  private func message(
    _ number: Int, of batch: Batch, in session: PostgresSession, answer: @escaping @EventLoop (Answer) -> Void,
    _ body: @escaping @EventLoop () -> Void
  ) {
    guard let cut = batch.cut, cut.message == number else {
      return receive { [self] in arrived(of: batch, in: session, answer: answer, body) }
    }
    world.note("the batch of epoch \(batch.epoch) is cut before its message \(number)")
    world.after(cut.length) { [self] in
      receive { [self] in arrived(of: batch, in: session, answer: answer, body) }
    }
  }

  private func arrived(
    of batch: Batch, in session: PostgresSession, answer: @EventLoop (Answer) -> Void, _ body: @EventLoop () -> Void
  ) {
    guard batch.isTransaction else {
      return answer(isOpen(session) ? .cancelled : .gone(byTimeout: world.now >= batch.sessionEnd))
    }
    // A server that was frozen runs its timers before it reads messages.
    if world.now > batch.sessionEnd {
      end(session)
      return answer(.gone(byTimeout: true))
    }
    body()
  }

  private func timeOut(_ batch: Batch, in session: PostgresSession) {
    guard batch.isTransaction else { return }
    world.note("transaction_timeout ends the session of epoch \(batch.epoch)")
    end(session)
  }

  private func write(
    _ batch: Batch, in session: PostgresSession, timeout: Int64, answer: @escaping @EventLoop (Answer) -> Void
  ) {
    if world.now < tablesLockedUntil {
      return world.after(250_000) { [self] in
        abort(session)
        answer(.lockTimeout)
      }
    }
    if batch.isGuarded, time < batch.deadline || mutation == .noDeadline {
      if let change = batch.change, !change.write(began: batch.began) {
        return world.after(100_000) { [self] in
          abort(session)
          answer(.lockTimeout)
        }
      }
      batch.hasWritten = true
      judge.writeBegan(batch)
    }
    let isCancelled = batch.writeLength > timeout && mutation != .noDeadline
    world.after(min(batch.writeLength, timeout)) { [self] in
      receive { [self] in
        guard batch.isTransaction else {
          return answer(isOpen(session) ? .cancelled : .gone(byTimeout: world.now >= batch.sessionEnd))
        }
        if isCancelled {
          abort(session)
          return answer(.cancelled)
        }
        message(2, of: batch, in: session, answer: answer) { [self] in close(batch, in: session, answer: answer) }
      }
    }
  }

  private func close(_ batch: Batch, in session: PostgresSession, answer: @escaping @EventLoop (Answer) -> Void) {
    guard time < batch.deadline || mutation == .noDeadline else {
      abort(session)
      return answer(.tooLate)
    }
    let closed = world.now
    message(3, of: batch, in: session, answer: answer) { [self] in
      batch.isLastMessageLate = world.now > closed
      if batch.hasWritten {
        batch.change?.committed(isLate: batch.isLastMessageLate)
        judge.committed(batch)
      }
      finish(session)
      let isGuarded = batch.isGuarded || mutation == .verdictIgnored
      if isGuarded { judge.answered(batch) }
      answer(.done(began: batch.began, clock: time, isGuarded: isGuarded))
    }
  }

  private func lock(_ sweeper: Int, for session: PostgresSession) -> Bool {
    guard holders[sweeper] == nil else { return false }
    holders[sweeper] = session
    return true
  }

  private func abort(_ session: PostgresSession) {
    if let batch = session.batch, batch.hasWritten {
      batch.change?.rolledBack()
      judge.rolledBack(batch)
    }
    finish(session)
  }

  private func finish(_ session: PostgresSession) {
    guard let batch = session.batch else { return }
    batch.isTransaction = false
    session.batch = nil
    if holders[batch.sweeper] === session { holders[batch.sweeper] = nil }
  }

  /// Ends the session, for its client or on another's order.
  func end(_ session: PostgresSession) {
    abort(session)
    session.isOpen = false
  }

  /// Ends the session that holds a sweeper's lock for an earlier run.
  ///
  /// - Returns: the epoch of the run that holds it, and whether its session was ended.
  func evict(_ sweeper: Int, before epoch: Int64) -> (epoch: Int64, isEnded: Bool)? {
    guard let holder = holders[sweeper], let batch = holder.batch else { return nil }
    guard mutation != .noEviction, batch.epoch < epoch else { return (batch.epoch, false) }
    world.note("epoch \(epoch) ends the session of epoch \(batch.epoch)")
    end(holder)
    return (batch.epoch, true)
  }

  /// The epoch of the run whose session holds a sweeper's lock.
  func holder(of sweeper: Int) -> Int64? { holders[sweeper]?.batch?.epoch }

  /// Discards what has not been executed.
  func stop() {
    backlog = []
  }

  // MARK: Faults

  func change(_ condition: Condition) {
    world.note("PostgreSQL is \(condition)")
    self.condition = condition
    if condition == .away { endAllSessions() }
    guard condition == .up else { return }
    let arrived = backlog
    backlog = []
    for body in arrived { receive(body) }
  }

  func endAllSessions() {
    world.note("PostgreSQL ends all sessions")
    for holder in holders { holder.map(end) }
    starts += 1
  }

  func step(_ microseconds: Int64) {
    world.note("PostgreSQL's clock steps by \(microseconds / 1_000) ms")
    clock.offset += microseconds
    judge.postgresClockStepped(by: microseconds)
  }
}
