// Asks the nodes of a Redis Cluster which node has which slots, until one answers. Invariant: every wait ends by the
// search's deadline, and no connection stays open. Used by RedisCluster.

@EventLoop
struct ClusterSearch {
  /// How long after one node or address the next one is asked as well.
  private static let patience = Duration.seconds(1)

  typealias Answer = Result<ClusterTopology, RedisConnectionFailure>

  let configuration: RedisConfiguration
  let tls: RedisTLS?
  let clock: LoopClock

  /// The answer of the first node that gives one; the failure that tells most if none does. A node that is slow is
  /// given until the deadline, but does not keep the others from being asked.
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
    // One name may stand for all nodes.
    return await first(of: addresses, by: deadline) { await ask(node, at: $0, by: deadline) }
  }

  private func ask(_ node: RedisEndpoint, at address: String, by deadline: MonotonicInstant) async -> Answer {
    let connection = RedisConnection(
      address: .tcp(address, port: node.port), tls: tls, host: node.host,
      handshake: RedisHandshake(clusterUser: configuration.user, password: configuration.password))
    let ending = await connection.handshakeEnd(by: deadline, on: clock)
    let slots = connection.clusterSlots
    connection.close()
    // The address, not the name: it may stand for several nodes.
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

  /// Asks the next one once the one before it has failed, or has not answered within `patience`.
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

  /// An answer tells more than an absence.
  private static func moreTelling(_ old: RedisConnectionFailure?, _ new: RedisConnectionFailure)
    -> RedisConnectionFailure
  {
    switch new {
    case .other, .loginRefused: new
    default: old ?? new
    }
  }
}
