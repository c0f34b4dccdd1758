// Where to connect, as whom and to which database, parsed from a Redis URL. Pure.
// Invariant: no fault, no warning and no redacted form contains the password or anything else of unknown meaning.
// Read once at boot; used by RedisClient.

/// Every fault of a Redis URL, each with what was expected.
public struct RedisURLFault: Error, Sendable, Equatable {
  public let faults: [String]
}

/// Where and how to connect to Redis.
public struct RedisConfiguration: ServerConfiguration, Sendable {
  public static let defaultDialTimeout: Duration = .seconds(5)
  public static let defaultPort: UInt16 = 6379

  public internal(set) var host = "localhost"
  public internal(set) var port = defaultPort
  /// The path of a Unix domain socket, instead of host and port.
  public internal(set) var socketPath: String?
  public internal(set) var usesTLS = false
  public internal(set) var database = 0
  public internal(set) var clientName: String?
  /// How the master is found, instead of host and port.
  var sentinels: RedisSentinels?
  /// Nodes of a Redis Cluster, any of which reports the others, instead of host and port.
  var clusterSeeds: [RedisEndpoint] = []
  /// Whether it is for one node of a Redis Cluster.
  var isClusterNode = false
  var user: String?
  var password: String?
  /// The time limit of one attempt to connect, from name resolution to the answered PING: the URL's `dial_timeout`.
  /// Nil: `defaultDialTimeout`.
  public var dialTimeout: Duration?
  /// Settings in the URL that have no effect here, each with the reason.
  public internal(set) var warnings: [String] = []

  /// Reads `redis://[user[:password]@]host[:port][/database][?settings]`, `rediss://` for TLS,
  /// `unix://[user[:password]@]/path/of/a.sock[?db=database]`, or, for a master that Redis Sentinels watch,
  /// `redis+sentinel://[user[:password]@]host[:port][,…]/master[/database][?settings]` (`rediss+sentinel://`: TLS with
  /// the Sentinels and the master).
  ///
  /// `redis+cluster://[user[:password]@]host[:port][,…][?settings]` (`rediss+cluster://` with TLS) is a Redis Cluster,
  /// which has no other database than 0: `RedisCluster` is its client.
  ///
  /// User and password are the master's; those of the Sentinels are the settings sentinel_user and sentinel_password.
  ///
  /// The settings are those of the go-redis client: db, client_name and dial_timeout are used; its other settings
  /// are ignored with a warning.
  ///
  /// - Throws: `RedisURLFault` with every fault of the URL.
  public init(url: String) throws(RedisURLFault) {
    try self.init(url: url, hasTLS: RedisTLS.isAvailable)
  }

  init(url: String, hasTLS: Bool) throws(RedisURLFault) {
    var parser = RedisURLParser(hasTLS: hasTLS)
    parser.parse(url)
    guard parser.faults.isEmpty else { throw RedisURLFault(faults: parser.faults) }
    self = parser.configuration
  }

  init() {}

  /// The user in the URL, or "default" if there is none. Nil for a user without a password, which may be a misplaced
  /// password.
  public var loginUser: String? { password == nil && user != nil ? nil : user ?? "default" }

  /// The URL without password and settings. A user without a password may be a misplaced password, and is omitted.
  public var redactedURL: String {
    let login = password == nil ? "" : "\(user ?? ""):***@"
    if let socketPath { return "unix://\(login)\(socketPath)?db=\(database)" }
    if isCluster { return (usesTLS ? "rediss+cluster://" : "redis+cluster://") + login + Self.list(clusterSeeds) }
    guard let sentinels else {
      return (usesTLS ? "rediss://" : "redis://") + login + RedisEndpoint(host: host, port: port).text + "/\(database)"
    }
    let hosts = Self.list(sentinels.endpoints)
    return (usesTLS ? "rediss+sentinel://" : "redis+sentinel://") + login + hosts + "/\(sentinels.master)/\(database)"
  }

  private static func list(_ endpoints: [RedisEndpoint]) -> String {
    var list = ""
    for endpoint in endpoints { list += (list.isEmpty ? "" : ",") + endpoint.text }
    return list
  }

  /// Whether the URL is that of a Redis Cluster.
  public var isCluster: Bool { !clusterSeeds.isEmpty }

  /// How one node of the cluster is reached.
  func node(_ endpoint: RedisEndpoint) -> RedisConfiguration {
    var node = self
    (node.host, node.port, node.clusterSeeds, node.isClusterNode) = (endpoint.host, endpoint.port, [], true)
    return node
  }

  /// The names or addresses in the URL that are resolved, with their ports; none for a socket.
  public var endpoints: [(host: String, port: String)] {
    if socketPath != nil { return [] }
    if isCluster { return clusterSeeds.map { ($0.host, "\($0.port)") } }
    guard let sentinels else { return [(host, "\(port)")] }
    return sentinels.endpoints.map { ($0.host, "\($0.port)") }
  }

  /// The same servers and settings with the users and passwords of `other`.
  func withLogin(of other: RedisConfiguration) -> RedisConfiguration {
    var configuration = self
    (configuration.user, configuration.password) = (other.user, other.password)
    if let sentinels = other.sentinels {
      configuration.sentinels?.user = sentinels.user
      configuration.sentinels?.password = sentinels.password
    }
    return configuration
  }

  /// With the users and passwords of `other`; nil if that leads to other servers or to another database.
  public func withNewLogin(from other: RedisConfiguration) -> RedisConfiguration? {
    hasSameServers(as: other) ? withLogin(of: other) : nil
  }

  private func hasSameServers(as other: RedisConfiguration) -> Bool {
    host == other.host && port == other.port && socketPath == other.socketPath && usesTLS == other.usesTLS
      && database == other.database && clusterSeeds == other.clusterSeeds
      && sentinels?.endpoints == other.sentinels?.endpoints && sentinels?.master == other.sentinels?.master
  }

  func handshake(_ healthCheck: RedisHealthCheck?, sendsHello: Bool) -> RedisHandshake {
    RedisHandshake(
      user: user, password: password, database: database, clientName: clientName, healthCheck: healthCheck,
      sendsHello: sendsHello, checksRole: sentinels != nil, isClusterNode: isClusterNode)
  }
}
