// Tracks which statements are prepared on the server for one connection. Pure. Invariant: a statement counts as
// prepared only after the server has confirmed it, and a name is used once. Used by PostgresConnection.

/// The prepared statements of one connection.
///
///               add                 confirmed
///     unknown ───────▶ requested ──────────────▶ prepared
///        ▲                 │                         │
///        │ pipelineEnded   │                         │ lost
///        └─────────────────┴─────────────────────────┘
///
/// The pipeline that requests a statement can use it at once: the server handles everything in order, and skips the
/// rest after a failure. A request that was skipped is not confirmed.
struct PreparedStatements {
  /// More than any caller uses. Statements beyond it are parsed each time.
  static let limit = 32

  private var entries: [(text: String, name: String)] = []
  private var confirmedCount = 0
  private var lastNumber = 0

  /// The statement's name on the server; nil if it was not requested.
  func name(of text: String) -> String? {
    for entry in entries where entry.text == text { return entry.name }
    return nil
  }

  /// A name for a statement that is requested now; nil if there are too many.
  mutating func add(_ text: String) -> String? {
    guard entries.count < Self.limit else { return nil }
    lastNumber += 1
    let name = "kept_\(lastNumber)"
    entries.append((text, name))
    return name
  }

  /// The server confirmed the first of the requested statements.
  mutating func confirmed() {
    confirmedCount += 1
  }

  /// The pipeline has ended: what the server did not confirm is not prepared.
  mutating func pipelineEnded() {
    entries.removeLast(max(0, entries.count - confirmedCount))
  }

  /// The server does not know a statement: something has deallocated them.
  mutating func lost() {
    entries = []
    confirmedCount = 0
  }
}
