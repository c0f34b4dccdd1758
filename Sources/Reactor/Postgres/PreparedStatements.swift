// Which statements the server keeps prepared for one connection, as a pure struct. Invariant: a statement counts as
// there only after the server has said so, and a name is given once. Used by PostgresConnection.

/// The prepared statements of one connection.
///
///               add                  confirmed
///     unknown ───────▶ sent for ─────────────────▶ there
///        ▲                │
///        └── settled ─────┘  the pipeline ended without a word of it: an earlier statement had failed
///
/// Within the pipeline that sends for it, a statement can be used at once: the server takes everything in order, and
/// nothing after a failure.
struct PreparedStatements {
  /// More than any caller sends; what comes beyond is parsed each time.
  static let limit = 32

  private var entries: [(text: String, name: String)] = []
  private var confirmedCount = 0
  private var lastNumber = 0

  /// What the server knows the statement by; nil where it has not been sent for.
  func name(of text: String) -> String? {
    for entry in entries where entry.text == text { return entry.name }
    return nil
  }

  /// A name for a statement that is sent for now; nil where there are too many.
  mutating func add(_ text: String) -> String? {
    guard entries.count < Self.limit else { return nil }
    lastNumber += 1
    let name = "kept_\(lastNumber)"
    entries.append((text, name))
    return name
  }

  /// The server has the first one of those that it was sent for.
  mutating func confirmed() {
    confirmedCount += 1
  }

  /// The pipeline has ended: what the server did not confirm, it does not have.
  mutating func settled() {
    entries.removeLast(max(0, entries.count - confirmedCount))
  }

  /// The server said that it has no such statement: someone took them away.
  mutating func lost() {
    entries = []
    confirmedCount = 0
  }
}
