// What the modelled server does with a batch's statements: how long each takes, what it changes, what it answers.
// Invariant: it behaves as TableStatements and DiscoveryStatements do on a table whose pages all cost the same,
// including the clock that ends a write.

import Coordination
import Reactor
import Worker

@EventLoop
struct BatchPlan {
  /// In µs.
  private(set) var length: Int64 = 0
  private(set) var rows = 0
  private(set) var jobs: [Judge.Job] = []
  /// The change to individually modelled rows, applied when the server executes it.
  private(set) var change: (any RowChange)?
  /// The first statement that can wait for a row lock.
  private(set) var firstWrite = 0
  private let statements: [PostgresStatement]
  private let roles: [StatementRole]
  private let scenario: Scenario
  /// The answers of statements that change or find rows, indexed like the statements.
  private var answers: [[String?]?]
  private var changes: [Int?]

  private static let roundTrip: Int64 = 200
  /// The time that one statement takes that changes or searches individually modelled rows.
  private static let windowTime: Int64 = 1_000

  init(_ statements: [PostgresStatement], _ roles: [StatementRole], sweeper: Int, epoch: Int64, _ replica: Replica) {
    self.statements = statements
    self.roles = roles
    scenario = replica.scenario
    answers = statements.map { _ in nil }
    changes = statements.map { _ in nil }
    length = Self.roundTrip
    firstWrite = roles.firstIndex { $0 != .open && $0 != .settings && $0 != .check && $0 != .survey } ?? 0
    let table = replica.judge.tables[sweeper]
    change = replica.postgres.change(statements, roles, sweeper)
    // A run's first batch draws the table's size and due rows.
    if isFirst { table.draw(replica.world, scenario, isModelledByRow: change != nil) }
    for (index, role) in roles.enumerated() { plan(index, role, table, epoch, replica) }
  }

  private var isFirst: Bool {
    let scans = statements.indices.filter { roles[$0] == .indexScan }
    if !scans.isEmpty { return scans.contains { statements[$0].parameters[0] == nil } }
    return roles.contains { $0 == .check || $0 == .survey }
      && statements.indices.contains { roles[$0] == .pages && range($0).lowerBound == 0 }
  }

  private mutating func plan(
    _ index: Int, _ role: StatementRole, _ table: ModelledTable, _ epoch: Int64, _ replica: Replica
  ) {
    let parameters = statements[index].parameters
    if change != nil, role.changesRows {
      length += Self.windowTime
      return
    }
    switch role {
    case .open, .settings, .close: break
    case .check: answers[index] = scenario.statements.check(pages: table.pages)
    case .survey:
      answers[index] = scenario.statements.survey(of: parameters[0] ?? "", moments: parameters[3], pages: table.pages)
    // These tables have no index that finds due rows.
    case .indexScan: answers[index] = ["0", "0", "0", "0", nil, "0", nil, nil]
    case .pages, .part: write(index, role, table)
    case .pagesSkippingLocked:
      write(index, role, table)
      let changed = "\(changes[index] ?? 0)"
      changes[index] = nil
      answers[index] = [changed, changed, changed, changed]
    case .firstDue: answers[index] = [table.firstDue(in: range(index))]
    case .tableProbe:
      length += Int64(table.pages) * scenario.microsecondsPerPage / 10
      answers[index] = [table.firstDue(in: 0..<table.pages)]
    // They have been changed by then, or the lock is lost.
    case .dueRows: answers[index] = []
    case .rows: changes[index] = 0
    case .insert: insert(index, epoch, replica)
    case .writeLinked, .writeLinkedSkippingLocked, .write, .writeSkippingLocked, .firstKey, .claim, .mark, .lock:
      preconditionFailure("this seed has no such rows")
    case .clock, .readLimits, .loginRole, .holders, .nothingDue, .related, .schema, .dueConnections, .coveredTargets:
      preconditionFailure("this does not belong in a batch: \(statements[index].sql)")
    }
  }

  private func range(_ index: Int) -> Range<Int> {
    let parameters = statements[index].parameters
    return Self.page(parameters[0])..<Self.page(parameters[1])
  }

  /// The page of "(page,row)".
  private static func page(_ text: String?) -> Int {
    var page = 0
    for byte in (text ?? "").utf8.dropFirst() {
      guard byte != UInt8(ascii: ",") else { break }
      page = page * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return page
  }

  private mutating func write(_ index: Int, _ role: StatementRole, _ table: ModelledTable) {
    let pages = range(index).clamped(to: 0..<max(table.pages, range(index).lowerBound))
    let cost = scenario.microsecondsPerPage
    let limit: Int64 =
      switch role {
      case .part: length > self.limit(parameter: 6) ? -1 : .max
      case .pages: max(self.limit(parameter: 5) - length, PageRanges.writeReserve.nanoseconds / 1_000)
      default: .max
      }
    var (done, due) = (0, 0)
    while done < pages.count, Int64(due) * cost <= limit {
      if table.hasDueRows(onPage: pages.lowerBound + done) { due += 1 }
      done += 1
    }
    // Pages without a due row are only read.
    length += Int64(due) * cost + Int64(done - due) * cost / 10
    table.swept(pages.lowerBound..<(pages.lowerBound + done))
    let changed = due * table.rowsPerPage
    rows += changed
    changes[index] = changed
  }

  /// How long after the transaction began the batch's settings allow writes, in µs.
  private func limit(parameter: Int) -> Int64 {
    guard let settings = roles.firstIndex(of: .settings) else { preconditionFailure("a batch has its settings") }
    return (Int64(statements[settings].parameters[parameter] ?? "") ?? 0) * 1_000
  }

  private mutating func insert(_ index: Int, _ epoch: Int64, _ replica: Replica) {
    let parameters = statements[index].parameters
    let ids = (parameters[1] ?? "{}").dropFirst().dropLast().split(separator: ",").map(String.init)
    let slot = replica.judge.slot(of: epoch, Scenario.discovery)
    for (id, target) in zip(ids, scenario.statements.targets(in: parameters[0] ?? "")) {
      let isRandom = replica.mutation == .randomIDs
      let job = Judge.Job(target: target, slot: slot, id: isRandom ? "\(replica.world.random.next())" : id)
      if !replica.judge.exists(job) { jobs.append(job) }
    }
    rows = jobs.count
    let count = "\(jobs.count)"
    answers[index] = [count, count, count, "{" + jobs.map(\.id).joined(separator: ",") + "}"]
  }

  /// The statements' results.
  func results(of batch: PostgresServer.Batch, began: Int64, clock: Int64, isGuarded: Bool) -> [PostgresResult] {
    statements.indices.map { index in
      if let change, roles[index].changesRows { return change.result(index) }
      switch roles[index] {
      case .open: return scenario.statements.opened
      case .settings: return scenario.statements.nothing
      case .close:
        let opening = statements[0].parameters
        let cutoff = opening[2] ?? "\(began - (Int64(opening[3] ?? "") ?? 0))"
        return PostgresResult(rows: [[isGuarded ? "t" : "f", "1", "\(clock)", cutoff, "\(clock - began)"]])
      default:
        // Without the verdict a write meets no row.
        if let changed = changes[index] {
          return PostgresResult(rows: [], command: "DELETE \(batch.hasWritten ? changed : 0)")
        }
        let answer = answers[index] ?? []
        return PostgresResult(rows: answer.isEmpty ? [] : [answer])
      }
    }
  }
}

/// A table that a sweeper works on: how large it is, and how much of it is due.
@EventLoop
final class ModelledTable {
  private(set) var pages = 0
  private(set) var rowsPerPage = 0
  /// Pages without due rows. If two runs alternate, these need not be the first pages.
  private var isSwept: [Bool] = []

  /// Draws the table's state for the next run, unless its rows are modelled individually.
  func draw(_ world: World, _ scenario: Scenario, isModelledByRow: Bool) {
    guard !isModelledByRow else {
      pages = 1
      return
    }
    pages = Int(world.any(0...Int64(scenario.tablePages)))
    rowsPerPage = world.any(of: [0, 1, 1, 1, 10])
    isSwept = [Bool](repeating: false, count: pages)
  }

  func swept(_ range: Range<Int>) {
    for page in range.clamped(to: 0..<pages) { isSwept[page] = true }
  }

  /// Whether the page has due rows that have not been swept.
  func hasDueRows(onPage page: Int) -> Bool {
    rowsPerPage > 0 && isSwept.indices.contains(page) && !isSwept[page]
  }

  /// The location of the first due row in `range`.
  func firstDue(in range: Range<Int>) -> String? {
    guard rowsPerPage > 0 else { return nil }
    return range.clamped(to: 0..<pages).first { !isSwept[$0] }.map { "(\($0),1)" }
  }
}
