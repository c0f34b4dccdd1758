// A Redis Cluster as one server: a client for each needed node, and the slots as reported by the nodes.
// Invariants: a node has at most one client, and loses it when it is no longer a master with slots; while anything is
// wrong the slots are refreshed, at most once in 100 ms. Thin: ClusterTopology and ClusterRoute decide.

/// The client of a Redis Cluster.
///
/// Its commands are scripts with keys in one slot, and commands on one key. It has no subscriptions.
@EventLoop
public final class RedisCluster {
  /// The maximum number of nodes connected at the same time.
  public nonisolated static let nodeLimit = 64

  /// Called when the cluster becomes ready, unavailable, or unavailable for another reason.
  public var onStateChange: (@EventLoop (ServerAvailability) -> Void)?
  /// Called with the reason when an idle connection to a node was closed or found lost.
  public var onIdleEnd: (@EventLoop (String) -> Void)?
  /// Called when a node refuses user or password. If it calls `logIn(as:)` with new ones, the node is retried once
  /// immediately.
  public var onLoginRefused: (@EventLoop () -> Void)?

  let clock: LoopClock
  private(set) var configuration: RedisConfiguration
  private let healthChecks: [(slot: UInt16, check: RedisHealthCheck)]
  var topology = ClusterTopology()
  var nodes: [Node] = []
  private var availability: ServerAvailability?
  private var readyWaiters: [OneShot<Bool>] = []
  private var tls: RedisTLS?
  private var isStopped = false
  /// The counters of former clients.
  private var pastStatistics = RedisStatistics()

  private var unserved: [Node] = []
  /// Fires when there are nodes whose clients have not been started.
  private let addedNode = WakeUp()
  /// Fires when the slots may have changed.
  private let doubt = WakeUp()
  private var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(1), jitter: 0.2)
  private var searches = 0

  /// A node with its client.
  @EventLoop
  final class Node {
    let endpoint: RedisEndpoint
    let client: RedisClient
    /// Fires when the client must end.
    let retirement = OneShot<Void>()
    var isRetired = false

    init(_ endpoint: RedisEndpoint, client: RedisClient) {
      (self.endpoint, self.client) = (endpoint, client)
    }
  }

  /// - Parameters:
  ///   - configuration: of a cluster.
  ///   - healthChecks: each with its keys in one slot. The cluster is ready when every node that has one of these slots
  ///     is, which takes one of its checks. Without any it is ready as soon as a node has told the slots.
  public init(_ configuration: RedisConfiguration, healthChecks: [RedisHealthCheck] = [], clock: LoopClock) {
    precondition(configuration.isCluster, "a cluster's URL")
    self.configuration = configuration
    self.healthChecks = healthChecks.map { (ClusterSlot.of($0.keys.first ?? ""), $0) }
    self.clock = clock
  }

  /// Why the cluster is not ready, in words that may be shown to anyone: a node is named by a slot, not by its address.
  public var outage: String? {
    switch availability {
    case .ready: nil
    case .unavailable(let reason): reason
    case nil: "connecting"
    }
  }

  /// The counters of all clients together.
  public var statistics: RedisStatistics {
    nodes.reduce(into: pastStatistics) { $0.add($1.client.statistics) }
  }

  /// Learns the slots and keeps the connections, until the task is cancelled. Called once.
  public func run() async {
    if configuration.usesTLS { tls = RedisTLS() }
    await withDiscardingTaskGroup { group in
      group.addTask { await self.keepLearning() }
      do {
        while true {
          for node in unserved { group.addTask { await self.serve(node) } }
          unserved = []
          try await clock.sleep(until: .never, orUntil: addedNode)
        }
      } catch {
        // Cancelled, like the clients.
      }
      isStopped = true
    }
    availability = .unavailable(reason: RedisClient.ownEnd)
    for signal in readyWaiters { signal.fire(false) }
  }

  private func serve(_ node: Node) async {
    await withTaskGroup { group in
      group.addTask { await node.client.run() }
      _ = await node.retirement.wait()
      group.cancelAll()
    }
  }

  /// Waits until the cluster is ready.
  ///
  /// - Throws: `RedisError.notSent` with the reason at the deadline, `CancellationError`.
  public func waitUntilReady(by deadline: MonotonicInstant) async throws {
    guard outage != nil else { return }
    guard !isStopped else { throw RedisError.notSent(RedisClient.ownEnd) }
    let signal = OneShot<Bool>()
    readyWaiters.append(signal)
    let isInTime = await signal.wait(until: deadline, on: clock) ?? false
    readyWaiters.removeAll { $0 === signal }
    if isInTime { return }
    try Task.checkCancellation()
    throw RedisError.notSent(outage ?? "timed out")
  }

  /// Runs a health check on each node that has one of the checks' slots.
  ///
  /// - Throws: `RedisError.notSent` with what is wrong, and with the slot of the first node that fails.
  public func checkHealth(by deadline: MonotonicInstant) async throws(RedisError) {
    while topology.isEmpty {
      do {
        try await clock.sleep(until: min(deadline, clock.now.advanced(by: ClusterRoute.pause)))
      } catch {
        throw .notSent("cancelled")
      }
      if clock.now >= deadline { throw .notSent(outage ?? "timed out") }
    }
    var checked: [RedisEndpoint] = []
    for (slot, _) in healthChecks {
      guard let endpoint = topology.node(of: slot) else { throw .notSent(Self.words(slot, nil)) }
      guard !checked.contains(endpoint) else { continue }
      checked.append(endpoint)
      guard let node = node(at: endpoint) else { throw .notSent("the cluster has too many nodes") }
      do throws(RedisError) {
        try await node.client.checkHealth(by: deadline)
      } catch {
        throw .notSent(Self.words(slot, error.publicReason))
      }
    }
  }

  private static func words(_ slot: UInt16, _ reason: String?) -> String {
    reason.map { "the node of slot \(slot): \($0)" } ?? "no node of the cluster has slot \(slot)"
  }
}

// MARK: - Login

extension RedisCluster {
  /// Uses the user and password of `other` for connections opened from now on. Its other settings are ignored.
  public func logIn(as other: RedisConfiguration) {
    configuration = configuration.withLogin(of: other)
    for node in nodes { node.client.logIn(as: configuration) }
  }

  /// Reads the certificate authorities again for the next connections.
  public func renewAuthorities() {
    guard configuration.usesTLS else { return }
    tls = RedisTLS()
    for node in nodes { node.client.tls = tls }
  }
}

// MARK: - Nodes

extension RedisCluster {
  /// The node, with a client; nil if there are too many, or the cluster's client has ended.
  func node(at endpoint: RedisEndpoint) -> Node? {
    if let node = nodes.first(where: { $0.endpoint == endpoint }) { return node }
    guard nodes.count < Self.nodeLimit, !isStopped else { return nil }
    let client = RedisClient(configuration.node(endpoint), clock: clock)
    client.tls = tls
    client.onStateChange = { [weak self] in self?.nodeChanged(to: $0) }
    client.onIdleEnd = { [weak self] reason in self?.onIdleEnd?(reason) }
    client.onLoginRefused = { [weak self] in self?.onLoginRefused?() }
    let node = Node(endpoint, client: client)
    nodes.append(node)
    unserved.append(node)
    addedNode.fire()
    return node
  }

  private func retire(_ node: Node) {
    node.isRetired = true
    node.client.onStateChange = nil
    pastStatistics.add(node.client.statistics)
    nodes.removeAll { $0 === node }
    unserved.removeAll { $0 === node }
    node.retirement.fire(())
  }

  private func nodeChanged(to availability: ServerAvailability) {
    if case .unavailable = availability { learnSoon() }
    reportChange()
  }

  /// A node that connects for the first time changes nothing yet.
  private func reportChange(learning failure: String? = nil) {
    var outage = topology.isEmpty ? failure : nil
    var isConnecting = topology.isEmpty
    for (slot, _) in healthChecks where outage == nil && !topology.isEmpty {
      guard let endpoint = topology.node(of: slot) else {
        outage = Self.words(slot, nil)
        break
      }
      let client = nodes.first { $0.endpoint == endpoint }?.client
      outage = client?.reportedOutage.map { Self.words(slot, $0) }
      isConnecting = isConnecting || client == nil || client?.outage != nil
    }
    if let outage {
      change(to: .unavailable(reason: outage))
    } else if !isConnecting {
      change(to: .ready)
    }
  }

  private func change(to availability: ServerAvailability) {
    guard availability != self.availability, !isStopped else { return }
    self.availability = availability
    onStateChange?(availability)
    guard availability == .ready else { return }
    for signal in readyWaiters { signal.fire(true) }
  }
}

// MARK: - Slots

extension RedisCluster {
  /// The slots may have moved, or a node may have left.
  func learnSoon() {
    doubt.fire()
  }

  private var isTroubled: Bool {
    if case .unavailable = availability { true } else { false }
  }

  /// Learns the slots, and again whenever something is in doubt. While all is well, it sleeps.
  private func keepLearning() async {
    do {
      while true {
        await learn()
        if !isTroubled { backoff.reset() }
        try await clock.sleep(for: backoff.next(jitter: Random.system.fraction()))
        if !isTroubled { try await clock.sleep(until: .never, orUntil: doubt) }
      }
    } catch {
      // Cancelled.
    }
  }

  private func learn() async {
    let limit = clock.now.advanced(by: configuration.dialTimeout ?? RedisConfiguration.defaultDialTimeout)
    switch await searchWithLogin(by: limit) {
    case .success(let topology): adopt(topology)
    case .failure(let failure): if !Task.isCancelled { reportChange(learning: failure.reason) }
    }
  }

  /// Asks again once if user or password were refused and have changed since.
  private func searchWithLogin(
    by limit: MonotonicInstant
  ) async -> Result<ClusterTopology, RedisConnectionFailure> {
    await retryingRefusedLogin(
      { configuration }, onRefusal: onLoginRefused, isRefused: Self.isRefusedLogin,
      attempt: {
        await ClusterSearch(configuration: configuration, tls: tls, clock: clock)
          .topology(askingInTurn: candidates(), by: limit)
      })
  }

  private static func isRefusedLogin(_ result: Result<ClusterTopology, RedisConnectionFailure>) -> Bool {
    guard case .failure(let failure) = result else { return false }
    return failure.isLoginRefused && !Task.isCancelled
  }

  /// Responsive nodes come first, in rotation, because an isolated node can report old slots.
  private func candidates() -> [RedisEndpoint] {
    var candidates = nodes.filter { $0.client.isReady }.map(\.endpoint)
    if !candidates.isEmpty {
      let first = searches % candidates.count
      candidates = Array(candidates[first...] + candidates[..<first])
    }
    searches += 1
    for endpoint in configuration.clusterSeeds + topology.nodes where !candidates.contains(endpoint) {
      candidates.append(endpoint)
    }
    return candidates
  }

  private func adopt(_ topology: ClusterTopology) {
    self.topology = topology
    let masters = topology.nodes
    for node in nodes where !masters.contains(node.endpoint) { retire(node) }
    var checked: [RedisEndpoint] = []
    for (slot, check) in healthChecks {
      guard let endpoint = topology.node(of: slot), !checked.contains(endpoint) else { continue }
      checked.append(endpoint)
      node(at: endpoint)?.client.healthCheck = check
    }
    for node in nodes where !checked.contains(node.endpoint) { node.client.healthCheck = nil }
    reportChange()
  }
}

// MARK: - Without a client

extension RedisCluster {
  /// How many slots a cluster has.
  public nonisolated static let slotCount = ClusterSlot.count

  /// The masters of a cluster, each with its address and how to reach it, and their total number of slots.
  ///
  /// - Throws: `RedisError.notSent` if no node reports them.
  public static func masters(
    _ configuration: RedisConfiguration, by deadline: MonotonicInstant, on clock: LoopClock
  ) async throws(RedisError) -> (nodes: [(name: String, configuration: RedisConfiguration)], coveredSlots: Int) {
    let search = ClusterSearch(
      configuration: configuration, tls: configuration.usesTLS ? RedisTLS() : nil, clock: clock)
    switch await search.topology(askingInTurn: configuration.clusterSeeds, by: deadline) {
    case .success(let topology):
      return (topology.nodes.map { ($0.text, configuration.node($0)) }, topology.coveredCount)
    case .failure(let failure): throw .notSent(failure.reason)
    }
  }
}
