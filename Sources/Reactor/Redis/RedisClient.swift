// The Redis client: one connection, maintained by `run` and shared by all callers. Invariant: every command ends by its
// deadline, and its result says whether it may have been executed.

import CReactor

/// The state of the client's connection.
public enum RedisState: Sendable, Equatable {
  /// `run` has not been called.
  case idle
  case connecting
  case ready
  /// The last connection was closed while it was unused; the next command opens another one.
  case resting
  /// The last connection or attempt failed; the next attempt is at that instant.
  case waiting(until: MonotonicInstant, reason: String)
  /// `run` has ended.
  case stopped
}

@EventLoop
public final class RedisClient {
  /// The delays between attempts to reconnect. They are short enough to try again within 5 s of the server's return.
  public nonisolated static let defaultBackoff = Backoff(
    initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)

  /// The failure reported after `run` has been cancelled.
  static let ownEnd = RedisConnectionFailure.stopped.reason

  /// A connection that lasted this long resets the backoff.
  private static let steadyAfter: Duration = .seconds(2)

  /// A connection without an answer for this long is idle. If an idle connection is closed, that is not an outage.
  static let idleAfter: Duration = .seconds(1)
  /// After this long without an answer, the connection may be stale: a NAT or firewall may have dropped it silently.
  /// The next answer then gets a deadline of its own.
  static let staleAfter: Duration = .seconds(5)
  /// That deadline, unless connecting took longer.
  static let staleAnswerLimit: Duration = .milliseconds(700)

  public internal(set) var state: RedisState = .idle
  public internal(set) var statistics = RedisStatistics()
  /// Called when the client becomes ready, unavailable, or unavailable for another reason: once per change, not per
  /// attempt.
  public var onStateChange: (@EventLoop (ServerAvailability) -> Void)?
  /// Called with the reason when an idle connection was closed or found lost. Availability does not change: another
  /// connection is opened.
  public var onIdleEnd: (@EventLoop (String) -> Void)?

  /// Called when the server refuses user or password. If it calls `logIn(as:)` with new ones, the connection is retried
  /// once immediately.
  public var onLoginRefused: (@EventLoop () -> Void)?

  var configuration: RedisConfiguration
  /// Another one where a node of a cluster has other slots.
  var healthCheck: RedisHealthCheck?
  let clock: LoopClock
  private var backoff: Backoff
  var tls: RedisTLS?
  private var availability: ServerAvailability?
  private var readyWaiters: [OneShot<Bool>] = []
  /// Fires when a command needs a connection while the client rests.
  private var need: OneShot<Void>?

  var pipeline = RedisPipeline()
  var pending: [RedisPipeline.Identifier: Pending] = [:]
  /// The size of the pending commands in bytes.
  var pendingBytes = 0
  var connection: RedisConnection?
  private var ended: OneShot<Ending>?
  private var retireReason: String?
  var timer: TimerWatcher?
  var timerAt: MonotonicInstant?
  /// When the last answer came.
  var answeredAt = MonotonicInstant(nanoseconds: .min)
  /// The deadline of the first answer on a connection that may be stale; nil if there is none.
  var staleAnswerDeadline: MonotonicInstant?
  private var handshakeTook = Duration.zero
  private var isUsed = false
  /// The server that a Sentinel last named, and the Sentinel to begin with next time.
  private(set) var master: RedisEndpoint?
  private var firstSentinel = 0

  var health = Health()
  /// What lost connections imply about the commands that were in flight.
  var trial = RedisTrial()

  /// A command that waits for its answer.
  struct Pending {
    /// Kept until it is sent; a repeatable command until it is answered.
    var command: RedisCommand?
    let isRepeatable: Bool
    let byteCount: Int
    let kind: RedisTrial.Kind
    let receiver: Receiver

    enum Receiver {
      case caller(CheckedContinuation<Result<RedisValue, RedisError>, Never>)
      case healthCheck
    }
  }

  /// What the owner's health check has shown.
  struct Health {
    /// When the check last succeeded.
    var provenAt = MonotonicInstant(nanoseconds: .min)
    var isChecking = false
    /// The source was sent, because the server did not know the script.
    var isSourceSent = false
    var waiters: [OneShot<Result<RedisValue, RedisError>>] = []
  }

  /// How a connection ended.
  private enum Ending {
    case failed(RedisConnectionFailure)
    /// It was idle.
    case idle(String)
  }

  /// - Parameter healthCheck: the client is unavailable until this has succeeded. It is run on each new connection, by
  ///   `checkHealth`, and after an error reply that concerns the server. Nil: a PING is enough.
  public init(
    _ configuration: RedisConfiguration, healthCheck: RedisHealthCheck? = nil, clock: LoopClock,
    backoff: Backoff = RedisClient.defaultBackoff
  ) {
    self.configuration = configuration
    self.healthCheck = healthCheck
    self.clock = clock
    self.backoff = backoff
  }

  public var isReady: Bool { state == .ready }

  /// Why the client is not ready, in words that may be shown to anyone; nil while it is.
  public var outage: String? {
    switch availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "connecting"
    }
  }

  /// Why the client became unavailable; nil while it is ready, and until the first attempt to connect has ended.
  var reportedOutage: String? {
    if case .unavailable(let reason) = availability { reason } else { nil }
  }
}

// MARK: - The connection

extension RedisClient {
  /// Connects, and reconnects until the task is cancelled. Called once.
  ///
  /// When cancelled, it refuses further commands, waits for the answers that are due until their deadlines, and
  /// disconnects.
  public func run() async {
    precondition(state == .idle, "a client runs once")
    while !Task.isCancelled {
      state = .connecting
      switch await connectWithLogin() {
      case .success(let connection):
        let began = clock.now
        let ending = await serve(connection)
        if began.duration(to: clock.now) >= Self.steadyAfter { backoff.reset() }
        if !Task.isCancelled { await goOn(after: ending) }
      case .failure(let failure):
        if failure.isCheckCutOff { trial.lost([RedisTrial.check], failure.cause, isIdle: false, at: clock.now) }
        let reason = failure.isCheckCutOff ? trial.reason : nil
        if !Task.isCancelled { await pause(reason ?? failure.cause.reason) }
      }
    }
    state = .stopped
    change(to: .stopped)
    failStopped()
    for signal in readyWaiters { signal.fire(false) }
  }

  private func goOn(after ending: Ending) async {
    switch ending {
    case .failed(let failure):
      await pause(failure.reason)
    case .idle(let reason):
      onIdleEnd?(reason)
      // Reconnects at once if the connection was used, to learn whether the server is there. A server that closes idle
      // connections closes the new one too, and the client then rests until a command needs a connection.
      if !isUsed && pipeline.waitingCount == 0 && readyWaiters.isEmpty { await rest() }
    }
  }

  private func rest() async {
    state = .resting
    let need = OneShot<Void>()
    self.need = need
    _ = await need.wait()
    self.need = nil
  }

  /// A connection is needed: ends the rest.
  func wakeFromRest() {
    need?.fire(())
  }

  private func failStopped() {
    let stopped = pipeline.stop()
    fail(stopped.notSent, .notSent(Self.ownEnd))
    fail(stopped.unknownOutcome, .unknownOutcome(Self.ownEnd))
  }

  /// Waits until commands can be sent.
  ///
  /// - Throws: `RedisError.notSent` with the reason at the deadline, `CancellationError`.
  public func waitUntilReady(by deadline: MonotonicInstant) async throws {
    guard !isReady else { return }
    guard state != .stopped else { throw RedisError.notSent(Self.ownEnd) }
    let signal = OneShot<Bool>()
    readyWaiters.append(signal)
    wakeFromRest()
    let isInTime = await signal.wait(until: deadline, on: clock) ?? false
    readyWaiters.removeAll { $0 === signal }
    if isInTime { return }
    try Task.checkCancellation()
    throw RedisError.notSent(outage ?? "timed out")
  }

  struct ConnectFailure: Error {
    let cause: RedisConnectionFailure
    /// The server closed the connection in place of an answer to the health check.
    var isCheckCutOff = false
  }

  /// One attempt: name resolution, connecting, TLS and handshake, all within the dial timeout.
  func connect() async -> Result<RedisConnection, ConnectFailure> {
    statistics.attempts += 1
    let deadline = clock.now.advanced(by: configuration.dialTimeout ?? RedisConfiguration.defaultDialTimeout)
    if configuration.usesTLS && tls == nil {
      tls = RedisTLS()
      if tls == nil { return .failure(ConnectFailure(cause: .other("TLS is not available"))) }
    }
    if let sentinels = configuration.sentinels { return await connectToMaster(sentinels, by: deadline) }
    let addresses: [RedisAddress]
    do {
      addresses = try await self.addresses(by: deadline)
    } catch {
      let reason = (error as? NameResolutionError)?.publicReason ?? "cancelled"
      return .failure(ConnectFailure(cause: .other(reason)))
    }
    var last: ConnectFailure?
    for (index, address) in addresses.enumerated() where !Task.isCancelled {
      // Each address gets a share of the time, so that one that hangs does not keep the next from being tried.
      let now = clock.now
      let share = now.advanced(by: now.duration(to: deadline) / (addresses.count - index))
      switch await open(address, by: share) {
      case .success(let connection): return .success(connection)
      case .failure(let failure):
        // A timeout or an error from one address is more informative than a refused connection at another.
        if failure.cause != .refused || last == nil { last = failure }
      }
    }
    return .failure(last ?? ConnectFailure(cause: .other("no address")))
  }

  private func connectToMaster(
    _ sentinels: RedisSentinels, by deadline: MonotonicInstant
  ) async -> Result<RedisConnection, ConnectFailure> {
    let search = RedisMasterSearch(
      sentinels, handshake: configuration.handshake(healthCheck, sendsHello: true), tls: tls,
      beginningAt: firstSentinel, by: deadline, on: clock)
    let result = await search.run()
    (master, firstSentinel, handshakeTook) = (search.server, search.answeringIndex, search.handshakeTook)
    return result
  }

  private func addresses(by deadline: MonotonicInstant) async throws -> [RedisAddress] {
    if let path = configuration.socketPath { return [.unix(path: path)] }
    return try await NameResolver.addresses(of: configuration.host, by: deadline, on: clock).map {
      .tcp($0, port: configuration.port)
    }
  }

  /// Opens one connection and completes its handshake.
  private func open(
    _ address: RedisAddress, by deadline: MonotonicInstant
  ) async -> Result<RedisConnection, ConnectFailure> {
    var sendsHello = true
    while true {
      let began = clock.now
      let connection = RedisConnection(
        address: address, tls: tls, host: configuration.host,
        handshake: configuration.handshake(healthCheck, sendsHello: sendsHello))
      guard let failure = await connection.handshakeEnd(by: deadline, on: clock) else {
        handshakeTook = began.duration(to: clock.now)
        return .success(connection)
      }
      let (isAwaitingMode, isAwaitingCheck) = (connection.isAwaitingMode, connection.isAwaitingCheck)
      connection.close()
      guard sendsHello, isAwaitingMode, failure == .closed(.endOfStream), !Task.isCancelled else {
        let isCutOff = isAwaitingCheck && failure.isClosing
        return .failure(ConnectFailure(cause: failure, isCheckCutOff: isCutOff))
      }
      // Some proxies close the connection on an unknown command.
      sendsHello = false
    }
  }

  /// Uses the connection until it ends; returns how it ended.
  private func serve(_ connection: RedisConnection) async -> Ending {
    if let failure = connection.failure { return .failed(failure) }
    let ended = OneShot<Ending>()
    self.ended = ended
    self.connection = connection
    (retireReason, isUsed, answeredAt) = (nil, false, clock.now)
    if healthCheck != nil { health.provenAt = clock.now }
    connection.onAnswer = { [weak self] value in self?.answered(value) }
    connection.onEnd = { [weak self] failure in self?.connectionEnded(failure) }
    statistics.connectsTotal += 1
    state = .ready
    let waiting = pipeline.opened(at: clock.now)
    trial.opened(trial.isSuspicious ? waiting.compactMap(ownersKind) : [], at: clock.now)
    // Before anything else can cancel one of them: the pipeline counts them as sent.
    for identifier in waiting { transmit(identifier) }
    if !trial.isOn {
      change(.ready)
    } else if let reason = trial.reason {
      change(.unavailable(reason: reason))
    }
    for signal in readyWaiters { signal.fire(true) }
    armTimer()
    connection.flush()

    if let ending = await ended.wait() {
      if case .failed(let failure) = ending { abandonConnection(failure) }
      return ending
    }
    // Cancelled: the answers that are due have their deadlines.
    pipeline.retire()
    failStopped()
    if pipeline.awaitedCount > 0 { _ = await ended.waitThroughCancellation() }
    abandonConnection(.stopped)
    return .failed(.stopped)
  }

  private func pause(_ reason: String) async {
    let delay = backoff.next(jitter: Random.system.fraction())
    let until = clock.now.advanced(by: delay)
    state = .waiting(until: until, reason: reason)
    change(.unavailable(reason: reason))
    do {
      try await clock.sleep(until: until)
    } catch {
      // Cancelled: the loop in `run` sees it.
    }
  }

  func change(_ availability: ServerAvailability) {
    guard availability != self.availability else { return }
    self.availability = availability
    onStateChange?(availability)
  }

  /// The client is unavailable because of `failure`. A client that ends when told to reports nothing.
  private func change(to failure: RedisConnectionFailure) {
    let availability = ServerAvailability.unavailable(reason: failure.reason)
    if failure == .stopped { self.availability = availability } else { change(availability) }
  }

  /// The connection has ended by itself.
  private func connectionEnded(_ failure: RedisConnectionFailure) {
    guard connection != nil else { return }
    let isIdle =
      retireReason == nil && !failure.isMisconduct && pipeline.isOpen
      && answeredAt.duration(to: clock.now) >= Self.idleAfter
      && pipeline.isAllRepeatable
    lost(failure, isIdle: isIdle)
  }

  /// - Parameter overdue: commands that have not been answered in time.
  private func lost(_ failure: RedisConnectionFailure, isIdle: Bool, overdue: [RedisTrial.Kind] = []) {
    connection = nil
    staleAnswerDeadline = nil
    noteLoss(failure, isIdle: isIdle, overdue)
    guard !isIdle else {
      state = .connecting
      ended?.fire(.idle(failure.reason))
      return fail(pipeline.lost(), .unknownOutcome(failure.reason))
    }
    let cause = trial.reason.map(RedisConnectionFailure.other) ?? failure
    // Now, not when `run` continues: the caller whose command just failed may read the state.
    state = .waiting(until: clock.now, reason: cause.reason)
    change(to: cause)
    ended?.fire(.failed(cause))
    fail(pipeline.lost(), .unknownOutcome(cause.reason))
  }

  func abandonConnection(_ failure: RedisConnectionFailure, overdue: [RedisTrial.Kind] = []) {
    guard let abandoned = connection else { return }
    lost(failure, isIdle: false, overdue: overdue)
    abandoned.close()
  }

  /// No answer came over a connection that had been idle: it was dropped silently on the way.
  func abandonForgottenConnection() {
    guard let abandoned = connection else { return }
    lost(.other("timed out while idle"), isIdle: true)
    abandoned.close()
  }

  /// Ends the connection when no more answers are awaited on it.
  func retire(_ reason: String) {
    guard connection != nil, retireReason == nil else { return }
    retireReason = reason
    pipeline.retire()
    state = .waiting(until: clock.now, reason: reason)
    change(.unavailable(reason: reason))
  }

  /// Ends a retired connection if no more answers are awaited on it, and sets the timer.
  func endIfRetired() {
    if connection != nil, !pipeline.isOpen, pipeline.awaitedCount == 0 {
      ended?.fire(.failed(retireReason.map(RedisConnectionFailure.other) ?? .stopped))
    }
    armTimer()
  }

  /// An answer came.
  func noteAnswer() {
    answeredAt = clock.now
    staleAnswerDeadline = nil
    isUsed = true
  }

  /// A command goes out alone: after a long silence, its answer gets a deadline.
  func limitFirstAnswer(isRepeatable: Bool) {
    let now = clock.now
    guard isRepeatable, answeredAt.duration(to: now) >= Self.staleAfter else { return }
    staleAnswerDeadline = now.advanced(by: max(Self.staleAnswerLimit, handshakeTook))
  }
}
