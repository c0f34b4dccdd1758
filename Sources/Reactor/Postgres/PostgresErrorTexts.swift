// Public wording for server errors and for libpq's messages. Invariant: they contain no host, address, user, database,
// path, password or row. Used by PostgresError, and when a connection fails.

/// The object of a server error, by its identifiers, which are not confidential.
public struct PostgresErrorPlace: Sendable, Equatable {
  public var schema: String?
  public var table: String?
  public var column: String?
  public var constraint: String?
  /// An object that the server names only in a text: "table agents", "setting work_mem".
  public var object: String?
  /// Whether a function in the database, such as a trigger's, raised the error with a code of its choice, or passed it
  /// on from another server. The code then says nothing about this server, its sessions or its transactions.
  public var isRaised: Bool

  /// Whether the table is published, and the publication forbids changing its rows.
  var isPublication = false

  public init(
    schema: String? = nil, table: String? = nil, column: String? = nil, constraint: String? = nil,
    object: String? = nil, isRaised: Bool = false
  ) {
    self.schema = schema
    self.table = table
    self.column = column
    self.constraint = constraint
    self.object = object
    self.isRaised = isRaised
  }

  /// `meaning` with the object: "permission denied on table agents", "foreign key violated on public.agents, by
  /// agents_owner_fkey".
  func text(_ meaning: String) -> String {
    var text = meaning
    if let object { text += (meaning == PostgresError.denial ? " on " : ": ") + object }
    if let table { text += " on " + (schema.map { "\($0)." } ?? "") + table }
    if let column { text += ", column \(column)" }
    if let constraint { text += ", by \(constraint)" }
    return text
  }

  /// The functions in the server's source with which PL/pgSQL, PL/Python, PL/Tcl, PL/Perl, postgres_fdw and dblink
  /// raise errors whose code is not the server's own.
  static func isRaised(sourceFunction: String) -> Bool { raising.contains(sourceFunction) }

  /// The function in the server's source that checks a published table before its rows are changed. It has no code.
  static let publicationCheck = "CheckCmdReplicaIdentity"

  /// The meaning of an error's code.
  func meaning(of state: String) -> String {
    if isPublication { return Self.publication }
    return PostgresError.meaning(of: isRaised ? PostgresError.raisedState : state)
  }

  private static let publication =
    "the table is published without a sufficient replica identity: add a primary key, set REPLICA IDENTITY FULL, or "
    + "filter rows by columns of the identity only"

  private static let raising: Set<String> = [
    "exec_stmt_raise", "exec_stmt_assert", "PLy_elog_impl", "throw_tcl_error", "do_util_elog", "connect_pg_server",
    "pgfdw_report_error", "dblink_connstr_check", "dblink_get_conn", "dblink_res_error", "dblink_res_internalerror",
  ]

  /// The object in a refusal such as "permission denied for table agents". Only for texts of the server's own code, in
  /// which nothing but identifiers varies; a text that a function in the database raised can contain anything.
  static func object(inMessage message: String, sourceFunction: String) -> String? {
    let beginnings = [
      ("aclcheck_error", "permission denied for ", ""), ("aclcheck_error_col", "permission denied for ", ""),
      ("parserOpenTable", "relation \"", "\" does not exist"),
      ("errorMissingColumn", "column \"", "\" does not exist"),
      ("errorMissingColumn", "column ", " does not exist"),
      ("op_error", "operator does not exist: ", ""), ("ParseFuncOrColumn", "function ", " does not exist"),
    ]
    for (function, start, end) in beginnings where function == sourceFunction {
      if let name = part(of: message, from: start, to: end) { return name }
    }
    return nil
  }

  /// The relation in which a statement waited for a locked row. The server names it only in the innermost line of the
  /// context: `while updating tuple (0,1) in relation "agents"`.
  static func lockedRelation(inContext context: String) -> String? {
    let line = Array(context.utf8.prefix { $0 != UInt8(ascii: "\n") })
    let middle = Array(" in relation \"".utf8)
    guard line.starts(with: "while ".utf8), line.count > middle.count else { return nil }
    for start in 0..<(line.count - middle.count) where line[start...].starts(with: middle) {
      let rest = String(decoding: line[(start + middle.count)...], as: UTF8.self)
      return part(of: rest, from: "", to: "\"").map { "relation \($0)" }
    }
    return nil
  }

  private static func part(of text: String, from start: String, to end: String) -> String? {
    guard text.hasPrefix(start), text.hasSuffix(end) else { return nil }
    let name = text.dropFirst(start.count).dropLast(end.count)
    return name.utf8.count <= 200 ? String(name) : nil
  }
}

extension PostgresError {
  /// The meaning of a code or of its class: PostgreSQL's Appendix A.
  static func meaning(of state: String) -> String {
    meanings[state] ?? classMeanings[String(state.prefix(2))] ?? "server error"
  }

  fileprivate static let denial = "permission denied"

  /// raise_exception
  static let raisedState = "P0001"

  /// lock_not_available
  static let lockState = "55P03"

  private static let meanings = [
    poolersState: "refused by the server or the pooler before it",
    "22P05": "a character is not in the database's encoding",
    "23502": "not-null constraint violated", "23503": "foreign key violated", "23505": "unique constraint violated",
    "23514": "check constraint violated",
    readOnlyState: readOnlyReason, "25P02": "the transaction had failed", "25P03": "the transaction was idle too long",
    "25P04": "the transaction took too long",
    "28000": "authentication failed", "28P01": "authentication failed",
    "3D000": "database does not exist", "3F000": "schema does not exist",
    "40001": "serialization failure", "40P01": "deadlock",
    "42501": denial, "42703": "column does not exist", "42704": "object or setting does not exist",
    "42883": "no function or operator of this name takes these types", "42P01": "table does not exist",
    "53100": "disk full", "53200": "out of memory", "53300": "too many connections",
    lockState: "lock not available",
    "57014": "statement cancelled", "57P01": "the session was ended by an administrator or a shutdown",
    "57P02": "the session was ended by a crash of the server", "57P03": "the server does not take connections yet",
    "57P05": "the session was ended for idleness (idle_session_timeout)",
    raisedState: "a function or trigger in the database raised an error",
    "55000": "not in the state that this needs",
    "58P01": "the server lacks a file, such as a library that sessions are to preload",
  ]

  private static let classMeanings = [
    "08": "connection failed", "0A": "not supported by the server", "22": "value not accepted",
    "23": "constraint violated", "25": "wrong transaction state", "28": "authentication failed",
    "40": "transaction rolled back", "42": "statement not accepted", "53": "out of resources",
    "54": "a limit of the server was reached", "55": "object not in the right state", "57": "operator intervention",
    "58": "system error",
    "XX": "internal error of the server",
  ]

  // MARK: - Texts of poolers

  /// The code of all of PgBouncer's own errors (protocol_violation).
  private static let poolersState = "08P01"

  /// The meaning of a refused login or an ended session with this code and message.
  static func meaning(of state: String, inText message: String) -> String {
    (state == poolersState ? phrase(inPoolersText: message) : nil) ?? meaning(of: state)
  }

  /// Whether a login was refused, or a session ended, for want of a free connection.
  static func saysFull(_ state: String, inText message: String) -> Bool {
    let meaning = meaning(of: state, inText: message)
    return meaning == Self.meaning(of: fullState) || (state == poolersState && poolersFullness.contains(meaning))
  }

  /// too_many_connections
  private static let fullState = "53300"

  private static let poolersWait = "the pooler had no connection to the server in time (query_wait_timeout)"
  private static let poolersLimit = "the pooler takes no more connections"
  private static let poolersFullness = [poolersWait, poolersLimit]

  private static func phrase(inPoolersText text: String) -> String? {
    if let name = refusedParameter(inText: text) {
      return "the start-up parameter \(name) is refused: a pooler must have it in ignore_startup_parameters"
    }
    let bytes = Array(text.utf8)
    for (phrase, meaning) in poolersPhrases where contains(bytes, phrase) { return meaning }
    return nil
  }

  private static let poolersPhrases = [
    // The server's own error, for a login that it refused to the pooler.
    ("could not access file", meaning(of: "58P01")), ("password authentication failed", meaning(of: "28P01")),
    ("is not permitted to log in", meaning(of: "28000")), ("too many connections for", meaning(of: "53300")),
    ("too many clients already", meaning(of: "53300")), ("remaining connection slots", meaning(of: "53300")),
    ("the database system is starting up", meaning(of: "57P03")),
    ("the database system is shutting down", meaning(of: "57P01")),
    ("due to idle-session timeout", meaning(of: "57P05")), ("due to administrator command", meaning(of: "57P01")),
    ("permission denied for database", "permission denied on the database"),
    ("query_wait_timeout", poolersWait),
    ("server_login_retry", "the pooler cannot log in to the server"),
    ("cannot connect to server", "the pooler cannot connect to the server"),
    ("no such database", "the pooler does not know the database"),
    ("no such user", "the pooler does not know the user"),
    ("authentication failed", "the pooler refuses the login: user or password"),
    ("client_login_timeout", "the pooler has no connection to the server (client_login_timeout)"),
    ("query timeout", "the pooler ended a query that took too long (query_timeout)"),
    ("idle transaction timeout", "the pooler ended an idle transaction (idle_transaction_timeout)"),
    ("database removed", "the pooler does not know the database any more"),
    ("server conn crashed", "the pooler lost its connection to the server"),
    ("no more connections allowed", poolersLimit),
    ("shut down", "the pooler is shutting down"), ("shutting down", "the pooler is shutting down"),
    ("client_idle_timeout", "the pooler ended an idle connection (client_idle_timeout)"),
    ("transaction blocks not allowed", "the pooler is in statement pooling mode, which has no transactions"),
  ]

  /// Parameters that libpq sends when a session starts, also from the environment.
  private static let startupParameters = [
    "application_name", "client_encoding", "datestyle", "extra_float_digits", "fallback_application_name", "geqo",
    "options", "replication", "timezone",
  ]

  private static func refusedParameter(inText text: String) -> String? {
    guard let colon = text.utf8.lastIndex(of: UInt8(ascii: ":")), contains(Array(text.utf8), "startup parameter") else {
      return nil
    }
    let name = text[text.utf8.index(after: colon)...].drop { $0 == " " }.lowercased()
    return startupParameters.contains(name) ? name : nil
  }

  // MARK: - Texts of libpq

  /// Why a connection failed: the server's primary message and its SQLSTATE, or libpq's own text.
  typealias Reason = (text: String, sqlState: String?)

  /// The reason in libpq's text about a failed connection: the server's first line, or libpq's own first line without
  /// quotations and without the connection's `secrets`.
  static func reason(inClientText text: String, hiding secrets: [String] = []) -> Reason {
    let bytes = Array(text.utf8)
    if let said = serverLine(in: bytes) { return said }
    for (phrase, reason) in knownPhrases where contains(bytes, phrase) { return (reason, nil) }
    let line = withoutPlace(bytes.prefix { $0 != UInt8(ascii: "\n") })
    let rest = withoutCapital(hidden(String(decoding: line, as: UTF8.self), secrets))
    return (rest.isEmpty ? "connection failed" : rest, nil)
  }

  /// Whether a reason says only that the server cannot be reached.
  static func isAbsence(_ reason: String) -> Bool {
    absences.contains { $0.1 == reason }
  }

  /// The C library's messages for a server that cannot be reached.
  private static let absences = [
    ("Connection refused", "connection refused"), ("Connection timed out", "connection timed out"),
    ("No route to host", "no route to host"), ("Network is unreachable", "network is unreachable"),
  ]

  /// Phrases in libpq's messages, and clearer replacements.
  private static let knownPhrases =
    absences + [
      // libpq compares the names itself, not OpenSSL.
      ("does not match host name", "certificate refused: hostname mismatch"),
      ("Connection reset by peer", "connection reset by peer"), ("Broken pipe", "broken pipe"),
      ("Too many open files", "too many open files"),
      ("server closed the connection unexpectedly", "server closed the connection unexpectedly"),
      ("certificate verify failed", "certificate verify failed"),
      ("server does not support SSL", "server does not support SSL"),
      // target_session_attrs=read-write and primary.
      ("session is read-only", readOnlyReason), ("server is in hot standby mode", readOnlyReason),
      ("session is not read-only", "session is not read-only"),
      ("server is not in hot standby mode", "server is not in hot standby mode"),
      ("no password supplied", "no password supplied"),
      ("has group or world access", "the client key is readable by others: its permissions must be 0600"),
      ("expected authentication request from server", "not the PostgreSQL protocol"),
    ]

  /// The text without "connection to server at "host" (address), port 5432 failed: ".
  private static func withoutPlace(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    let end = Array(" failed: ".utf8)
    guard line.starts(with: "connection to server ".utf8), line.count > end.count else { return line }
    for start in line.startIndex...(line.endIndex - end.count)
    where line[start..<(start + end.count)].elementsEqual(end) {
      return line[(start + end.count)...]
    }
    return line
  }

  /// The maximum number of bytes of libpq's text that are passed on.
  private static let textLimit = 200

  /// `line` with … in place of each whole word in `secrets` and of quotations that are not names of parameters.
  private static func hidden(_ line: String, _ secrets: [String]) -> String {
    var text: [UInt8] = []
    let bytes = Array(line.utf8.prefix(textLimit))
    let secrets = secrets.map { Array($0.utf8) }.filter { !$0.isEmpty }.sorted { $0.count > $1.count }
    var index = 0
    while index < bytes.count {
      if bytes[index] == UInt8(ascii: "\"") {
        let end = bytes[(index + 1)...].firstIndex(of: UInt8(ascii: "\"")) ?? bytes.endIndex
        let quoted = String(decoding: bytes[(index + 1)..<end], as: UTF8.self)
        text += Array((PostgresParameterNames.isPublic(quoted) ? "\"\(quoted)\"" : "\"…\"").utf8)
        index = end + 1
      } else if let secret = secrets.first(where: { stands($0, at: index, in: bytes) }) {
        text += Array("…".utf8)
        index += secret.count
      } else {
        text.append(bytes[index] < 0x20 || bytes[index] == 0x7f ? UInt8(ascii: " ") : bytes[index])
        index += 1
      }
    }
    return String(decoding: text, as: UTF8.self)
  }

  /// Whether `part` occurs as a whole word.
  private static func stands(_ part: [UInt8], at index: Int, in bytes: [UInt8]) -> Bool {
    func isWord(_ byte: UInt8) -> Bool {
      (48...57).contains(byte) || (97...122).contains(byte | 0x20) || byte == UInt8(ascii: "_") || byte >= 0x80
    }
    guard bytes[index...].starts(with: part) else { return false }
    let end = index + part.count
    return (index == 0 || !isWord(bytes[index - 1]) || !isWord(part[0]))
      && (end == bytes.count || !isWord(bytes[end]) || !isWord(part[part.count - 1]))
  }

  /// "could not …" for "Could not …"; "SSL error" stays.
  private static func withoutCapital(_ text: String) -> String {
    let start = Array(text.utf8.prefix(2))
    guard start.count == 2, (65...90).contains(start[0]), (97...122).contains(start[1]) else { return text }
    return text.prefix(1).lowercased() + text.dropFirst()
  }

  /// libpq writes, at full verbosity, "FATAL:  28P01: password authentication …" and a line for each other field.
  private static func serverLine(in bytes: [UInt8]) -> Reason? {
    guard bytes.count > 10 else { return nil }
    for start in 0..<(bytes.count - 9) where bytes[start] == UInt8(ascii: ":") {
      let state = bytes[(start + 3)..<(start + 8)]
      guard bytes[start + 1] == UInt8(ascii: " "), bytes[start + 2] == UInt8(ascii: " "), state.allSatisfy(isStateByte),
        bytes[start + 8] == UInt8(ascii: ":"), bytes[start + 9] == UInt8(ascii: " ")
      else { continue }
      let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) ?? bytes.endIndex
      return (
        String(decoding: bytes[(start + 10)..<end], as: UTF8.self), String(decoding: state, as: UTF8.self)
      )
    }
    return nil
  }

  static func contains(_ bytes: [UInt8], _ part: String) -> Bool {
    let part = Array(part.utf8)
    guard bytes.count >= part.count else { return false }
    return (0...(bytes.count - part.count)).contains { bytes[$0..<($0 + part.count)].elementsEqual(part) }
  }
}
