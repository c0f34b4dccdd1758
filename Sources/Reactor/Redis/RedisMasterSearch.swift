// Connects to the master that the Sentinels name. Invariant: every wait ends by the attempt's deadline, and only the
// connection that is returned stays open. Thin: SentinelLookup decides. Used by RedisClient.

@EventLoop
final class RedisMasterSearch {
  /// How long to wait for the server before the Sentinels are asked again.
  private static let patience = Duration.seconds(1)

  private let sentinels: RedisSentinels
  private let handshake: RedisHandshake
  private let tls: RedisTLS?
  private let clock: LoopClock
  private let deadline: MonotonicInstant
  private var lookup: SentinelLookup
  /// The connection that is being opened, its server, and the server's addresses that have not been tried.
  private var opening: RedisConnection?
  private(set) var server: RedisEndpoint?
  private var addresses: ArraySlice<String> = []
  private var openedAt: MonotonicInstant
  private var isCheckCutOff = false

  /// - Parameters:
  ///   - handshake: for the master.
  ///   - first: the Sentinel to begin with.
  init(
    _ sentinels: RedisSentinels, handshake: RedisHandshake, tls: RedisTLS?, beginningAt first: Int,
    by deadline: MonotonicInstant, on clock: LoopClock
  ) {
    self.sentinels = sentinels
    self.handshake = handshake
    self.tls = tls
    self.deadline = deadline
    self.clock = clock
    openedAt = clock.now
    lookup = SentinelLookup(count: sentinels.endpoints.count, beginningAt: first)
  }

  /// The Sentinel that the next attempt should begin with.
  var answeringIndex: Int { lookup.answeringIndex }

  /// How long the last connection to a server has taken.
  var handshakeTook: Duration { openedAt.duration(to: clock.now) }

  func run() async -> Result<RedisConnection, RedisClient.ConnectFailure> {
    var action = lookup.begin()
    while true {
      switch action {
      case .ask(let index): action = await ask(sentinels.endpoints[index])
      case .connect(let endpoint): action = await begin(endpoint)
      case .wait:
        guard let connection = opening else { preconditionFailure("a server is waited for over a connection") }
        guard let next = await waited(for: connection) else { return .success(connection) }
        action = next
      case .fail(let failure):
        return .failure(RedisClient.ConnectFailure(cause: failure, isCheckCutOff: isCheckCutOff))
      }
      guard !Task.isCancelled, clock.now < deadline else { return .failure(givenUp()) }
    }
  }

  private func givenUp() -> RedisClient.ConnectFailure {
    let isCutOff = opening?.isAwaitingCheck ?? false
    opening?.close()
    return RedisClient.ConnectFailure(cause: .timedOut, isCheckCutOff: isCutOff)
  }

  // MARK: - Sentinels

  private func ask(_ sentinel: RedisEndpoint) async -> SentinelLookup.Action {
    let now = clock.now
    let limit = now.advanced(by: now.duration(to: deadline) / (lookup.unaskedCount + 1))
    var failure = RedisConnectionFailure.timedOut
    let addresses: [String]
    do {
      addresses = try await NameResolver.addresses(of: sentinel.host, by: limit, on: clock)
    } catch {
      let reason = (error as? NameResolutionError)?.publicReason ?? "cancelled"
      return lookup.unanswered(.other(reason))
    }
    // One name can resolve to all Sentinels.
    for (index, address) in addresses.enumerated() where !Task.isCancelled {
      let now = clock.now
      let share = now.advanced(by: now.duration(to: limit) / (addresses.count - index))
      let connection = RedisConnection(
        address: .tcp(address, port: sentinel.port), tls: tls, host: sentinel.host, handshake: sentinels.handshake)
      let ending = await connection.handshakeEnd(by: share, on: clock)
      let master = connection.namedMaster
      connection.close()
      if let master { return lookup.named(master) }
      failure = ending ?? .other("not the Sentinel protocol")
    }
    return lookup.unanswered(failure)
  }

  // MARK: - The server

  private func begin(_ endpoint: RedisEndpoint) async -> SentinelLookup.Action {
    opening.take()?.close()
    server = endpoint
    do {
      let limit = min(deadline, clock.now.advanced(by: Self.patience))
      addresses = try await NameResolver.addresses(of: endpoint.host, by: limit, on: clock)[...]
    } catch {
      let reason = (error as? NameResolutionError)?.publicReason ?? "cancelled"
      return lookup.failed(.other(reason))
    }
    return openNext(after: .other("no address"))
  }

  /// Opens a connection to the server's next address.
  private func openNext(after failure: RedisConnectionFailure) -> SentinelLookup.Action {
    guard let server, let address = addresses.popFirst() else { return lookup.failed(failure) }
    openedAt = clock.now
    opening = RedisConnection(
      address: .tcp(address, port: server.port), tls: tls, host: server.host, handshake: handshake)
    return .wait
  }

  /// Waits for the server, at most for `patience`. Returns nil once the connection is ready.
  private func waited(for connection: RedisConnection) async -> SentinelLookup.Action? {
    let limit = min(deadline, clock.now.advanced(by: Self.patience))
    guard let failure = await connection.handshakeEnd(by: limit, on: clock) else { return nil }
    if failure == .timedOut, addresses.isEmpty { return lookup.overdue() }
    isCheckCutOff = connection.isAwaitingCheck && failure.isClosing
    opening.take()?.close()
    return openNext(after: failure)
  }
}
