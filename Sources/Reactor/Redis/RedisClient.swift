// The Redis client: one connection, kept up by `run`, shared by all who have commands.
// Invariant: every command ends by its deadline, and whether it may have been executed is part of how it ends.

import CReactor

/// Where the client is in its connection's life.
public enum RedisState: Sendable, Equatable {
  /// `run` has not been called.
  case idle
  case connecting
  case ready
  /// The last connection was closed while nobody needed it; the next command opens another one.
  case resting
  /// The last connection or attempt failed; the next attempt is at that instant.
  case waiting(until: MonotonicInstant, reason: String)
  /// `run` has ended.
  case stopped
}

/// What the client did since it began.
public struct RedisStatistics: Sendable, Equatable {
  /// Connections that became ready.
  public internal(set) var connectsTotal = 0
  /// The same without the first.
  public var reconnects: Int { max(0, connectsTotal - 1) }
  /// Attempts to connect, successful or not.
  public internal(set) var attempts = 0
  /// Commands that were asked for.
  public internal(set) var commands = 0
  /// Commands whose deadline passed.
  public internal(set) var timeouts = 0
}

@EventLoop
public final class RedisClient {
  /// The reconnects' delays: within 5 s of its return the server has been asked again.
  public nonisolated static let defaultBackoff = Backoff(
    initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)

  /// Why there is no connection once `run` has been cancelled.
  static let ownEnd = "stopped"

  /// A connection that lived as long as this was a success: the next failure is again the first.
  private static let steadyAfter: Duration = .seconds(2)

  /// After so long without an answer a connection is idle: that it is closed then is no outage.
  static let idleAfter: Duration = .seconds(1)
  /// After so long without an answer the next one is looked out for: something on the way may have forgotten the
  /// connection without a word.
  static let lookAfter: Duration = .seconds(5)
  /// How long that answer may take, or as long as connecting took where that is more.
  static let lookLimit: Duration = .milliseconds(700)

  public internal(set) var state: RedisState = .idle
  public internal(set) var statistics = RedisStatistics()
  /// Called when the client becomes ready, unavailable, or unavailable for another reason: once a change, not once a
  /// try.
  public var onStateChange: (@EventLoop (ServerAvailability) -> Void)?
  /// Called with the reason when an idle connection was closed or found lost, which changes nothing: another one is
  /// opened.
  public var onIdleEnd: (@EventLoop (String) -> Void)?

  let configuration: RedisConfiguration
  let healthCheck: RedisHealthCheck?
  let clock: LoopClock
  private var backoff: Backoff
  private var tls: RedisTLS?
  private var availability: ServerAvailability?
  private var readyWaiters: [OneShot<Bool>] = []
  /// Fires where a command needs a connection while the client rests.
  private var need: OneShot<Void>?

  var pipeline = RedisPipeline()
  var pending: [RedisPipeline.Identifier: Pending] = [:]
  /// What the commands take that are pending.
  var pendingBytes = 0
  var connection: RedisConnection?
  private var ended: OneShot<Ending>?
  private var retireReason: String?
  var timer: TimerWatcher?
  var timerAt: MonotonicInstant?
  /// When the connection last had an answer.
  var heardAt = MonotonicInstant(nanoseconds: .min)
  /// When the first command after a long silence has to be answered; nil if it has no deadline.
  var lookUntil: MonotonicInstant?
  private var helloTook = Duration.zero
  private var isUsed = false

  var health = Health()
  /// What lost connections say of the commands that were in flight.
  var trial = RedisTrial()

  /// A command whose answer is to come.
  struct Pending {
    /// Until it is sent, and of one that may be sent again until it is answered.
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

  /// What is known of the server's health by the owner's check.
  struct Health {
    /// When the check last succeeded.
    var provenAt = MonotonicInstant(nanoseconds: .min)
    var isAsked = false
    /// The server did not know the script.
    var isSourceSent = false
    var waiters: [OneShot<Result<RedisValue, RedisError>>] = []
  }

  /// How a connection ended.
  private enum Ending {
    case failed(String)
    /// Nobody noticed: it was idle.
    case idle(String)
  }

  /// - Parameter healthCheck: what has to succeed on a connection: the client is unavailable until it does.
  ///   It is run on each new connection, by `checkHealth`, and where an answer tells that the server refuses its work.
  ///   Nil: a server that answers a PING is well.
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

  /// Why the client is not ready, fit to be shown to anyone; nil while it is.
  public var outage: String? {
    switch availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "connecting"
    }
  }
}

// MARK: - The connection

extension RedisClient {
  /// Connects, and reconnects for as long as the task is not cancelled. Called once.
  ///
  /// When cancelled it takes no further command, waits for the answers that callers still wait for (each bounded by
  /// its deadline), and disconnects.
  public func run() async {
    precondition(state == .idle, "a client runs once")
    while !Task.isCancelled {
      state = .connecting
      switch await connect() {
      case .success(let connection):
        let began = clock.now
        let ending = await serve(connection)
        if began.duration(to: clock.now) >= Self.steadyAfter { backoff.reset() }
        if !Task.isCancelled { await goOn(after: ending) }
      case .failure(let failure):
        if failure.isCheckCutOff { trial.lost([RedisTrial.check], failure.reason, isIdle: false, at: clock.now) }
        let reason = failure.isCheckCutOff ? trial.reason : nil
        if !Task.isCancelled { await pause(reason ?? failure.reason) }
      }
    }
    state = .stopped
    change(.unavailable(reason: Self.ownEnd))
    failStopped()
    for signal in readyWaiters { signal.fire(false) }
  }

  private func goOn(after ending: Ending) async {
    switch ending {
    case .failed(let reason):
      await pause(reason)
    case .idle(let reason):
      onIdleEnd?(reason)
      // One that was used is opened again at once, to see whether the server is there. A server that closes idle
      // connections closes that one, too: then it is opened when it is needed.
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

  /// A connection is needed: the client rests no longer.
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

  private struct ConnectFailure: Error {
    let reason: String
    /// The server closed the connection in place of an answer to the health check.
    var isCheckCutOff = false
  }

  /// One attempt: resolve, connect, TLS, hello; all of it within the dial timeout.
  private func connect() async -> Result<RedisConnection, ConnectFailure> {
    statistics.attempts += 1
    let deadline = clock.now.advanced(by: configuration.dialTimeout ?? RedisConfiguration.defaultDialTimeout)
    if configuration.usesTLS && tls == nil {
      tls = RedisTLS(host: configuration.host)
      if tls == nil { return .failure(ConnectFailure(reason: "TLS is not available")) }
    }
    let addresses: [RedisAddress]
    do {
      addresses = try await self.addresses(by: deadline)
    } catch {
      let reason = (error as? NameResolutionError)?.publicReason ?? "cancelled"
      return .failure(ConnectFailure(reason: reason))
    }
    var last = ConnectFailure(reason: "no address")
    for (index, address) in addresses.enumerated() where !Task.isCancelled {
      // Each address gets its share, so that one that hangs does not keep the next from being tried.
      let now = clock.now
      let share = now.advanced(by: now.duration(to: deadline) / (addresses.count - index))
      switch await greet(address, by: share) {
      case .success(let connection): return .success(connection)
      case .failure(let failure):
        // Of several addresses, one that hangs or refuses says more than one where nobody listens.
        if failure.reason != "connection refused" || last.reason == "no address" { last = failure }
      }
    }
    return .failure(last)
  }

  private func addresses(by deadline: MonotonicInstant) async throws -> [RedisAddress] {
    if let path = configuration.socketPath { return [.unix(path: path)] }
    return try await NameResolver.addresses(of: configuration.host, by: deadline, on: clock).map {
      .tcp($0, port: configuration.port)
    }
  }

  /// One connection, until its hello is answered.
  private func greet(
    _ address: RedisAddress, by deadline: MonotonicInstant
  ) async -> Result<RedisConnection, ConnectFailure> {
    var asksForMode = true
    while true {
      let began = clock.now
      let connection = RedisConnection(
        address: address, tls: tls, handshake: configuration.handshake(healthCheck, asksForMode: asksForMode))
      guard let refusal = await connection.greeting(by: deadline, on: clock) else {
        helloTook = began.duration(to: clock.now)
        return .success(connection)
      }
      let (isAwaitingMode, isAwaitingCheck) = (connection.isAwaitingMode, connection.isAwaitingCheck)
      connection.close()
      guard asksForMode, isAwaitingMode, refusal == RedisConnection.closedByServer, !Task.isCancelled else {
        let isCutOff = isAwaitingCheck && RedisConnection.isClosing(refusal)
        return .failure(ConnectFailure(reason: refusal, isCheckCutOff: isCutOff))
      }
      // Some proxies close the connection on a command that they do not know.
      asksForMode = false
    }
  }

  /// Uses the connection until it ends, and says how it did.
  private func serve(_ connection: RedisConnection) async -> Ending {
    if let reason = connection.endReason { return .failed(reason) }
    let ended = OneShot<Ending>()
    self.ended = ended
    self.connection = connection
    (retireReason, isUsed, heardAt) = (nil, false, clock.now)
    if healthCheck != nil { health.provenAt = clock.now }
    connection.onAnswer = { [weak self] value in self?.answered(value) }
    connection.onEnd = { [weak self] reason in self?.connectionEnded(reason) }
    statistics.connectsTotal += 1
    state = .ready
    let waiting = pipeline.opened()
    trial.opened(trial.isSuspicious ? waiting.compactMap(ownersKind) : [], at: clock.now)
    if !trial.isOn {
      change(.ready)
    } else if let reason = trial.reason {
      change(.unavailable(reason: reason))
    }
    for signal in readyWaiters { signal.fire(true) }
    for identifier in waiting { transmit(identifier) }
    armTimer()
    connection.flush()

    if let ending = await ended.wait() {
      if case .failed(let reason) = ending { abandonConnection(reason) }
      return ending
    }
    // Cancelled: what callers still wait for has its deadlines.
    pipeline.retire()
    failStopped()
    if pipeline.awaitedCount > 0 { _ = await ended.waitThroughCancellation() }
    abandonConnection(Self.ownEnd)
    return .failed(Self.ownEnd)
  }

  private func pause(_ reason: String) async {
    let delay = backoff.next(chance: Random.system.fraction())
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
    // That it ends when it is told to is no news.
    if availability != .unavailable(reason: Self.ownEnd) { onStateChange?(availability) }
  }

  /// The connection is gone: by itself, or given up.
  private func connectionEnded(_ reason: String) {
    guard connection != nil else { return }
    let isIdle =
      retireReason == nil && !RedisEvents.isMisconduct(reason) && pipeline.isOpen
      && heardAt.duration(to: clock.now) >= Self.idleAfter
      && pipeline.isAllRepeatable
    lost(isIdle ? .idle(reason) : .failed(reason))
  }

  /// - Parameter overdue: commands that have not been answered in time.
  private func lost(_ ending: Ending, _ overdue: [RedisTrial.Kind] = []) {
    connection = nil
    lookUntil = nil
    let reason: String
    switch ending {
    case .idle(let why):
      noteLoss(why, isIdle: true, overdue)
      reason = why
      state = .connecting
      ended?.fire(ending)
    case .failed(let why):
      noteLoss(why, isIdle: false, overdue)
      reason = trial.reason ?? why
      // At once, not when `run` goes on: whose command just failed may ask.
      state = .waiting(until: clock.now, reason: reason)
      change(.unavailable(reason: reason))
      ended?.fire(.failed(reason))
    }
    fail(pipeline.lost(), .unknownOutcome(reason))
  }

  func abandonConnection(_ reason: String, overdue: [RedisTrial.Kind] = []) {
    guard let abandoned = connection else { return }
    lost(.failed(reason), overdue)
    abandoned.close()
  }

  /// Nothing came back over a connection that had been idle: something on the way has forgotten it.
  func abandonForgottenConnection() {
    guard let abandoned = connection else { return }
    lost(.idle("timed out while idle"))
    abandoned.close()
  }

  /// Ends the connection once nobody waits for an answer on it.
  func retire(_ reason: String) {
    guard connection != nil, retireReason == nil else { return }
    retireReason = reason
    pipeline.retire()
    state = .waiting(until: clock.now, reason: reason)
    change(.unavailable(reason: reason))
  }

  /// Ends a connection that is to go once nobody waits for an answer on it, and sets the timer.
  func settle() {
    if connection != nil, !pipeline.isOpen, pipeline.awaitedCount == 0 {
      ended?.fire(.failed(retireReason ?? Self.ownEnd))
    }
    armTimer()
  }

  /// An answer came.
  func heard() {
    heardAt = clock.now
    lookUntil = nil
    isUsed = true
  }

  /// A command goes out alone: after a long silence its answer is looked out for.
  func lookOut(forRepeatable isRepeatable: Bool) {
    let now = clock.now
    guard isRepeatable, heardAt.duration(to: now) >= Self.lookAfter else { return }
    lookUntil = now.advanced(by: max(Self.lookLimit, helloTook))
  }
}
