// The due rows of a page on which a statement failed, as a pure struct: which of them to try together next.
// Invariants: every row is tried until it changes or fails alone; each failure makes the next try smaller.

/// A row's place.
struct RowPlace: Equatable, Sendable {
  /// The OID of the table's part: a place is unique only within a part.
  let table: Int64
  /// Page and number, as PostgreSQL writes a tid: "(7,2)".
  let place: String
}

/// Isolates the rows whose change fails.
///
///     listing ──▶ trying all ──── failed ───▶ trying the halves ─── failed ───▶ … ──▶ one row: given up
///        │            │                             │
///        │            └──────── changed ────────────┴──▶ the next ones, until none is left
///        └─ failed: the page is given up
struct RowIsolation: Equatable, Sendable {
  let page: Int
  private var isListed = false
  /// The rows still to try; the next ones are last.
  private var pending: [[RowPlace]] = []

  init(page: Int) {
    self.page = page
  }

  var isDone: Bool { isListed && pending.isEmpty }

  var step: SweepRoute.Step? {
    guard isListed else { return SweepRoute.Step(reads: .dueRows(page: page)) }
    return pending.last.map { SweepRoute.Step(reads: .rows($0)) }
  }

  mutating func listed(_ rows: [RowPlace]) {
    isListed = true
    if !rows.isEmpty { pending = [rows] }
  }

  /// The page cannot be read. It counts as one row that is given up.
  mutating func unreadable() {
    isListed = true
    pending = [[]]
  }

  /// The rows under trial were changed or given up.
  mutating func changed() {
    pending.removeLast()
  }

  /// The rows under trial failed. True if it was a single row, which stays until `changed` is called.
  mutating func failed() -> Bool {
    guard let rows = pending.last, rows.count > 1 else { return true }
    pending.removeLast()
    let middle = rows.count / 2
    pending.append(Array(rows[middle...]))
    pending.append(Array(rows[..<middle]))
    return false
  }
}
