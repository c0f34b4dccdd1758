// The first commands on a new connection, as a pure struct: AUTH, HELLO, SELECT, CLIENT SETNAME, and PING or the health
// check, sent in one batch. Invariant: a connection is ready only after the last of them has succeeded; that a server
// accepts the connection is not enough. Driven by RedisConnection.

struct RedisHandshake {
  enum Step: String {
    case authenticate = "AUTH"
    /// Asks for the server's mode: standalone, cluster or sentinel.
    case mode = "HELLO"
    /// Whether a server that a Sentinel named is a master (still, or already).
    case role = "ROLE"
    case select = "SELECT"
    case setName = "CLIENT SETNAME"
    case ping = "PING"
    case check = "EVALSHA"
    /// If the server does not know HELLO: Redis before 6, or a proxy.
    case information = "INFO"
    /// If the server does not know the script.
    case checkSource = "EVAL"
    /// Asks a Sentinel for the master's address.
    case master = "SENTINEL"
    /// Asks a Redis Cluster node which node has which slots.
    case slots = "CLUSTER SLOTS"
  }

  enum Action: Equatable {
    case more, ready
    /// Send this too.
    case send([String])
    case refused(String)
  }

  /// The commands, to be sent in this order without waiting for answers.
  let commands: [[String]]
  private let healthCheck: RedisHealthCheck?
  private var steps: [Step]
  private var answers = 0
  /// The server that a Sentinel named.
  private(set) var namedMaster: RedisEndpoint?
  /// Whether an answer was about the user or the password.
  private(set) var isLoginRefused = false
  private(set) var clusterSlots: RedisValue?
  /// Redirections are answers: a key of the health check may be on its way to another node.
  let isClusterNode: Bool

  /// - Parameters:
  ///   - healthCheck: what must succeed; nil: a PING.
  ///   - sendsHello: false for a peer that closes its connection on a HELLO.
  ///   - checksRole: whether the server must be a master.
  init(
    user: String?, password: String?, database: Int, clientName: String?, healthCheck: RedisHealthCheck? = nil,
    sendsHello: Bool = true, checksRole: Bool = false, isClusterNode: Bool = false
  ) {
    self.healthCheck = healthCheck
    self.isClusterNode = isClusterNode
    var commands: [[String]] = []
    var steps: [Step] = []
    func add(_ step: Step, _ command: [String]) {
      commands.append(command)
      steps.append(step)
    }
    if let password { add(.authenticate, user.map { ["AUTH", $0, password] } ?? ["AUTH", password]) }
    if healthCheck != nil, sendsHello, !isClusterNode { add(.mode, ["HELLO", "2"]) }
    if checksRole { add(.role, ["ROLE"]) }
    if database != 0 { add(.select, ["SELECT", String(database)]) }
    if let clientName { add(.setName, ["CLIENT", "SETNAME", clientName]) }
    if let healthCheck { add(.check, healthCheck.commandByDigest) } else { add(.ping, ["PING"]) }
    self.commands = commands
    self.steps = steps
  }

  /// With a Sentinel: asks for the address of the master with this name.
  init(sentinelUser: String?, password: String?, master: String) {
    self.init(user: sentinelUser, password, .master, ["SENTINEL", "get-master-addr-by-name", master])
  }

  /// With a Redis Cluster node: asks for the slot map.
  init(clusterUser: String?, password: String?) {
    self.init(user: clusterUser, password, .slots, ["CLUSTER", "SLOTS"])
  }

  private init(user: String?, _ password: String?, _ step: Step, _ command: [String]) {
    (healthCheck, isClusterNode) = (nil, false)
    guard let password else {
      commands = [command]
      steps = [step]
      return
    }
    commands = [user.map { ["AUTH", $0, password] } ?? ["AUTH", password], command]
    steps = [.authenticate, step]
  }

  /// Whether the answer to HELLO is due.
  var isAwaitingMode: Bool { answers < steps.count && steps[answers] == .mode }

  /// Whether the answer to the health check is due.
  var isAwaitingCheck: Bool {
    answers < steps.count && (steps[answers] == .check || steps[answers] == .checkSource)
  }

  mutating func answered(_ value: RedisValue) -> Action {
    guard answers < steps.count else { return .refused(RedisEvents.Misconduct.unsolicited.rawValue) }
    let step = steps[answers]
    answers += 1
    let action = action(on: value, at: step)
    guard action == .more, answers == steps.count else { return action }
    return .ready
  }

  private mutating func action(on value: RedisValue, at step: Step) -> Action {
    if case .error(let code, let message) = value {
      let error = RedisErrorReply(code: code, message: message)
      if error.refusesLogin { isLoginRefused = true }
      return action(on: error, at: step)
    }
    switch step {
    case .mode: return Self.action(onMode: Self.mode(inHello: value))
    case .role:
      return value.array?.first?.text == "master" ? .more : .refused("the server that the Sentinel names is a replica")
    case .master:
      namedMaster = Self.endpoint(in: value)
      return namedMaster == nil ? .refused("it knows no master of that name") : .more
    case .slots:
      clusterSlots = value
      return .more
    case .information: return Self.action(onMode: Self.mode(inInformation: value.text ?? ""))
    case .ping: return value == .status("PONG") ? .more : .refused(RedisEvents.Misconduct.notRedis.rawValue)
    case .authenticate, .select, .setName, .check, .checkSource: return .more
    }
  }

  private mutating func action(on error: RedisErrorReply, at step: Step) -> Action {
    switch step {
    // The name only helps operators; a user that may not set it can still work.
    case .setName, .information: return .more
    // The server answers and the user is logged in, which is all that a PING tests.
    case .ping where error.code == "NOPERM": return .more
    // The user need not have this right: a replica fails the health check.
    case .role: return .more
    case .master where error.isUnknownCommand: return .refused("the server is not a Sentinel")
    case .master: return .refused(error.explanation)
    case .mode:
      steps.append(.information)
      return .send(["INFO", "server"])
    case .check where error.needsSource:
      guard let healthCheck else { return .more }
      steps.append(.checkSource)
      return .send(healthCheck.commandBySource)
    case .check where isClusterNode && error.isRedirect, .checkSource where isClusterNode && error.isRedirect:
      return .more
    case .check where error.code == "CLUSTERDOWN" && !isClusterNode:
      return .refused("\(RedisErrorReply.clusterNode) (CLUSTERDOWN)")
    case .check, .checkSource, .slots: return .refused(error.explanation)
    case .authenticate, .select, .ping: return .refused("\(step.rawValue) refused: \(error.explanation)")
    }
  }

  private static func endpoint(in value: RedisValue) -> RedisEndpoint? {
    guard let parts = value.array, parts.count == 2, let host = parts[0].text, !host.isEmpty,
      let port = parts[1].integer, (1...65_535).contains(port)
    else { return nil }
    return RedisEndpoint(host: host, port: UInt16(port))
  }

  private static func action(onMode mode: String?) -> Action {
    switch mode {
    case "cluster": .refused(RedisErrorReply.clusterNode)
    case "sentinel": .refused(RedisErrorReply.sentinel)
    default: .more
    }
  }

  /// Names and values in turn.
  private static func mode(inHello value: RedisValue) -> String? {
    let parts = value.array ?? []
    for index in stride(from: 0, to: parts.count - 1, by: 2) where parts[index].text == "mode" {
      return parts[index + 1].text
    }
    return nil
  }

  private static func mode(inInformation text: String) -> String? {
    for line in text.utf8.split(whereSeparator: { $0 == 13 || $0 == 10 }) where line.starts(with: "redis_mode:".utf8) {
      return String(Substring(line.dropFirst("redis_mode:".utf8.count)))
    }
    return nil
  }
}
