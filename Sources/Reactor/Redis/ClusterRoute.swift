// One command's way through a Redis Cluster: which node is sent it, and what follows from an error. Pure. Invariants:
// it ends by its deadline, with a bounded number of redirections between two pauses; a command that may have been
// executed is sent again only if it is repeatable, and once; no error that leaves this names a node. Driven by
// RedisCluster.
//
//               choose                         answer
//     (begin) ──────────▶ sent to the slot's node ───────▶ (done)
//       ▲  │ no node         │  ▲   │
//       │  ▼                 │  └───┘ MOVED: to that node; ASK: to that node, after ASKING
//     waiting ◀──────────────┘ TRYAGAIN, CLUSTERDOWN, READONLY, LOADING, MASTERDOWN; the node has left the cluster
//
// A waiting command chooses again after a pause, while the slots are refreshed.

struct ClusterRoute {
  enum Action: Equatable {
    case send(to: RedisEndpoint, isAsking: Bool)
    /// The slots may have moved: choose again at this instant.
    case wait(until: MonotonicInstant)
    case fail(RedisError)
  }

  /// The most redirections in a row. A slot that moves costs two; more are a cluster whose nodes disagree.
  static let redirectLimit = 5
  /// How long a command waits before it is sent again.
  static let pause = Duration.milliseconds(100)

  let slot: UInt16
  private let isRepeatable: Bool
  private let deadline: MonotonicInstant
  private var redirects = 0
  private var isRepeated = false
  private var lastError: RedisError?

  init(slot: UInt16, isRepeatable: Bool, deadline: MonotonicInstant) {
    self.slot = slot
    self.isRepeatable = isRepeatable
    self.deadline = deadline
  }

  mutating func choose(in topology: ClusterTopology, at now: MonotonicInstant) -> Action {
    if let node = topology.node(of: slot), now < deadline { return .send(to: node, isAsking: false) }
    return wait(
      .notSent(topology.isEmpty ? "no node has answered" : "no node of the cluster has slot \(slot)"), at: now)
  }

  /// The command failed at a node.
  ///
  /// - Parameters:
  ///   - host: the node's host.
  ///   - isGone: the node has left the cluster meanwhile, or is no longer a master.
  mutating func failed(
    _ error: RedisError, at host: String, isGone: Bool, in topology: inout ClusterTopology, now: MonotonicInstant
  ) -> Action {
    switch error {
    case .server(let code, let message) where code == "MOVED" || code == "ASK":
      return redirected(ClusterRedirect(message, from: host), isAsking: code == "ASK", &topology)
    // It was not executed.
    case .server(code: "TRYAGAIN", _): return wait(.notSent("slot \(slot) is being moved to another node"), at: now)
    case .server(let code, _) where ["CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"].contains(code):
      return wait(error, at: now)
    case .notSent where isGone: return wait(error, at: now)
    case .unknownOutcome where isGone && isRepeatable && !isRepeated:
      isRepeated = true
      return wait(error, at: now)
    case .server, .notSent, .unknownOutcome: return .fail(outcome(of: error))
    }
  }

  /// Its caller has left.
  var cancelled: RedisError { outcome(of: .notSent("cancelled")) }

  private mutating func redirected(
    _ redirect: ClusterRedirect?, isAsking: Bool, _ topology: inout ClusterTopology
  ) -> Action {
    redirects += 1
    guard let redirect, redirect.slot == slot, redirects <= Self.redirectLimit else {
      return .fail(outcome(of: .notSent("the nodes of the cluster disagree about slot \(slot)")))
    }
    if !isAsking { topology.note(redirect) }
    return .send(to: redirect.node, isAsking: isAsking)
  }

  private mutating func wait(_ error: RedisError, at now: MonotonicInstant) -> Action {
    lastError = outcome(of: error)
    // A slot that is being moved redirects each time. The pauses and the deadline are the bound then.
    redirects = 0
    let until = now.advanced(by: Self.pause)
    return until < deadline ? .wait(until: until) : .fail(lastError ?? error)
  }

  /// Once its outcome is unknown, it remains unknown.
  private func outcome(of error: RedisError) -> RedisError {
    guard isRepeated, case .notSent(let reason) = error else { return error }
    return .unknownOutcome(reason)
  }
}
