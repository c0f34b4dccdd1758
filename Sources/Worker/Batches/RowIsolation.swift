// The due rows of one page on which a statement failed, as a pure struct: which of them to try together next.
// Invariants: every row is tried until it was changed or failed by itself; each failure makes what is tried smaller.

/// Where a row lies.
struct RowPlace: Equatable, Sendable {
  /// The part of the table, by its object identifier: places are one part's only.
  let table: Int64
  /// Page and number, as PostgreSQL writes a tid: "(7,2)".
  let place: String
}

/// Cuts the rows out whose change fails.
///
///     listing ──▶ trying all ──── failed ───▶ trying the halves ─── failed ───▶ … ──▶ one row: given up
///        │            │                             │
///        │            └──────── changed ────────────┴──▶ the next ones, until none is left
///        └─ failed: the page is given up
struct RowIsolation: Equatable, Sendable {
  let page: Int
  private var isListed = false
  /// What is to be tried, the next one last.
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

  /// The page cannot be read: what is due on it is one row to the count, and is given up.
  mutating func unreadable() {
    isListed = true
    pending = [[]]
  }

  /// The rows that are tried were changed, or are given up.
  mutating func changed() {
    pending.removeLast()
  }

  /// The rows that are tried failed. True if it was one row: then it stays until `changed` is told.
  mutating func failed() -> Bool {
    guard let rows = pending.last, rows.count > 1 else { return true }
    pending.removeLast()
    let middle = rows.count / 2
    pending.append(Array(rows[middle...]))
    pending.append(Array(rows[..<middle]))
    return false
  }
}
