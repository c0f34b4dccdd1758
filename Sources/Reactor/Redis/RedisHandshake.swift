// The first commands on a new connection, as a pure struct: AUTH, HELLO, SELECT, CLIENT SETNAME, and PING or the health
// check, sent in one batch. Invariant: a connection is ready only after the last of them has succeeded; that a server
// accepts the connection is not enough. Driven by RedisConnection.

struct RedisHandshake {
  enum Step: String {
    case authenticate = "AUTH"
    /// Asks for the server's mode: standalone, cluster or sentinel.
    case mode = "HELLO"
    case select = "SELECT"
    case setName = "CLIENT SETNAME"
    case ping = "PING"
    case check = "EVALSHA"
    /// If the server does not know HELLO: Redis before 6, or a proxy.
    case information = "INFO"
    /// If the server does not know the script.
    case checkSource = "EVAL"
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

  /// - Parameters:
  ///   - healthCheck: what must succeed; nil: a PING.
  ///   - sendsHello: false for a peer that closes its connection on a HELLO.
  init(
    user: String?, password: String?, database: Int, clientName: String?, healthCheck: RedisHealthCheck? = nil,
    sendsHello: Bool = true
  ) {
    self.healthCheck = healthCheck
    var commands: [[String]] = []
    var steps: [Step] = []
    func add(_ step: Step, _ command: [String]) {
      commands.append(command)
      steps.append(step)
    }
    if let password { add(.authenticate, user.map { ["AUTH", $0, password] } ?? ["AUTH", password]) }
    if healthCheck != nil, sendsHello { add(.mode, ["HELLO", "2"]) }
    if database != 0 { add(.select, ["SELECT", String(database)]) }
    if let clientName { add(.setName, ["CLIENT", "SETNAME", clientName]) }
    if let healthCheck { add(.check, healthCheck.commandByDigest) } else { add(.ping, ["PING"]) }
    self.commands = commands
    self.steps = steps
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
      return action(on: RedisErrorReply(code: code, message: message), at: step)
    }
    switch step {
    case .mode: return Self.action(onMode: Self.mode(inHello: value))
    case .information: return Self.action(onMode: Self.mode(inInformation: value.text ?? ""))
    case .ping: return value == .status("PONG") ? .more : .refused(RedisEvents.Misconduct.notRedis.rawValue)
    case .authenticate, .select, .setName, .check, .checkSource: return .more
    }
  }

  private mutating func action(on error: RedisErrorReply, at step: Step) -> Action {
    switch step {
    // The name only helps operators; a user that may not set it can still work.
    case .setName, .information: return .more
    // The server is there and the user is logged in, which is what a PING is to tell.
    case .ping where error.code == "NOPERM": return .more
    case .mode:
      steps.append(.information)
      return .send(["INFO", "server"])
    case .check where error.needsSource:
      guard let healthCheck else { return .more }
      steps.append(.checkSource)
      return .send(healthCheck.commandBySource)
    case .check, .checkSource: return .refused(error.explanation)
    case .authenticate, .select, .ping: return .refused("\(step.rawValue) refused: \(error.explanation)")
    }
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
