// What can go wrong with PostgreSQL, each case with what the operator can do. Invariant: no case holds a password, a
// row's contents, DETAIL, HINT or CONTEXT, and `description` names no host, user or database. Thrown by this folder.

/// A failure of the client, the connection or a statement.
public enum PostgresError: Error, Sendable, Equatable {
  /// No connection could be made: the server is away, refuses, or its name is unknown. Start it or correct the URL.
  ///
  /// `reason` is for the operator's log: where the server said why, its SQLSTATE, a colon and its primary message,
  /// which can name the user, the database and the client's address. What others see is `publicReason`.
  case unavailable(reason: String)
  /// An open connection ended. The outcome of a statement that was under way is unknown. Look for a restart.
  case connectionLost(reason: String)
  /// Nothing came before the deadline: the server, or what is between, hangs. Look at its load and its locks.
  case timedOut(PostgresStage)
  /// The server refused statement number `statement` (from 0) of those sent together. `message` is the primary one.
  case server(sqlState: String, message: String, statement: Int = 0)
  /// All connections were in use until the deadline. Raise the limit, or look for what holds them.
  case poolExhausted
  /// The pool was closed.
  case poolClosed
  /// The connection was asked for a second thing while it does a first one: a mistake in the calling code.
  case busy

  /// The server answers and cannot be written to: a hot standby, or read-only by default.
  static let readOnly = PostgresError.unavailable(reason: readOnlyReason)
  static let readOnlyReason = "the database is read-only"
  /// read_only_sql_transaction
  static let readOnlyState = "25006"

  /// Whether the server answers and lets nothing be written: a standby, or read-only by default.
  public var isReadOnly: Bool { self == Self.readOnly || sqlState == Self.readOnlyState }

  /// The server's error code, where the server said why.
  public var sqlState: String? {
    switch self {
    case .server(let state, _, _): state
    case .unavailable(let reason), .connectionLost(let reason): Self.leadingState(of: reason)
    case .timedOut, .poolExhausted, .poolClosed, .busy: nil
    }
  }

  /// Why, in words that may leave the process: no host, address, user, database or password.
  public var publicReason: String {
    switch self {
    case .unavailable(let reason), .connectionLost(let reason):
      if let state = Self.leadingState(of: reason) { "\(Self.meaning(of: state)) (SQLSTATE \(state))" } else { reason }
    case .timedOut(let stage): "timed out \(stage.rawValue)"
    case .server(let state, _, _): "\(Self.meaning(of: state)) (SQLSTATE \(state))"
    case .poolExhausted: "all connections in use"
    case .poolClosed: "shutting down"
    case .busy: "connection busy"
    }
  }

  /// The SQLSTATE at the beginning of "28P01: password authentication failed …".
  private static func leadingState(of reason: String) -> String? {
    let bytes = Array(reason.utf8.prefix(6))
    guard bytes.count == 6, bytes[5] == UInt8(ascii: ":"), bytes[..<5].allSatisfy(isStateByte) else { return nil }
    return String(decoding: bytes[..<5], as: UTF8.self)
  }

  static func isStateByte(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
  }

  /// What a code says, by itself or by its class: PostgreSQL's Appendix A.
  private static func meaning(of state: String) -> String {
    switch state {
    case "28P01", "28000": return "authentication failed"
    case "3D000": return "database does not exist"
    case "53300": return "too many connections"
    case "57P03": return "the server does not take connections yet"
    case "57P01", "57P02": return "the server shut down"
    case "57014": return "statement cancelled"
    case "55P03": return "lock not available"
    case "42501": return "permission denied"
    case "42P01": return "table does not exist"
    case readOnlyState: return readOnlyReason
    default: break
    }
    switch state.prefix(2) {
    case "08": return "connection failed"
    case "23": return "constraint violated"
    case "25": return "wrong transaction state"
    case "28": return "authentication failed"
    case "40": return "transaction rolled back"
    case "42": return "statement not accepted"
    case "53": return "out of resources"
    case "57": return "operator intervention"
    default: return "server error"
    }
  }
}

/// What a deadline cut short.
public enum PostgresStage: String, Sendable {
  case resolving = "resolving the host's name"
  case connecting = "connecting"
  case statement = "waiting for a statement's result"
}

extension PostgresError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .unavailable: "PostgreSQL unavailable: \(publicReason)"
    case .connectionLost: "PostgreSQL connection lost: \(publicReason)"
    case .timedOut: "PostgreSQL \(publicReason)"
    case .server(let state, let message, let statement):
      "PostgreSQL error \(state): \(message)" + (statement == 0 ? "" : " (statement \(statement))")
    case .poolExhausted, .poolClosed, .busy: "PostgreSQL: \(publicReason)"
    }
  }
}

extension PostgresError {
  /// The reason in a text of libpq about a connection that failed: the server's own first line with its SQLSTATE, or
  /// one of few known phrases. libpq's own words around it name the host and are dropped.
  static func reason(inClientText text: String) -> String {
    let bytes = Array(text.utf8)
    if let said = serverLine(in: bytes) { return said }
    // libpq compares the names itself: OpenSSL knows nothing of it.
    if contains(bytes, Array("does not match host name".utf8)) { return "certificate refused: hostname mismatch" }
    for phrase in knownPhrases where contains(bytes, Array(phrase.utf8)) { return withoutCapital(phrase) }
    return "connection failed"
  }

  /// Whether a reason says no more than that nobody is there.
  static func isAbsence(_ reason: String) -> Bool {
    absences.contains { withoutCapital($0) == reason }
  }

  private static func withoutCapital(_ phrase: String) -> String {
    phrase.prefix(1).lowercased() + phrase.dropFirst()
  }

  /// What the C library says of an address at which nobody is.
  private static let absences = [
    "Connection refused", "Connection timed out", "No route to host", "Network is unreachable",
  ]

  /// What libpq, the C library and OpenSSL say without a name in it.
  private static let knownPhrases =
    absences + [
      "Connection reset by peer", "Broken pipe", "No such file or directory", "Permission denied",
      "Too many open files", "server closed the connection unexpectedly", "certificate verify failed",
      "server does not support SSL", "session is read-only", "session is not read-only",
      "server is in hot standby mode", "server is not in hot standby mode", "no password supplied",
      "root certificate file", "SSL error", "SSL SYSCALL error",
    ]

  /// libpq writes, at full verbosity, "FATAL:  28P01: password authentication …" and a line for each other field.
  private static func serverLine(in bytes: [UInt8]) -> String? {
    guard bytes.count > 10 else { return nil }
    for start in 0..<(bytes.count - 9) where bytes[start] == UInt8(ascii: ":") {
      let state = bytes[(start + 3)..<(start + 8)]
      guard bytes[start + 1] == UInt8(ascii: " "), bytes[start + 2] == UInt8(ascii: " "), state.allSatisfy(isStateByte),
        bytes[start + 8] == UInt8(ascii: ":"), bytes[start + 9] == UInt8(ascii: " ")
      else { continue }
      let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) ?? bytes.endIndex
      return String(decoding: bytes[(start + 3)..<end], as: UTF8.self)
    }
    return nil
  }

  private static func contains(_ bytes: [UInt8], _ part: [UInt8]) -> Bool {
    guard bytes.count >= part.count else { return false }
    return (0...(bytes.count - part.count)).contains { bytes[$0..<($0 + part.count)].elementsEqual(part) }
  }
}
