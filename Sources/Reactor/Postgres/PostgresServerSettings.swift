// The server settings in a URL, and how a transaction applies them. Invariant: each lasts for one transaction; nothing
// is left behind in a session, which a pooler gives to other clients. Pure; PostgresConfiguration collects them,
// PostgresConnection sends them.

/// A setting of the server, such as `search_path`, and its value.
public struct PostgresSetting: Sendable, Equatable {
  public var name: String
  public var value: String

  public init(name: String, value: String) {
    self.name = name
    self.value = value
  }
}

/// The settings of a URL, in the order in which they are set.
struct PostgresServerSettings: Sendable, Equatable {
  private(set) var list: [PostgresSetting] = []
  /// The session's name, if `options` has one.
  private(set) var applicationName: String?
  /// Whether transactions are writable even if the database's or role's default is read-only.
  private(set) var isReadWrite = false
  private(set) var warnings: [String] = []
  private(set) var faults: [String] = []

  /// Adds a setting; the last value of a name counts, as on the server.
  mutating func add(_ name: String, _ value: String) {
    let lower = name.lowercased()
    switch lower {
    case "session_authorization":
      faults.append("\(lower) is not supported: log in as the user that it names, or set role")
    case "transaction_isolation", "default_transaction_isolation":
      warnings.append("\(lower) is ignored: every transaction is read committed")
    case "transaction_read_only", "default_transaction_read_only":
      if Self.isOff(value) {
        isReadWrite = true
      } else {
        faults.append("\(lower) must be off: nothing could be written")
      }
    case "client_encoding":
      warnings.append("client_encoding is ignored: it is always UTF8")
    case "application_name":
      applicationName = value
    case _ where PostgresParameterNames.atSessionStart.contains(lower):
      warnings.append("\(lower) is ignored: the server takes it at the start of a session only")
    default:
      list.removeAll { $0.name.lowercased() == lower }
      list.append(PostgresSetting(name: name, value: value))
    }
  }

  /// Adds the settings in `options`, which are a variable's of the environment if one is named: its faults and
  /// warnings then name it, too.
  mutating func add(options: String, from variable: String?) {
    let (faultCount, warningCount) = (faults.count, warnings.count)
    add(options: options)
    guard let variable else { return }
    for index in faults.indices.dropFirst(faultCount) { faults[index] = "\(variable): \(faults[index])" }
    for index in warnings.indices.dropFirst(warningCount) { warnings[index] = "\(variable): \(warnings[index])" }
  }

  /// Adds the settings in `options`: switches of the server's command line. Only those that set something can be
  /// applied in a transaction.
  mutating func add(options: String) {
    var words = Self.words(options)[...]
    while let word = words.popFirst() {
      if word == "-c" || word == "--" {
        guard let next = words.popFirst() else { return faults.append("options: -c lacks its name=value") }
        addAssignment(next)
      } else if word.hasPrefix("-c") || word.hasPrefix("--") {
        addAssignment(String(word.dropFirst(2)))
      } else {
        return faults.append(Self.refusal(of: word))
      }
    }
  }

  private mutating func addAssignment(_ text: String) {
    guard let equals = text.utf8.firstIndex(of: UInt8(ascii: "=")) else {
      return faults.append("options: a setting lacks its value")
    }
    // As on the server's command line, where both are allowed in a name.
    let name = String(text[..<equals].map { $0 == "-" ? "_" : $0 })
    guard PostgresParameterNames.isPlain(name) else {
      return faults.append("options: a setting's name is not made of letters, digits, underscores and dots")
    }
    add(name, String(text[text.utf8.index(after: equals)...]))
  }

  /// Names a switch by its letter only, because the rest may be a confidential value.
  private static func refusal(of word: String) -> String {
    let letters = word.unicodeScalars.prefix(2)
    guard letters.count == 2, letters.first == "-", let letter = letters.last, letter.properties.isAlphabetic else {
      return "options must be made of -c name=value"
    }
    return "options: -\(letter) is not supported: settings are written as -c name=value"
  }

  /// Splits `options` as the server does: at white space; a backslash escapes the next character.
  static func words(_ options: String) -> [String] {
    var words: [String] = []
    var word: [UInt8]?
    var isEscaped = false
    for byte in options.utf8 {
      if isEscaped {
        word = (word ?? []) + [byte]
        isEscaped = false
      } else if byte == 0x20 || (0x09...0x0d).contains(byte) {
        if let word { words.append(String(decoding: word, as: UTF8.self)) }
        word = nil
      } else if byte == UInt8(ascii: "\\") {
        word = word ?? []
        isEscaped = true
      } else {
        word = (word ?? []) + [byte]
      }
    }
    if let word { words.append(String(decoding: word, as: UTF8.self)) }
    return words
  }

  /// Whether the server reads `value` as false: an unambiguous prefix of off, false or no, or 0.
  static func isOff(_ value: String) -> Bool {
    let lower = value.lowercased()
    guard !lower.isEmpty else { return false }
    return lower == "0" || "false".hasPrefix(lower) || "no".hasPrefix(lower)
      || (lower.count > 1 && "off".hasPrefix(lower))
  }

  // MARK: - Use

  /// The first statement of every transaction: makes it read committed, because a role's or database's default can be
  /// serializable. It sets the variable, because the server logs a warning for SET TRANSACTION outside a block, and is
  /// a utility statement, because the level cannot be changed after a query. It lasts until the transaction ends.
  static let isolation = PostgresStatement("SET transaction_isolation = 'read committed'", isPrepared: true)

  /// Makes a transaction writable. A utility statement, because it has to come before the first query; a server in
  /// recovery refuses it.
  static let readWrite = PostgresStatement("SET transaction_read_only = off", isPrepared: true)

  /// The statements that show whether a server answers and can be written to; the last one's result says so.
  var ping: [PostgresStatement] { isReadWrite ? [Self.isolation, .pingForRecovery] : [.ping] }

  /// For queries about sessions: under a role that a login, a database or a URL sets, a session can neither see nor
  /// cancel the sessions of its own login.
  static let asLogin = PostgresStatement("SELECT pg_catalog.set_config('role', 'none', true)")

  /// How often the server checks, during a statement, whether its client is still connected: a dead worker's statement
  /// ends this long after it.
  static let clientCheck = PostgresSetting(name: "client_connection_check_interval", value: "5000")

  /// The first statements of a transaction: two small ones, which cost 15 µs of the server's time and no round trip.
  ///
  /// - Parameters:
  ///   - checksClient: whether the server can check its client during a statement, and has no interval set.
  ///   - isReadOnly: whether the server cannot be written to.
  func prelude(checksClient: Bool, isReadOnly: Bool = false) -> [PostgresStatement] {
    let modes = isReadWrite && !isReadOnly ? [Self.isolation, Self.readWrite] : [Self.isolation]
    var settings = list
    if checksClient, !settings.contains(where: { $0.name.lowercased() == Self.clientCheck.name }) {
      settings.append(Self.clientCheck)
    }
    guard !settings.isEmpty else { return modes }
    // The role comes last, because it may not be allowed to set what the login may.
    settings = settings.filter { $0.name.lowercased() != "role" } + settings.filter { $0.name.lowercased() == "role" }
    var columns = ""
    var parameters: [String?] = []
    for setting in settings {
      let number = parameters.count
      columns += columns.isEmpty ? "" : ", "
      columns += "pg_catalog.set_config($\(number + 1)::pg_catalog.text, $\(number + 2)::pg_catalog.text, true)"
      parameters += [setting.name, setting.value]
    }
    return modes + [PostgresStatement("SELECT \(columns)", parameters, isPrepared: true)]
  }
}

extension PostgresStatement {
  /// Which of this statement's settings the server's message names.
  func setting(namedIn message: String) -> String? {
    for index in stride(from: 0, to: parameters.count, by: 2) {
      guard let name = parameters[index] else { continue }
      if PostgresError.contains(Array(message.lowercased().utf8), "\"\(name.lowercased())\"") { return name }
    }
    return nil
  }
}
