// How the Redis client judges its server's health: by the owner's health check, and by whether the owner's commands are
// answered. Invariant: the server is not reported ready while it is on trial.

extension RedisClient {
  /// The time limit of a check.
  private static let checkLimit = Duration.seconds(2)
  /// How old a success may be to be reused.
  private static let provenFor = Duration.seconds(1)

  /// Runs the health check unless it has just succeeded. If it fails, the client is unavailable until it succeeds.
  /// Without one, sends a PING; that the user may not run it is an answer, too.
  ///
  /// - Throws: `RedisError` with what is wrong.
  public func checkHealth(by deadline: MonotonicInstant) async throws(RedisError) {
    try await runHealthCheck(by: deadline)
    // It answers the check, but not the owner's commands.
    if trial.isOn, let outage { throw .notSent(outage) }
  }

  private func runHealthCheck(by deadline: MonotonicInstant) async throws(RedisError) {
    guard healthCheck != nil else {
      do {
        try await command(["PING"], isRepeatable: true, by: deadline)
      } catch .server(code: "NOPERM", _) {
        // An answer like any other.
      }
      return
    }
    do {
      try await waitUntilReady(by: deadline)
    } catch {
      throw error as? RedisError ?? .notSent("cancelled")
    }
    if health.provenAt.duration(to: clock.now) < Self.provenFor { return }
    let signal = OneShot<Result<RedisValue, RedisError>>()
    health.waiters.append(signal)
    sendHealthCheck()
    let result = await signal.wait(until: deadline, on: clock)
    health.waiters.removeAll { $0 === signal }
    _ = try result?.get()
    if result == nil { throw .unknownOutcome(Task.isCancelled ? "cancelled" : "timed out") }
  }

  /// Runs the health check if an error reply is about the server. Without a health check, some errors end the
  /// connection.
  func doubt(_ error: RedisErrorReply) {
    if configuration.isClusterNode, error.isRedirect { return }
    if healthCheck != nil {
      if error.concernsServer { sendHealthCheck() }
    } else if error.needsNewConnection {
      retire(error.explanation)
    }
  }

  private func sendHealthCheck() {
    guard let healthCheck, !health.isChecking else { return }
    health.isChecking = true
    sendCheck(healthCheck.commandByDigest)
  }

  private func sendCheck(_ words: [String]) {
    let deadline = clock.now.advanced(by: Self.checkLimit)
    switch pipeline.submit(deadline: deadline, now: clock.now, isRepeatable: true) {
    case .send(let identifier): admit(identifier, RedisCommand(words), 0, true, true, .healthCheck)
    case .wait(let identifier): admit(identifier, RedisCommand(words), 0, true, false, .healthCheck)
    case .refused: healthChecked(.failure(.notSent("too many commands wait")))
    }
  }

  func healthChecked(_ result: Result<RedisValue, RedisError>) {
    var result = result
    if case .failure(.server(let code, let message)) = result {
      let error = RedisErrorReply(code: code, message: message)
      if error.needsSource, let healthCheck, !health.isSourceSent {
        health.isSourceSent = true
        return sendCheck(healthCheck.commandBySource)
      }
      if configuration.isClusterNode, error.isRedirect {
        result = .success(.null)
      } else if !error.isKilledScript {
        retire(error.explanation)
      }
    }
    (health.isChecking, health.isSourceSent) = (false, false)
    if case .success = result { health.provenAt = clock.now }
    let waiters = health.waiters
    health.waiters = []
    for signal in waiters { signal.fire(result) }
  }
}

// MARK: - Trials

extension RedisClient {
  /// The connection is lost, and a command in flight may be the cause. Not if the connection was being retired.
  ///
  /// - Parameter overdue: what was in flight until its deadline.
  func noteLoss(_ failure: RedisConnectionFailure, isIdle: Bool, _ overdue: [RedisTrial.Kind]) {
    var kinds: [RedisTrial.Kind] = []
    if pipeline.isOpen {
      kinds = overdue + pipeline.awaited(limit: RedisTrial.suspectLimit).compactMap(ownersKind)
    }
    trial.lost(kinds, failure, isIdle: isIdle, at: clock.now)
  }

  /// Reports the server ready again if it is connected or rests.
  func endTrial() {
    switch state {
    case .ready, .resting, .connecting: change(.ready)
    case .idle, .waiting, .stopped: break
    }
  }

  /// The kind of an owner's command; nil for the client's own.
  func ownersKind(_ identifier: RedisPipeline.Identifier) -> RedisTrial.Kind? {
    guard let entry = pending[identifier], case .caller = entry.receiver else { return nil }
    return entry.kind
  }
}
