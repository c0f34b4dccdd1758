// What one batch does to individually modelled rows.
// Invariant: rows that it changes stay locked until its transaction ends, and change only if that is committed.

import Reactor

/// A change to individually modelled rows.
@EventLoop
protocol RowChange: AnyObject {
  /// How many rows a run counts.
  var rows: Int { get }

  /// A statement's result: after `write`, or of a batch without the verdict.
  func result(_ index: Int) -> PostgresResult

  /// Executes the statements. False if a row stays locked.
  ///
  /// - Parameter began: the transaction's start on the server's clock.
  func write(began: Int64) -> Bool

  /// - Parameter isLate: whether the commit arrived later than the closing statement.
  func committed(isLate: Bool)

  func rolledBack()
}

extension RowChange {
  /// The cutoff that a batch's first statement sets, in µs.
  static func cutoff(_ statements: [PostgresStatement], began: Int64) -> Int64 {
    let opening = statements[0].parameters
    return opening[2].flatMap { Int64($0) } ?? began - (Int64(opening[3] ?? "") ?? 0)
  }
}

/// A row that an uncommitted change can hold.
@EventLoop
protocol HeldRow: AnyObject {
  var isHeld: Bool { get set }
}

/// Rows of a table with one page.
@EventLoop
protocol PagedRows: AnyObject {
  associatedtype Row: HeldRow

  /// The rows that meet a statement's condition.
  func due(_ cutoff: Int64, _ statement: PostgresStatement) -> [Row]

  /// Whether another transaction has locked the row.
  func isLocked(_ row: Row) -> Bool

  /// Whether a statement that locks rows skips those that others have locked.
  var skipsLocked: Bool { get }

  /// Whether a statement may write at all.
  func allowsWrites(_ statement: PostgresStatement) -> Bool

  /// The change of these rows is committed.
  func changed(_ rows: [Row])
}

extension PagedRows {
  func hold(_ rows: [Row]) {
    for row in rows { row.isHeld = true }
  }

  func release(_ rows: [Row]) {
    for row in rows { row.isHeld = false }
  }
}

/// A batch of a sweep that goes by pages.
@EventLoop
final class PageChange<Table: PagedRows>: RowChange {
  private let table: Table
  private let statements: [PostgresStatement]
  private let roles: [StatementRole]
  private var results: [Int: PostgresResult] = [:]
  /// The rows that the batch locked before the write; nil if it did not.
  private var locked: [Table.Row]?
  private var written: [Table.Row] = []

  init(_ statements: [PostgresStatement], _ roles: [StatementRole], in table: Table) {
    self.statements = statements
    self.roles = roles
    self.table = table
  }

  var rows: Int { written.count }

  func result(_ index: Int) -> PostgresResult { results[index] ?? result(index, due: 0, free: 0, changed: 0) }

  private func result(_ index: Int, due: Int, free: Int, changed: Int) -> PostgresResult {
    switch roles[index] {
    case .lock: PostgresResult(rows: [["t", "\(due)", "\(free)"]])
    case .pagesSkippingLocked: PostgresResult(rows: [["\(due)", "\(changed)", "\(changed)", "\(free)"]])
    default: PostgresResult(rows: [], command: "DELETE \(changed)")
    }
  }

  func write(began: Int64) -> Bool {
    let cutoff = Self.cutoff(statements, began: began)
    for (index, role) in roles.enumerated() where role == .lock || role.writesPages {
      guard write(index, role, cutoff) else {
        written = []
        return false
      }
    }
    table.hold(written)
    return true
  }

  private func write(_ index: Int, _ role: StatementRole, _ cutoff: Int64) -> Bool {
    let statement = statements[index]
    let isFirstPage = statement.parameters[0] == "(0,0)" && statement.parameters[1] != "(0,0)"
    let due = isFirstPage ? table.due(cutoff, statement) : []
    let free = due.filter { !table.isLocked($0) }
    if role == .lock {
      locked = table.skipsLocked ? free : due
      results[index] = result(index, due: due.count, free: locked?.count ?? 0, changed: 0)
      return true
    }
    if locked == nil, role != .pagesSkippingLocked, free.count < due.count { return false }
    let found = table.allowsWrites(statement) ? locked ?? free : []
    let changed = found.filter { row in !written.contains { $0 === row } }
    written += changed
    results[index] = result(index, due: due.count, free: found.count, changed: changed.count)
    return true
  }

  func committed(isLate: Bool) {
    table.release(written)
    table.changed(written)
  }

  func rolledBack() {
    table.release(written)
    written = []
  }
}
