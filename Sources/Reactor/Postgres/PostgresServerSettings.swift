// The settings of the server that a URL asks for, and how a transaction gets them. Invariant: each lasts for one
// transaction; nothing is left behind in a session, which a pooler gives to other clients. Pure; PostgresConfiguration
// collects them, PostgresConnection sends them.

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
struct PostgresServerSettings: Sendable {
  private(set) var list: [PostgresSetting] = []
  /// The name of the session, where `options` has one.
  private(set) var applicationName: String?
  private(set) var warnings: [String] = []
  private(set) var faults: [String] = []

  /// Takes in one setting; the last value of a name counts, as on the server.
  mutating func add(_ name: String, _ value: String) {
    let lower = name.lowercased()
    switch lower {
    case "session_authorization":
      faults.append("\(lower) is not supported: log in as the user that it names, or set role")
    case "transaction_isolation", "default_transaction_isolation":
      warnings.append("\(lower) is ignored: every transaction is read committed")
    case "transaction_read_only", "default_transaction_read_only":
      if Self.isOff(value) {
        warnings.append("\(lower) is ignored: it cannot be changed from here")
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

  /// Takes in `options`: switches of the server's command line, of which only those that set something can be had in a
  /// transaction.
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
    // As on the server's command line, where a name is written with either.
    let name = String(text[..<equals].map { $0 == "-" ? "_" : $0 })
    guard PostgresParameterNames.isPlain(name) else {
      return faults.append("options: a setting's name is not made of letters, digits, underscores and dots")
    }
    add(name, String(text[text.utf8.index(after: equals)...]))
  }

  /// A switch is named by its letter; what else stands there can be a value that is nobody's business.
  private static func refusal(of word: String) -> String {
    let letters = word.unicodeScalars.prefix(2)
    guard letters.count == 2, letters.first == "-", let letter = letters.last, letter.properties.isAlphabetic else {
      return "options must be made of -c name=value"
    }
    return "options: -\(letter) is not supported: settings are written as -c name=value"
  }

  /// The server's own way to take `options` apart: at white space, and a backslash takes the next character as it is.
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

  /// Whether the server reads `value` as false: a beginning of off, false or no that says which, or 0.
  static func isOff(_ value: String) -> Bool {
    let lower = value.lowercased()
    guard !lower.isEmpty else { return false }
    return lower == "0" || "false".hasPrefix(lower) || "no".hasPrefix(lower)
      || (lower.count > 1 && "off".hasPrefix(lower))
  }

  // MARK: - Use

  /// The first statement of every transaction, whatever the session's default is: a role's or a database's can be
  /// serializable. By the setting and not by SET TRANSACTION, which outside of a block the server logs a warning for.
  /// It lasts until the transaction ends. A utility statement, because any other would be a query, after which the
  /// level cannot be changed.
  static let isolation = PostgresStatement("SET transaction_isolation = 'read committed'", isPrepared: true)

  /// For what is asked of sessions: as the role that a login, a database or a URL sets, a session neither sees nor may
  /// cancel its own login's.
  static let asLogin = PostgresStatement("SELECT pg_catalog.set_config('role', 'none', true)")

  /// How often a server looks, during a statement, whether its client still lives: a statement of a dead worker ends
  /// this long after it.
  static let clientCheck = PostgresSetting(name: "client_connection_check_interval", value: "5000")

  /// What a transaction begins with. `checksClient`: whether the server can look after its client and nobody has said
  /// how often.
  ///
  /// Two small statements beside those of a batch: 15 µs of the server's time, no round trip.
  func prelude(checksClient: Bool) -> [PostgresStatement] {
    var settings = list
    if checksClient, !settings.contains(where: { $0.name.lowercased() == Self.clientCheck.name }) {
      settings.append(Self.clientCheck)
    }
    guard !settings.isEmpty else { return [Self.isolation] }
    // The role comes last: what the login may set, the role perhaps may not.
    settings = settings.filter { $0.name.lowercased() != "role" } + settings.filter { $0.name.lowercased() == "role" }
    var columns = ""
    var parameters: [String?] = []
    for setting in settings {
      let number = parameters.count
      columns += columns.isEmpty ? "" : ", "
      columns += "pg_catalog.set_config($\(number + 1)::pg_catalog.text, $\(number + 2)::pg_catalog.text, true)"
      parameters += [setting.name, setting.value]
    }
    return [Self.isolation, PostgresStatement("SELECT \(columns)", parameters, isPrepared: true)]
  }
}

extension PostgresStatement {
  /// Of the settings that this one sets, the one that the server's text names.
  func setting(namedIn message: String) -> String? {
    for index in stride(from: 0, to: parameters.count, by: 2) {
      guard let name = parameters[index] else { continue }
      if PostgresError.contains(Array(message.lowercased().utf8), "\"\(name.lowercased())\"") { return name }
    }
    return nil
  }
}
