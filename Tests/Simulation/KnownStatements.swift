// The worker's statements by their texts, and the answers of a table shaped like the control plane's.
// Invariant: a text that no simulated sweep uses traps.

import Reactor
import Worker
import _StringProcessing

/// What a statement does, as the modelled server sees it.
enum StatementRole {
  case open, close, settings, clock, readLimits, loginRole, holders
  /// The survey of a table, and the shorter check that it is unchanged.
  case survey, check
  case indexScan, tableProbe
  case pages, part, pagesSkippingLocked, firstDue
  /// Locks the rows that the next statement writes.
  case lock
  case dueRows, rows
  case insert
  /// For a sweep with linked rows.
  case writeLinked, writeLinkedSkippingLocked, write, writeSkippingLocked, firstKey
  /// Whether nothing is due, asked outside a run.
  case nothingDue
  /// The surveys of other tables and of the schema.
  case related, schema
  /// For discovery by connection: two queries, and the two statements of a claim.
  case dueConnections, coveredTargets, claim, mark

  /// Whether it changes rows by pages.
  var writesPages: Bool { [.pages, .part, .pagesSkippingLocked].contains(self) }

  /// Whether it changes or locks rows, or searches them on behalf of a statement that does.
  var changesRows: Bool {
    switch self {
    case .writeLinked, .writeLinkedSkippingLocked, .write, .writeSkippingLocked, .firstKey, .claim, .mark, .lock: true
    default: writesPages
    }
  }
}

@EventLoop
final class KnownStatements {
  /// By text length: comparing strings that share storage is free, hashing each is not.
  private var roles: [Int: [(text: String, role: StatementRole)]] = [:]
  /// The texts that take account of the foreign key.
  private var referenceTexts: Set<String> = []

  /// The targets of each document seen so far.
  private var documents: [String: [Int]] = [:]

  private static let shared: [String: StatementRole] = [
    GuardStatements.open: .open, GuardStatements.openWithTransactionTimeout: .open, GuardStatements.close: .close,
    GuardStatements.clock: .clock, GuardStatements.readLimits: .readLimits,
    AdvisoryHolder.loginRole: .loginRole, AdvisoryHolder.query: .holders,
    TableStatements.batchSettings: .settings, TableSurvey.query: .survey, TableSurvey.check: .check,
    RelatedTables.query: .related, SchemaCheck.check: .schema,
  ]

  /// Constant answers.
  let nothing = PostgresResult(rows: [])
  let opened = PostgresResult(rows: [["t"]])

  init(_ sweepers: [Sweeper]) {
    for (text, role) in Self.shared { add(text, role) }
    for sweeper in sweepers {
      switch sweeper.work {
      case .rows(let sweep):
        add(sweep, hasReference: false)
        if sweep.leavesReferenced { add(sweep, hasReference: true) }
      case .connections(let discovery): add(discovery)
      // No simulated fleet runs it.
      case .watch: break
      case .discovery: add(DiscoveryStatements.insert(into: Self.quoted(Discovery.table)), .insert)
      }
    }
  }

  private func add(_ sweep: RowSweep, hasReference: Bool) {
    let moments = MomentColumns(
      table: Self.identifier, names: "{" + sweep.moments.joined(separator: ",") + "}", types: Self.momentTypes)
    var related = RelatedTables()
    if sweep.needsRelatedTables, let table = survey(sweep.table, sweep.moments) {
      related = RelatedTables(
        PostgresResult(
          rows: relatedTables(sweep.relatedTables(of: table).parameters, hasReference: hasReference)))
    }
    let statements = TableStatements(
      sweep: sweep, table: Self.quoted(sweep.table), moments: moments, countsDue: false, related: related)
    if sweep.leavesReferenced {
      add(statements.lock, .lock)
      if hasReference {
        referenceTexts.formUnion([statements.lock, statements.write, statements.writeSkippingLocked])
      }
    }
    if sweep.probesFirst { add(statements.nothingDue, .nothingDue) }
    if let linked = sweep.linked, let second = survey(linked.table, [linked.key]) {
      let windows = LinkedStatements(linked, of: statements, in: second)
      add(windows.writeLinked, .writeLinked)
      add(windows.writeLinkedSkippingLocked, .writeLinkedSkippingLocked)
      add(windows.write, .write)
      add(windows.writeSkippingLocked, .writeSkippingLocked)
      return add(windows.firstKey, .firstKey)
    }
    add(statements.indexScan, .indexScan)
    add(statements.indexScanSkippingLocked, .indexScan)
    add(statements.probeTable, .tableProbe)
    add(statements.write, .pages)
    add(statements.writePart, .part)
    add(statements.writeSkippingLocked, .pagesSkippingLocked)
    add(statements.firstDue, .firstDue)
    add(statements.dueRows, .dueRows)
    add(statements.writeRows, .rows)
  }

  private func add(_ discovery: ConnectionDiscovery) {
    guard let connections = survey(ConnectionDiscovery.table, ConnectionDiscovery.moments),
      let jobs = survey(Discovery.table, [])
    else { preconditionFailure("the answers are no surveys") }
    let statements = discovery.statements(on: connections, jobs)
    add(statements.due, .dueConnections)
    add(statements.insert, .claim)
    add(statements.mark, .mark)
    add(ConnectionStatements.covered(by: Self.quoted(ConnectionDiscovery.table)), .coveredTargets)
  }

  private static func quoted(_ table: String) -> String { "\"public\".\"\(table)\"" }

  private func add(_ text: String, _ role: StatementRole) {
    roles[text.utf8.count, default: []].append((text, role))
  }

  func role(of sql: String) -> StatementRole {
    guard let known = roles[sql.utf8.count]?.first(where: { $0.text == sql }) else {
      preconditionFailure("the model does not know this statement: \(sql)")
    }
    return known.role
  }

  /// The target numbers in a discovery document.
  func targets(in document: String) -> [Int] {
    if let known = documents[document] { return known }
    let parts = document.split(separator: "\"name\":\"").dropFirst()
    let targets = parts.compactMap { Int($0.prefix { $0 != "\"" }) }
    documents[document] = targets
    return targets
  }

  /// The answer to a survey: a plain table that the role owns, with an index, without row security.
  func survey(of table: String, moments: String?, pages: Int) -> [String?] {
    [
      "public", "r", "\(Self.identifier)", "f", "t", "t", "f", Self.predicate(of: table), "\(pages)", Self.file, "1",
      nil,
      "f",
      "f", nil, Self.indexes, Self.momentTypes, moments,
    ]
  }

  private func survey(_ table: String, _ moments: [String]) -> TableSurvey? {
    let answer = survey(of: table, moments: "{" + moments.joined(separator: ",") + "}", pages: 0)
    return TableSurvey(table: table, PostgresResult(rows: [answer]))
  }

  /// The answer to a survey of other tables: each exists.
  ///
  /// - Parameter hasReference: whether a foreign key refers to the swept table, if that is asked.
  func relatedTables(_ parameters: [String?], hasReference: Bool) -> [[String?]] {
    let names = (parameters[0] ?? "{}").dropFirst().dropLast().split(separator: ",").map(String.init)
    var rows = names.enumerated().map { index, name in
      ["1", "public", name, "\(Self.identifier + 100 + Int64(index))", "f", "0", "", "", "t", "t"]
    }
    guard parameters[1] != "0" else { return rows }
    if hasReference { rows.append(["2", "public", "bindings", "16600", "f", "16601", "secret_id", "id", "t", "t"]) }
    return rows + [["3", "public", "", "\(Self.identifier)", "f", "0", "", "", "t", "t"]]
  }

  /// Whether a statement that deletes rows takes account of the foreign key.
  func knowsReference(_ sql: String) -> Bool { referenceTexts.contains(sql) }

  func check(pages: Int) -> [String?] {
    ["t", "f", "t", "f", "\(pages)", Self.file, Self.indexes, Self.momentTypes]
  }

  private static func predicate(of table: String) -> String {
    table == "reveal_sessions" ? "(expired_at IS NULL)" : "(consumed_at IS NULL)"
  }

  private static let identifier: Int64 = 16_400
  /// Shows that the columns' types are unchanged.
  private static let momentTypes = "timestamptz"
  private static let file = "16401"
  /// Shows that the indexes are unchanged.
  private static let indexes = "16402"
}
