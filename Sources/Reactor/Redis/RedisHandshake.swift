// What is said first on a new connection, as a pure struct: AUTH, SELECT, CLIENT SETNAME, PING, sent at once.
// Invariant: a connection is ready only after a PING was answered, so a server that merely accepts is not. Driven by
// RedisConnection.

struct RedisHandshake {
  enum Step: String {
    case authenticate = "AUTH"
    case select = "SELECT"
    case setName = "CLIENT SETNAME"
    case ping = "PING"
  }

  enum Verdict: Equatable {
    case more, ready
    case refused(String)
  }

  /// The commands, to be sent in this order without waiting.
  let commands: [[String]]
  private let steps: [Step]
  private var answers = 0

  init(user: String?, password: String?, database: Int, clientName: String?) {
    var commands: [[String]] = []
    var steps: [Step] = []
    if let password {
      commands.append(user.map { ["AUTH", $0, password] } ?? ["AUTH", password])
      steps.append(.authenticate)
    }
    if database != 0 {
      commands.append(["SELECT", String(database)])
      steps.append(.select)
    }
    if let clientName {
      commands.append(["CLIENT", "SETNAME", clientName])
      steps.append(.setName)
    }
    commands.append(["PING"])
    steps.append(.ping)
    self.commands = commands
    self.steps = steps
  }

  mutating func answered(_ value: RedisValue) -> Verdict {
    guard answers < steps.count else { return .refused(RedisEvents.Misconduct.unasked.rawValue) }
    let step = steps[answers]
    answers += 1
    if case .error(let code, _) = value {
      // A name is a courtesy to operators; a user that may not set it can still work.
      if step == .setName { return .more }
      return .refused("\(step.rawValue) refused: \(RedisError.explanation(of: code))")
    }
    guard step == .ping else { return .more }
    return value == .status("PONG") ? .ready : .refused("not the Redis protocol")
  }
}
