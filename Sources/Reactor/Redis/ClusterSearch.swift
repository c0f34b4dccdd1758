// Asks the nodes of a Redis Cluster, one after the other, which node has which slots. Invariant: every wait ends by the
// search's deadline, and no connection stays open. Used by RedisCluster.

@EventLoop
struct ClusterSearch {
  /// How long one node may take.
  private static let patience = Duration.seconds(1)

  let configuration: RedisConfiguration
  let tls: RedisTLS?
  let clock: LoopClock

  /// The answer of the first node that gives one; the failure that tells most if none does.
  func topology(
    askingInTurn nodes: [RedisEndpoint], by deadline: MonotonicInstant
  ) async -> Result<ClusterTopology, RedisConnectionFailure> {
    var failure: RedisConnectionFailure?
    for (index, node) in nodes.enumerated() where !Task.isCancelled {
      let now = clock.now
      let share = now.advanced(by: min(Self.patience, now.duration(to: deadline) / (nodes.count - index)))
      switch await ask(node, by: share) {
      case .success(let topology): return .success(topology)
      case .failure(let next):
        // An answer tells more than an absence.
        switch next {
        case .other, .loginRefused: failure = next
        default: failure = failure ?? next
        }
      }
    }
    return .failure(failure ?? .timedOut)
  }

  private func ask(
    _ node: RedisEndpoint, by limit: MonotonicInstant
  ) async -> Result<ClusterTopology, RedisConnectionFailure> {
    let addresses: [String]
    do {
      addresses = try await NameResolver.addresses(of: node.host, by: limit, on: clock)
    } catch {
      return .failure(.other((error as? NameResolutionError)?.publicReason ?? "cancelled"))
    }
    var failure = RedisConnectionFailure.timedOut
    // One name may stand for all nodes.
    for (index, address) in addresses.enumerated() where !Task.isCancelled {
      let now = clock.now
      let share = now.advanced(by: now.duration(to: limit) / (addresses.count - index))
      let connection = RedisConnection(
        address: .tcp(address, port: node.port), tls: tls, host: node.host,
        handshake: RedisHandshake(clusterUser: configuration.user, password: configuration.password))
      let ending = await connection.handshakeEnd(by: share, on: clock)
      let slots = connection.clusterSlots
      connection.close()
      // The address, not the name: it may stand for several nodes.
      if let slots, let topology = ClusterTopology(slots: slots, from: tls == nil ? address : node.host) {
        return .success(topology)
      }
      failure = ending ?? .other("no node of the cluster has slots")
    }
    return .failure(failure)
  }
}
