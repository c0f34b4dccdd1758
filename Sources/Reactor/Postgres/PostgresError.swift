// The errors of PostgreSQL, each case with what the operator can do. Invariant: no case holds a password, a row's
// contents, DETAIL, HINT or CONTEXT, and `description` names no host, user or database. Thrown by this folder.

/// A failure of the client, the connection or a statement.
public enum PostgresError: Error, Sendable, Equatable {
  /// No connection could be made: the server is down or refuses, or its name is unknown. Start the server or correct
  /// the URL.
  ///
  /// `reason` is for the operator's log. If the server gave one, it is the primary message, which can name the user,
  /// the database and the client's address, and `sqlState` is its code. Others see `publicReason`.
  case unavailable(reason: String, sqlState: String? = nil)
  /// An open connection ended. The outcome of a statement in progress is unknown. Check whether the server restarted.
  case connectionLost(reason: String, sqlState: String? = nil)
  /// No answer by the deadline: the server, or something in between, hangs. Check its load and its locks.
  case timedOut(PostgresStage)
  /// The server refused the statement at index `statement` of a pipeline. `message` is the primary message and may
  /// quote a row; `place` names the object and may be shown to anyone.
  case server(sqlState: String, message: String, statement: Int = 0, place: PostgresErrorPlace = PostgresErrorPlace())
  /// All connections were in use until the deadline. Raise the limit, or look for what holds them. `serverLimit` is why
  /// no further one could be opened though the pool's own limit allowed it: raise the server's or the role's limit.
  case poolExhausted(serverLimit: String? = nil)
  /// The pool was closed.
  case poolClosed
  /// The connection was used by two callers at once: a bug in the calling code.
  case busy

  /// The server answers but cannot be written to: a hot standby, or read-only by default.
  static let readOnly = PostgresError.unavailable(reason: readOnlyReason)
  static let readOnlyReason = "the database is read-only"
  /// read_only_sql_transaction
  static let readOnlyState = "25006"

  /// Whether the server answers but cannot be written to: a standby, or read-only by default.
  public var isReadOnly: Bool { self == Self.readOnly || (sqlState == Self.readOnlyState && !isRaised) }

  /// Whether a function in the database raised it: see `PostgresErrorPlace.isRaised`.
  public var isRaised: Bool { if case .server(_, _, _, let place) = self { place.isRaised } else { false } }

  /// The server's error code; nil if the server gave none.
  public var sqlState: String? {
    switch self {
    case .server(let state, _, _, _): state
    case .unavailable(_, let state), .connectionLost(_, let state): state
    case .timedOut, .poolExhausted, .poolClosed, .busy: nil
    }
  }

  /// The reason, in words that may leave the process: no host, address, user, database or password.
  public var publicReason: String {
    switch self {
    case .unavailable(let reason, nil), .connectionLost(let reason, nil): reason
    case .unavailable(let message, let state?), .connectionLost(let message, let state?):
      "\(Self.meaning(of: state, inText: message)) (SQLSTATE \(state))"
    case .timedOut(let stage): "timed out \(stage.rawValue)"
    case .server(let state, _, _, let place):
      "\(place.text(place.meaning(of: state))) (SQLSTATE \(state))"
    case .poolExhausted(nil): "all connections in use"
    case .poolExhausted(let limit?): "all connections in use, and no further one is accepted: \(limit)"
    case .poolClosed: "shutting down"
    case .busy: "connection busy"
    }
  }

  /// Whether the server, or a pooler, has no room for a further connection.
  var isFull: Bool {
    switch self {
    case .unavailable(let message, let state?), .connectionLost(let message, let state?):
      Self.saysFull(state, inText: message)
    case .unavailable, .connectionLost, .timedOut, .server, .poolExhausted, .poolClosed, .busy: false
    }
  }

  static func isStateByte(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
  }
}

/// What was in progress at the deadline.
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
    case .server(let state, let message, let statement, _):
      "PostgreSQL error \(state): \(message)" + (statement == 0 ? "" : " (statement \(statement))")
    case .poolExhausted, .poolClosed, .busy: "PostgreSQL: \(publicReason)"
    }
  }
}
