// Finds the master through Redis Sentinels: decides which one is asked next, and which server is tried. Pure.
// Invariant: an attempt ends, because each Sentinel is asked once a round and a server that failed is not tried again.
// Driven by RedisMasterSearch.

/// The Sentinels that watch a master, from a `redis+sentinel://` URL.
struct RedisSentinels: Sendable, Equatable {
  static let defaultPort: UInt16 = 26_379
  /// The maximum number of Sentinels in a URL.
  static let endpointLimit = 16

  var endpoints: [RedisEndpoint] = []
  /// The master's name in the Sentinels' configuration.
  var master = ""
  /// The login for the Sentinels themselves. That of the master and its replicas is in `RedisConfiguration`.
  var user: String?
  var password: String?

  var handshake: RedisHandshake { RedisHandshake(sentinelUser: user, password: password, master: master) }
}

/// A server's host, a name or an address, and its port.
struct RedisEndpoint: Sendable, Equatable {
  var host: String
  var port: UInt16

  var text: String { (host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host) + ":\(port)" }
}

/// One attempt:
///
///               named                          ready
///     asking ──────────▶ waiting for a server ───────▶ (connected)
///     ▲ │  ▲               │           │
///     │ │  └─── overdue ───┘           │ failed
///     │ ▼                              ▼
///     └─── the next Sentinel, if one is left in this round ──▶ (failed)
///
/// A server that does not answer may be the old master: the Sentinels are asked again during the wait, which ends as
/// soon as one of them names another server.
struct SentinelLookup {
  enum Action: Equatable {
    /// Ask the Sentinel at this index.
    case ask(Int)
    /// Connect to this server, and give up on the one that is being waited for.
    case connect(RedisEndpoint)
    /// Wait for the server.
    case wait
    case fail(RedisConnectionFailure)
  }

  private let count: Int
  private var index: Int
  private var askedCount = 0
  private var server: RedisEndpoint?
  private var failedServers: [RedisEndpoint] = []
  private var serverFailure: RedisConnectionFailure?
  private var sentinelFailure: RedisConnectionFailure?
  /// The Sentinel that answered last, where the next attempt begins: a Sentinel that hangs delays only one attempt.
  private(set) var answeringIndex: Int

  /// - Parameters:
  ///   - count: the number of Sentinels.
  ///   - index: the Sentinel to begin with.
  init(count: Int, beginningAt index: Int) {
    self.count = count
    self.index = index
    answeringIndex = index
  }

  /// The Sentinels still to be asked in this round, including the one that is being asked.
  var unaskedCount: Int { count - askedCount }

  func begin() -> Action { .ask(index) }

  /// The Sentinel named a server.
  mutating func named(_ endpoint: RedisEndpoint) -> Action {
    answeringIndex = index
    if endpoint == server { return .wait }
    if failedServers.contains(endpoint) { return next() }
    server = endpoint
    return .connect(endpoint)
  }

  /// The Sentinel named none.
  mutating func unanswered(_ failure: RedisConnectionFailure) -> Action {
    // An answer is more informative than none.
    switch failure {
    case .other, .loginRefused: sentinelFailure = failure
    default: sentinelFailure = sentinelFailure ?? failure
    }
    return next()
  }

  /// The server has not answered for a while.
  mutating func overdue() -> Action {
    askedCount = 0
    index = answeringIndex
    return .ask(index)
  }

  /// The server cannot be used: it is not there, refuses, or is not a master.
  mutating func failed(_ failure: RedisConnectionFailure) -> Action {
    if let server { failedServers.append(server) }
    (server, serverFailure) = (nil, failure)
    return next()
  }

  private mutating func next() -> Action {
    askedCount += 1
    if askedCount < count {
      index = (index + 1) % count
      return .ask(index)
    }
    if server != nil { return .wait }
    if let serverFailure { return .fail(serverFailure) }
    let failure = sentinelFailure ?? .timedOut
    let reason = "no Sentinel names the master: \(failure.reason)"
    return .fail(failure.isLoginRefused ? .loginRefused(reason) : .other(reason))
  }
}
