// Asks the nodes of a Redis Cluster for the slot map until one answers. Invariant: every wait ends by the search's
// deadline, and no connection stays open. Used by RedisCluster.

@EventLoop
struct ClusterSearch {
  /// The delay before the next node or address is tried concurrently.
  private static let patience = Duration.seconds(1)

  typealias Answer = Result<ClusterTopology, RedisConnectionFailure>

  let configuration: RedisConfiguration
  let tls: RedisTLS?
  let clock: LoopClock

  /// The first node's answer, or the most informative failure if none answers. A slow node has until the deadline, but
  /// does not prevent asking the others.
  func topology(askingInTurn nodes: [RedisEndpoint], by deadline: MonotonicInstant) async -> Answer {
    await first(of: nodes, by: deadline) { await ask($0, by: deadline) }
  }

  private func ask(_ node: RedisEndpoint, by deadline: MonotonicInstant) async -> Answer {
    let addresses: [String]
    do {
      addresses = try await NameResolver.addresses(of: node.host, by: deadline, on: clock)
    } catch {
      return .failure(.other((error as? NameResolutionError)?.publicReason ?? "cancelled"))
    }
    // One name can resolve to all nodes.
    return await first(of: addresses, by: deadline) { await ask(node, at: $0, by: deadline) }
  }

  private func ask(_ node: RedisEndpoint, at address: String, by deadline: MonotonicInstant) async -> Answer {
    let connection = RedisConnection(
      address: .tcp(address, port: node.port), tls: tls, host: node.host,
      handshake: RedisHandshake(clusterUser: configuration.user, password: configuration.password))
    let ending = await connection.handshakeEnd(by: deadline, on: clock)
    let slots = connection.clusterSlots
    connection.close()
    // The address, not the name, which can resolve to several nodes.
    if let slots, let topology = ClusterTopology(slots: slots, from: tls == nil ? address : node.host) {
      return .success(topology)
    }
    return .failure(ending ?? .other("no node of the cluster has slots"))
  }

  // MARK: - In turn

  private enum Event: Sendable {
    case answered(Answer)
    case patienceOver
  }

  /// Asks the next one when the previous one has failed or has not answered within `patience`.
  private func first<Place: Sendable>(
    of places: [Place], by deadline: MonotonicInstant, ask: @escaping @EventLoop (Place) async -> Answer
  ) async -> Answer {
    let pause = min(Self.patience, clock.now.duration(to: deadline) / (places.count + 1))
    return await withTaskGroup(of: Event.self) { group in
      var rest = places[...]
      var asked = 0
      var failure: RedisConnectionFailure?
      func askNext() {
        guard let place = rest.popFirst() else { return }
        asked += 1
        group.addTask { await event(of: place, ask) }
        if !rest.isEmpty { group.addTask { await event(after: pause) } }
      }
      askNext()
      var failed = 0
      while failed < asked || !rest.isEmpty, let event = await group.next() {
        switch event {
        case .answered(.success(let topology)):
          group.cancelAll()
          return .success(topology)
        case .answered(.failure(let next)):
          failed += 1
          failure = Self.moreTelling(failure, next)
          askNext()
        case .patienceOver:
          askNext()
        }
      }
      group.cancelAll()
      return .failure(failure ?? .timedOut)
    }
  }

  private func event<Place: Sendable>(of place: Place, _ ask: @EventLoop (Place) async -> Answer) async -> Event {
    .answered(await ask(place))
  }

  private func event(after pause: Duration) async -> Event {
    // Cancelled: an answer has come.
    try? await clock.sleep(for: pause)
    return .patienceOver
  }

  /// An answer is more informative than none.
  private static func moreTelling(_ old: RedisConnectionFailure?, _ new: RedisConnectionFailure)
    -> RedisConnectionFailure
  {
    switch new {
    case .other, .loginRefused: new
    default: old ?? new
    }
  }
}
