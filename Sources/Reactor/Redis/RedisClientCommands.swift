// The Redis client's commands. Invariant: every command ends by its deadline, and its result says whether it may have
// been executed.

import CReactor

// MARK: - Commands

extension RedisClient {
  /// The maximum size in bytes of all unanswered commands together; further ones are refused.
  public nonisolated static let pendingByteLimit = 64 * 1024 * 1024

  /// Sends a command and waits for its answer.
  ///
  /// A command waits while there is no connection. An error inside an array is a value. The connection is shared: send
  /// no blocking commands such as BLPOP, and use scripts instead of MULTI.
  ///
  /// - Parameters:
  ///   - isRepeatable: whether executing it twice does no harm. If the connection is lost before the answer, it is then
  ///     sent once more over the next one, within its deadline.
  ///   - deadline: on the client's clock.
  /// - Throws: `RedisError`. A cancelled task's command ends at once: not sent, or of unknown outcome. A command that
  ///   changes what others mean on the connection (MULTI, SELECT, SUBSCRIBE, …) and an empty one are not sent.
  @discardableResult
  public func command(
    _ arguments: [String], isRepeatable: Bool = false, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await submit(RedisCommand(arguments), isRepeatable, by: deadline)
  }

  /// Like the other `command`, with arguments of arbitrary bytes.
  @discardableResult
  public func command(
    bytes arguments: [[UInt8]], isRepeatable: Bool = false, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await submit(RedisCommand(arguments), isRepeatable, by: deadline)
  }

  /// Runs a script, by its digest if the server knows it.
  ///
  /// - Parameter isRepeatable: as for `command`.
  /// - Throws: `RedisError`, as `command`.
  @discardableResult
  public func evaluate(
    _ script: RedisScript, keys: [String], arguments: [String], isRepeatable: Bool = false,
    by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await evaluate(script, keys, arguments, isAsking: false, isRepeatable: isRepeatable, by: deadline)
  }

  func evaluate(
    _ script: RedisScript, _ keys: [String], _ arguments: [String], isAsking: Bool, isRepeatable: Bool,
    by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    let rest = [String(keys.count)] + keys + arguments
    var short = RedisCommand(["EVALSHA", script.sha1] + rest)
    short.isAsking = isAsking
    do {
      return try await submit(short, isRepeatable, by: deadline)
    } catch .server(let code, let message) where RedisErrorReply(code: code, message: message).needsSource {
      var long = RedisCommand(["EVAL", script.source] + rest)
      long.isAsking = isAsking
      return try await submit(long, kind: short.kind, isRepeatable, by: deadline)
    }
  }

  /// To a node of a cluster.
  func command(
    _ arguments: [String], isAsking: Bool, isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    var command = RedisCommand(arguments)
    command.isAsking = isAsking
    return try await submit(command, isRepeatable, by: deadline)
  }

  /// Commands that change the meaning of other commands on the shared connection.
  private static let refused: [StaticString] = [
    "AUTH", "CLIENT REPLY", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE",
    "QUIT", "RESET", "SCRIPT DEBUG", "SELECT", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE",
    "UNWATCH", "WATCH",
  ]

  private func submit(
    _ command: RedisCommand, kind: RedisTrial.Kind? = nil, _ isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    guard !command.lengths.isEmpty else { throw .notSent("an empty command") }
    for name in Self.refused where command.begins(with: name) {
      throw .notSent("\(name) is not possible on a shared connection")
    }
    statistics.commands += 1
    if Task.isCancelled { throw .notSent("cancelled") }
    guard command.bytes.count <= Self.pendingByteLimit - pendingBytes else { throw .notSent("too many bytes wait") }
    let identifier: RedisPipeline.Identifier
    let isSent: Bool
    switch pipeline.submit(deadline: deadline, now: clock.now, isRepeatable: isRepeatable) {
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
        admit(identifier, command, kind ?? command.kind, isRepeatable, isSent, .caller(continuation))
      }
    } onCancel: {
      EventLoop.perform { self.cancel(identifier) }
    }
    return try result.get()
  }

  func admit(
    _ identifier: RedisPipeline.Identifier, _ command: RedisCommand, _ kind: RedisTrial.Kind, _ isRepeatable: Bool,
    _ isSent: Bool, _ receiver: Pending.Receiver
  ) {
    // What is sent now and never again need not be kept.
    pending[identifier] = Pending(
      command: isSent && !isRepeatable ? nil : command, isRepeatable: isRepeatable, byteCount: command.bytes.count,
      kind: kind, receiver: receiver)
    pendingBytes += command.bytes.count
    if !isSent { wakeFromRest() }
    if isSent, pipeline.inFlightCount == 1 { limitFirstAnswer(isRepeatable: isRepeatable) }
    armTimer()
    guard isSent else { return }
    connection?.send(command)
    // With others in flight, the loop's next turn sends a batch. A single command is sent at once.
    if pipeline.inFlightCount == 1 { connection?.flush() }
  }

  /// Sends a command that has waited.
  func transmit(_ identifier: RedisPipeline.Identifier) {
    guard let entry = pending[identifier], let command = entry.command else {
      preconditionFailure("a command is kept until it is sent for the last time")
    }
    if !entry.isRepeatable { pending[identifier]?.command = nil }
    connection?.send(command)
  }

  func answered(_ value: RedisValue) {
    noteAnswer()
    switch pipeline.answered() {
    case .drop: break
    case .deliver(let identifier): deliver(value, to: identifier)
    }
    if case .error(let code, let message) = value { doubt(RedisErrorReply(code: code, message: message)) }
    endIfRetired()
  }

  private func deliver(_ value: RedisValue, to identifier: RedisPipeline.Identifier) {
    if trial.isSuspicious, Self.isProof(value), let kind = ownersKind(identifier), trial.answered(kind) { endTrial() }
    if case .error(let code, let message) = value {
      finish(identifier, .failure(.server(code: code, message: message)))
    } else {
      finish(identifier, .success(value))
    }
  }

  /// Whether an answer proves that the command was executed. Not if the server needs the script's source, or is in
  /// doubt.
  private static func isProof(_ value: RedisValue) -> Bool {
    guard case .error(let code, let message) = value else { return true }
    let error = RedisErrorReply(code: code, message: message)
    return !error.needsSource && !error.concernsServer
  }

  private func finish(_ identifier: RedisPipeline.Identifier, _ result: Result<RedisValue, RedisError>) {
    guard let entry = pending.removeValue(forKey: identifier) else { preconditionFailure("a command ends once") }
    pendingBytes -= entry.byteCount
    switch entry.receiver {
    case .caller(let continuation): continuation.resume(returning: result)
    case .healthCheck: healthChecked(result)
    }
  }

  private func cancel(_ identifier: RedisPipeline.Identifier) {
    // A race: it has ended, or another thread cancelled its task before it was admitted; then it ends by its deadline.
    guard pending[identifier] != nil else { return }
    switch pipeline.cancel(identifier) {
    case .notSent: fail([identifier], .notSent("cancelled"))
    case .unknownOutcome: fail([identifier], .unknownOutcome("cancelled"))
    case .tooLate: break
    }
    endIfRetired()
  }

  private func timerFired() {
    timerAt = nil
    let now = clock.now
    let expired = pipeline.expire(now: now)
    statistics.timeouts += expired.notSent.count + expired.unknownOutcome.count
    let overdue = expired.isConnectionSuspect ? expired.unknownOutcome.compactMap(ownersKind) : []
    fail(expired.notSent, .notSent(outage ?? "timed out"))
    fail(expired.unknownOutcome, .unknownOutcome("timed out"))
    // An answer is overdue: the peer hangs, and a late answer must not be taken for that of another command.
    if expired.isConnectionSuspect { abandonConnection(.timedOut, overdue: overdue) }
    if let staleAnswerDeadline, staleAnswerDeadline <= now {
      self.staleAnswerDeadline = nil
      if pipeline.isAllRepeatable { abandonForgottenConnection() }
    }
    if trial.passed(at: now) { endTrial() }
    endIfRetired()
  }

  func fail(_ identifiers: [RedisPipeline.Identifier], _ error: RedisError) {
    for identifier in identifiers { finish(identifier, .failure(error)) }
    armTimer()
  }

  func armTimer() {
    var wakeAt = pipeline.wakeAt
    if let staleAnswerDeadline { wakeAt = min(wakeAt ?? staleAnswerDeadline, staleAnswerDeadline) }
    if let endsAt = trial.endsAt { wakeAt = min(wakeAt ?? endsAt, endsAt) }
    guard wakeAt != timerAt else { return }
    timerAt = wakeAt
    guard let instant = wakeAt else {
      timer?.stop()
      return
    }
    // One watcher is kept, because a new one would allocate each time.
    let timer = self.timer ?? TimerWatcher(clock) { [weak self] in self?.timerFired() }
    self.timer = timer
    timer.start(at: instant)
  }
}
