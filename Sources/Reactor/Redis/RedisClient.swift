// The Redis client: one connection, kept up by `run`, shared by all who have commands.
// Invariant: every command ends by its deadline, and whether it may have been executed is part of how it ends.

import CReactor

/// Where the client is in its connection's life.
public enum RedisState: Sendable, Equatable {
  /// `run` has not been called.
  case idle
  case connecting
  case ready
  /// The last connection or attempt failed; the next attempt is at that instant.
  case waiting(until: MonotonicInstant, reason: String)
  /// `run` has ended.
  case stopped
}

/// Whether commands can be sent, and what stands against it.
public enum RedisAvailability: Sendable, Equatable {
  case ready
  /// The reason may be shown to anyone. A server that hangs "timed out", one that is away is "connection refused".
  case unavailable(reason: String)
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
  private static let ownEnd = "stopped"

  /// A connection that lived as long as this was a success: the next failure is again the first.
  private static let steadyAfter: Duration = .seconds(2)

  public private(set) var state: RedisState = .idle
  public private(set) var statistics = RedisStatistics()
  /// Called when the client becomes ready, unavailable, or unavailable for another reason: once a change, not once a
  /// try.
  public var onStateChange: (@EventLoop (RedisAvailability) -> Void)?

  private let configuration: RedisConfiguration
  private let clock: LoopClock
  private var backoff: Backoff
  private var tls: RedisTLS?
  private var availability: RedisAvailability?
  private var readyWaiters: [LoopSignal<Bool>] = []

  private var pipeline = RedisPipeline()
  private var pending: [RedisPipeline.Identifier: Pending] = [:]
  private var connection: RedisConnection?
  private var ended: LoopSignal<String>?
  private var retireReason: String?
  private var timer: TimerWatcher?
  private var timerAt: MonotonicInstant?

  private struct Pending {
    /// Until it is sent.
    var command: RedisCommand?
    let continuation: CheckedContinuation<Result<RedisValue, RedisError>, Never>
  }

  public init(
    _ configuration: RedisConfiguration, clock: LoopClock = .system, backoff: Backoff = RedisClient.defaultBackoff
  ) {
    self.configuration = configuration
    self.clock = clock
    self.backoff = backoff
  }

  public var isReady: Bool { state == .ready }

  /// Why the client is not ready, fit to be shown to anyone; nil while it is.
  public var outage: String? {
    switch availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "not connected yet"
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
      let outage: String
      switch await connect() {
      case .success(let connection):
        let began = clock.now
        outage = await serve(connection)
        if began.duration(to: clock.now) >= Self.steadyAfter { backoff.reset() }
      case .failure(let failure):
        outage = failure.reason
      }
      if !Task.isCancelled { await pause(outage) }
    }
    state = .stopped
    change(.unavailable(reason: Self.ownEnd))
    fail(pipeline.stop(), .notSent(Self.ownEnd))
    for signal in readyWaiters { signal.fire(false) }
  }

  /// Waits until commands can be sent.
  ///
  /// - Throws: `RedisError.notSent` with the reason at the deadline, `CancellationError`.
  public func waitUntilReady(by deadline: MonotonicInstant) async throws {
    guard !isReady else { return }
    guard state != .stopped else { throw RedisError.notSent(Self.ownEnd) }
    let signal = LoopSignal<Bool>()
    readyWaiters.append(signal)
    let isInTime = await signal.wait(until: systemTime(of: deadline)) ?? false
    readyWaiters.removeAll { $0 === signal }
    if isInTime { return }
    try Task.checkCancellation()
    throw RedisError.notSent(outage ?? "timed out")
  }

  private struct ConnectFailure: Error {
    let reason: String
  }

  /// One attempt: resolve, connect, TLS, hello; all of it within the dial timeout.
  private func connect() async -> Result<RedisConnection, ConnectFailure> {
    statistics.attempts += 1
    let deadline = MonotonicInstant.system.advanced(
      by: configuration.dialTimeout ?? RedisConfiguration.defaultDialTimeout)
    if configuration.usesTLS && tls == nil {
      tls = RedisTLS(host: configuration.host)
      if tls == nil { return .failure(ConnectFailure(reason: "TLS is not available")) }
    }
    let addresses: [String]
    do {
      addresses = try await NameResolver.addresses(of: configuration.host, by: deadline)
    } catch {
      let reason = (error as? NameResolutionError)?.publicReason ?? "cancelled"
      return .failure(ConnectFailure(reason: reason))
    }
    var reason = "no address"
    for (index, address) in addresses.enumerated() where !Task.isCancelled {
      // Each address gets its share, so that one that hangs does not keep the next from being tried.
      let left = MonotonicInstant.system.duration(to: deadline)
      let share = MonotonicInstant.system.advanced(by: left / (addresses.count - index))
      let connection = RedisConnection(
        address: address, port: configuration.port, tls: tls, handshake: configuration.handshake)
      guard let refusal = await connection.greeting(by: share) else { return .success(connection) }
      connection.close()
      // Of several addresses, one that hangs or refuses says more than one where nobody listens.
      if refusal != "connection refused" || reason == "no address" { reason = refusal }
    }
    return .failure(ConnectFailure(reason: reason))
  }

  /// Uses the connection until it ends, and says why it did.
  private func serve(_ connection: RedisConnection) async -> String {
    if let reason = connection.endReason { return reason }
    let ended = LoopSignal<String>()
    self.ended = ended
    self.connection = connection
    retireReason = nil
    connection.onAnswer = { [weak self] value in self?.answered(value) }
    connection.onEnd = { [weak self] reason in self?.connectionEnded(reason) }
    statistics.connectsTotal += 1
    state = .ready
    change(.ready)
    for signal in readyWaiters { signal.fire(true) }
    for identifier in pipeline.opened() { transmit(identifier) }
    connection.flush()

    if let reason = await ended.wait() {
      abandonConnection(reason)
      return reason
    }
    // Cancelled: what callers still wait for has its deadlines.
    pipeline.retire()
    fail(pipeline.stop(), .notSent(Self.ownEnd))
    if pipeline.awaitedCount > 0 { _ = await ended.waitThroughCancellation() }
    abandonConnection(Self.ownEnd)
    return Self.ownEnd
  }

  private func pause(_ reason: String) async {
    let delay = backoff.next(chance: Chance.fraction())
    let until = clock.now.advanced(by: delay)
    state = .waiting(until: until, reason: reason)
    change(.unavailable(reason: reason))
    do {
      try await clock.sleep(until: until)
    } catch {
      // Cancelled: the loop in `run` sees it.
    }
  }

  private func change(_ availability: RedisAvailability) {
    guard availability != self.availability else { return }
    self.availability = availability
    // That it ends when it is told to is no news.
    if availability != .unavailable(reason: Self.ownEnd) { onStateChange?(availability) }
  }

  /// The connection is gone: by itself, or given up.
  private func connectionEnded(_ reason: String) {
    guard connection != nil else { return }
    connection = nil
    // At once, not when `run` goes on: whose command just failed may ask.
    state = .waiting(until: clock.now, reason: reason)
    change(.unavailable(reason: reason))
    fail(pipeline.lost(), .unknownOutcome(reason))
    ended?.fire(reason)
  }

  private func abandonConnection(_ reason: String) {
    let abandoned = connection
    connectionEnded(reason)
    abandoned?.close()
  }
}

// MARK: - Commands

extension RedisClient {
  /// Sends a command and waits for its answer.
  ///
  /// While there is no connection the command waits for one. An error inside of an array is a value. The connection is
  /// shared: no command that blocks (BLPOP), and scripts instead of MULTI.
  ///
  /// - Parameter deadline: on the client's clock.
  /// - Throws: `RedisError`. A cancelled task's command ends at once: not sent, or of unknown outcome.
  @discardableResult
  public func command(
    _ arguments: [String], by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await submit(RedisCommand(arguments), by: deadline)
  }

  /// As above, with arguments that are any bytes.
  @discardableResult
  public func command(
    bytes arguments: [[UInt8]], by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await submit(RedisCommand(arguments), by: deadline)
  }

  /// Runs a script, by its digest where the server knows it.
  ///
  /// - Throws: `RedisError`, as `command`.
  @discardableResult
  public func evaluate(
    _ script: RedisScript, keys: [String], arguments: [String], by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    let rest = [String(keys.count)] + keys + arguments
    do {
      return try await command(["EVALSHA", script.sha1] + rest, by: deadline)
    } catch .server(code: "NOSCRIPT", message: _) {
      return try await command(["EVAL", script.source] + rest, by: deadline)
    }
  }

  /// Commands that change what other commands mean on the connection that all share.
  private static let refused: Set<String> = [
    "AUTH", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE", "QUIT", "RESET",
    "SELECT", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE", "UNWATCH", "WATCH",
  ]

  private func submit(_ command: RedisCommand, by deadline: MonotonicInstant) async throws(RedisError) -> RedisValue {
    precondition(!command.lengths.isEmpty && !Self.refused.contains(command.name), "not on a shared connection")
    statistics.commands += 1
    if Task.isCancelled { throw .notSent("cancelled") }
    let identifier: RedisPipeline.Identifier
    let isSent: Bool
    switch pipeline.submit(deadline: deadline, now: clock.now) {
    case .send(let admitted): (identifier, isSent) = (admitted, true)
    case .wait(let admitted): (identifier, isSent) = (admitted, false)
    case .refused(.expired):
      statistics.timeouts += 1
      throw .notSent("its deadline had passed")
    case .refused(.tooMany): throw .notSent("too many commands wait")
    case .refused(.stopped): throw .notSent(Self.ownEnd)
    }
    let result = await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        pending[identifier] = Pending(command: command, continuation: continuation)
        armTimer()
        if isSent {
          transmit(identifier)
          // With others in flight the loop's next turn sends a batch; alone there is nothing to wait for.
          if pipeline.inFlightCount == 1 { connection?.flush() }
        }
      }
    } onCancel: {
      EventLoop.perform { self.cancel(identifier) }
    }
    return try result.get()
  }

  private func transmit(_ identifier: RedisPipeline.Identifier) {
    guard let command = pending[identifier]?.command else { return }
    pending[identifier]?.command = nil
    connection?.send(command)
  }

  private func answered(_ value: RedisValue) {
    switch pipeline.answered() {
    case .drop: break
    case .deliver(let identifier): deliver(value, to: identifier)
    case .unexpected: return abandonConnection(RedisEvents.Misconduct.unasked.rawValue)
    }
    if case .error(let code, _) = value, RedisError.asksForAnotherConnection(code) {
      retireReason = RedisError.explanation(of: code)
      pipeline.retire()
    }
    settle()
  }

  private func deliver(_ value: RedisValue, to identifier: RedisPipeline.Identifier) {
    let result: Result<RedisValue, RedisError>
    if case .error(let code, let message) = value {
      result = .failure(.server(code: code, message: message))
    } else {
      result = .success(value)
    }
    pending.removeValue(forKey: identifier)?.continuation.resume(returning: result)
  }

  private func cancel(_ identifier: RedisPipeline.Identifier) {
    switch pipeline.cancel(identifier) {
    case .notSent: fail([identifier], .notSent("cancelled"))
    case .unknownOutcome: fail([identifier], .unknownOutcome("cancelled"))
    case .tooLate: break
    }
    settle()
  }

  private func deadlinePassed(_ instant: MonotonicInstant) {
    timerAt = nil
    let expired = pipeline.expire(now: max(clock.now, instant))
    statistics.timeouts += expired.notSent.count + expired.unknownOutcome.count
    fail(expired.notSent, .notSent(outage ?? "timed out"))
    fail(expired.unknownOutcome, .unknownOutcome("timed out"))
    // An answer is overdue: the peer hangs, and what it says later must not be taken for another one's answer.
    if expired.isConnectionSuspect { abandonConnection("timed out") }
    settle()
  }

  private func fail(_ identifiers: [RedisPipeline.Identifier], _ error: RedisError) {
    for identifier in identifiers {
      pending.removeValue(forKey: identifier)?.continuation.resume(returning: .failure(error))
    }
    armTimer()
  }

  /// Ends a connection that is to go once nobody waits for an answer on it, and sets the timer.
  private func settle() {
    if connection != nil, !pipeline.isOpen, pipeline.awaitedCount == 0 {
      ended?.fire(retireReason ?? Self.ownEnd)
    }
    armTimer()
  }

  private func armTimer() {
    guard pipeline.wakeAt != timerAt else { return }
    timerAt = pipeline.wakeAt
    guard let instant = pipeline.wakeAt else {
      timer?.stop()
      return
    }
    // A new watcher's closure would allocate each time: one is kept, and asks for the instant that it was set for.
    let timer = self.timer ?? TimerWatcher { [weak self] in self?.timerFired() }
    self.timer = timer
    timer.start(at: systemTime(of: instant))
  }

  private func timerFired() {
    deadlinePassed(timerAt ?? clock.now)
  }

  /// A deadline on the client's clock as one on the system's, on which the loop's timers run.
  private func systemTime(of deadline: MonotonicInstant) -> MonotonicInstant {
    MonotonicInstant.system.advanced(by: clock.now.duration(to: deadline))
  }
}
