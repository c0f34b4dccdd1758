// The commands of a Redis Cluster's client. Invariant: every command ends by its deadline, and its result says whether
// it may have been executed. Thin: ClusterRoute decides.

extension RedisCluster {
  /// Sends a command on one key, its first argument, to the node that has the key.
  ///
  /// - Parameters:
  ///   - isRepeatable: whether executing it twice does no harm.
  ///   - deadline: on the client's clock.
  /// - Throws: `RedisError`.
  @discardableResult
  public func command(
    _ arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await command(arguments, near: arguments.count > 1 ? arguments[1] : "", isRepeatable, by: deadline)
  }

  /// Runs a script whose keys are in one slot on the node that has it.
  ///
  /// - Throws: `RedisError`, as `command`.
  @discardableResult
  public func evaluate(
    _ script: RedisScript, keys: [String], arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await perform(near: keys.first ?? "", isRepeatable, by: deadline) { client, isAsking throws(RedisError) in
      try await client.evaluate(script, keys, arguments, isAsking: isAsking, isRepeatable: isRepeatable, by: deadline)
    }
  }

  /// The clock of the node that has a key, as the answer to TIME.
  ///
  /// - Throws: `RedisError`, as `command`.
  public func time(near key: String, by deadline: MonotonicInstant) async throws(RedisError) -> RedisValue {
    try await command(["TIME"], near: key, true, by: deadline)
  }

  private func command(
    _ arguments: [String], near key: String, _ isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    try await perform(near: key, isRepeatable, by: deadline) { client, isAsking throws(RedisError) in
      try await client.command(arguments, isAsking: isAsking, isRepeatable: isRepeatable, by: deadline)
    }
  }

  private func perform(
    near key: String, _ isRepeatable: Bool, by deadline: MonotonicInstant,
    _ send: @EventLoop (RedisClient, Bool) async throws(RedisError) -> RedisValue
  ) async throws(RedisError) -> RedisValue {
    var route = ClusterRoute(slot: ClusterSlot.of(key), isRepeatable: isRepeatable, deadline: deadline)
    var action = route.choose(in: topology, at: clock.now)
    while true {
      switch action {
      case .send(let endpoint, let isAsking):
        guard let node = node(at: endpoint) else { throw .notSent(outage ?? "the cluster has too many nodes") }
        do throws(RedisError) {
          return try await send(node.client, isAsking)
        } catch {
          let known = topology
          action = route.failed(
            error, at: endpoint.host, isGone: node.isRetired && !Task.isCancelled, in: &topology, now: clock.now)
          if known != topology { learnSoon() }
        }
      case .wait(let until):
        learnSoon()
        do {
          try await clock.sleep(until: until)
        } catch {
          throw route.cancelled
        }
        action = route.choose(in: topology, at: clock.now)
      case .fail(.notSent(let reason)): throw .notSent(topology.isEmpty ? outage ?? reason : reason)
      case .fail(let error): throw error
      }
    }
  }
}
