// Error replies of Redis: what they mean to an operator, and whether they concern the server. Pure.
// Invariant: no text names a user, a password, a key or an argument. Used by RedisValue, RedisHandshake, RedisClient.

/// One error reply.
struct RedisErrorReply: Equatable {
  /// The most bytes of a reply that are read.
  static let byteLimit = 1_024
  private static let codeLimit = 32
  private static let messageLimit = 200

  /// The first word, in capitals; ERR if there is none.
  let code: String
  /// The rest, up to the first word that may be a quotation or an address.
  let message: String

  init(code: String, message: String) {
    self.code = code
    self.message = message
  }

  init(_ reply: String) {
    var (code, rest) = Self.split(Substring(reply))
    // Before Redis 7, the error of a script's command is inside an error about the script.
    if code == "ERR", rest.hasPrefix("Error running script"), let inner = Self.innerReply(rest) {
      (code, rest) = inner
    }
    self.code = Self.deniedInScript(rest) ? "NOPERM" : code
    message = Self.harmless(rest, of: self.code)
  }

  /// Whether a text begins with a code. hiredis' own texts, such as "Can't create socket: …", do not.
  static func hasCode(_ text: String) -> Bool {
    let (code, rest) = split(Substring(text))
    return code != "ERR" || rest.utf8.count < text.utf8.count
  }

  private static func split(_ reply: Substring) -> (code: String, rest: Substring) {
    let word = reply.prefix { $0 != " " }
    let isCode =
      !word.isEmpty && word.utf8.count <= codeLimit
      && word.utf8.allSatisfy { ($0 >= 65 && $0 <= 90) || $0 == UInt8(ascii: "_") }
    return isCode ? (String(word), reply.dropFirst(word.count + 1)) : ("ERR", reply)
  }

  /// `… @user_script: 8: -READONLY You can't write …`: what follows the last minus sign before a code.
  private static func innerReply(_ text: Substring) -> (code: String, rest: Substring)? {
    var rest = text
    while let colon = rest.firstIndex(of: ":") {
      rest = rest[rest.index(after: colon)...].drop { $0 == " " || $0 == "-" }
      let (code, inner) = split(rest)
      if code != "ERR", !inner.isEmpty { return (code, inner) }
    }
    // Without a code, the last part is the error.
    let last = text[(text.lastIndex(of: ":").map { text.index(after: $0) } ?? text.startIndex)...]
    return ("ERR", last.drop { $0 == " " })
  }

  /// Redis has several texts for this and no code.
  private static func deniedInScript(_ message: Substring) -> Bool {
    message.hasPrefix("ACL failure in script") || message.hasPrefix("The user executing the script can't")
  }

  private static func harmless(_ message: Substring, of code: String) -> String {
    switch code {
    case "NOPERM": return denied(message)
    // It names the user.
    case "WRONGPASS": return "refused"
    // A slot and an address.
    case "MOVED", "ASK": return ""
    default: break
    }
    var text: [UInt8] = []
    for word in message.utf8.prefix(messageLimit).split(separator: UInt8(ascii: " ")) {
      // What follows may be a quotation or an address.
      guard word.allSatisfy({ $0 > 0x20 && !quoting.contains($0) }),
        !word.dropLast().contains(where: { addressing.contains($0) })
      else { break }
      if !text.isEmpty { text.append(UInt8(ascii: " ")) }
      text += word
    }
    return String(decoding: text, as: UTF8.self)
  }

  private static let quoting = Array("'`\"".utf8)
  private static let addressing = Array(".:@/=".utf8)

  /// What the user may not do. A command's name is no secret.
  private static func denied(_ message: Substring) -> String {
    if let quote = message.firstIndex(of: "'") {
      let name = message[message.index(after: quote)...].prefix { $0 != "'" }
      let isName =
        !name.isEmpty && name.utf8.count <= codeLimit
        && name.utf8.allSatisfy { ($0 >= 97 && $0 <= 122) || $0 == UInt8(ascii: "|") || $0 == UInt8(ascii: "_") }
      if isName { return "run \(name)" }
    }
    for (part, meaning) in [("key", "use a key"), ("channel", "use a channel"), ("command", "run a command")]
    where message.utf8.indices.contains(where: { message.utf8[$0...].starts(with: part.utf8) }) {
      return meaning
    }
    return "do this"
  }

  /// The error in words for an operator.
  var explanation: String {
    switch code {
    case "NOAUTH": "a password is required (NOAUTH)"
    case "WRONGPASS": "user or password refused (WRONGPASS)"
    case "NOPERM": "the user may not \(message.isEmpty || message == "refused" ? "do this" : message) (NOPERM)"
    case "LOADING": "the server is loading its data (LOADING)"
    case "BUSY": "the server is busy with somebody's script (BUSY)"
    case "MASTERDOWN": "the replica has lost its master (MASTERDOWN)"
    case "READONLY": "the server is a read-only replica (READONLY)"
    case "OOM": "the server is out of memory and refuses writes (OOM)"
    case "MISCONF": "the server cannot save its data to disk and refuses writes (MISCONF)"
    case "NOREPLICAS": "the server has too few replicas and refuses writes (NOREPLICAS)"
    case "MOVED", "ASK", "CROSSSLOT", "TRYAGAIN": "\(Self.clusterNode) (\(code))"
    case "CLUSTERDOWN": "the Redis Cluster is down: not every slot has a master (CLUSTERDOWN)"
    case "WRONGTYPE": "a key holds another type of value (WRONGTYPE)"
    case "NOSCRIPT": "the server does not keep scripts (NOSCRIPT)"
    default: otherExplanation
    }
  }

  /// For replies without a code, by their first words.
  private var otherExplanation: String {
    if isKilledScript { return "an operator ended the script (SCRIPT KILL)" }
    if lacksPassword { return "the server has no password, and the URL has one (\(code))" }
    for (beginning, meaning) in Self.meanings where message.hasPrefix(beginning) { return "\(meaning) (\(code))" }
    return message.isEmpty ? "the server answered \(code)" : "the server answered: \(message) (\(code))"
  }

  private static let meanings = [
    ("invalid password", "user or password refused"),
    ("DB index is out of range", "the server has no database of that number"),
    ("invalid DB index", "the server has no database of that number"),
    ("SELECT is not allowed in cluster mode", clusterNode),
    ("This instance has cluster support disabled", "the server is no Redis Cluster node: write redis://HOST:PORT"),
    ("unknown command", "the server does not know the command, or it is renamed there"),
    ("Unknown Redis command called from", unknownInScript),
    ("Unknown command called from", unknownInScript),
    ("Write commands not allowed after non deterministic", "the server is too old: Redis 5 or later is needed"),
    ("Write commands are not allowed from read-only scripts", "the server is a read-only replica"),
    ("max number of clients", "the server has as many clients as it allows"),
  ]

  /// The server does not say which command.
  private static let unknownInScript = "a command that the worker's scripts run is unknown to the server, or renamed"

  /// Says what to do, because each node of a cluster refuses most keys.
  static let clusterNode = "the URL leads to a Redis Cluster node: write redis+cluster://HOST:PORT"
  static let sentinel =
    "the URL leads to a Redis Sentinel, which has no data: write redis+sentinel://HOST:PORT/MASTER"

  /// Whether the script was killed. That says nothing about the server.
  var isKilledScript: Bool {
    code == "ERR" && (message.hasPrefix(Self.killed) || message.hasPrefix("Error: \(Self.killed)"))
  }

  private static let killed = "Script killed by user"

  /// Whether it is about the server or the user's permissions, not only about this command.
  var concernsServer: Bool {
    switch code {
    case "READONLY", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "LOADING", "BUSY", "NOPERM", "NOAUTH", "MOVED",
      "ASK", "CROSSSLOT", "TRYAGAIN", "CLUSTERDOWN", "UNKILLABLE":
      true
    default: false
    }
  }

  /// Whether the server requires no password and refuses one.
  private var lacksPassword: Bool {
    code == "ERR"
      && (message.hasPrefix("AUTH <password> called without any password")
        || message.hasPrefix("Client sent AUTH, but no password is set"))
  }

  /// Whether it is about the user or the password. Before Redis 6 there is no code for a wrong one.
  var refusesLogin: Bool {
    code == "WRONGPASS" || code == "NOAUTH" || (code == "ERR" && message.hasPrefix("invalid password")) || lacksPassword
  }

  /// Whether a Redis Cluster node sends the command elsewhere, or later.
  var isRedirect: Bool { code == "MOVED" || code == "ASK" || code == "TRYAGAIN" }

  /// Whether the command is renamed, switched off, or newer than the server.
  var isUnknownCommand: Bool { code == "ERR" && message.hasPrefix("unknown command") }

  /// Whether the script's source must be sent.
  var needsSource: Bool { code == "NOSCRIPT" || isUnknownCommand }

  /// Whether a new connection, perhaps to another address, may help.
  var needsNewConnection: Bool {
    code == "READONLY" || code == "LOADING" || code == "MASTERDOWN"
  }
}
