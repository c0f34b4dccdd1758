// What a sweeper needs from its tables: the columns that it reads and writes, and the privileges for them. Pure:
// derived entirely from the sweeper's declaration.

import Reactor

/// A privilege that a sweeper needs.
struct SweepNeed: Equatable, Sendable {
  enum Privilege: String, Sendable {
    case select = "SELECT"
    case insert = "INSERT"
    case update = "UPDATE"
    case delete = "DELETE"
  }

  let privilege: Privilege
  /// Empty for the whole table, as DELETE always is.
  let column: String
}

/// A table as a sweeper uses it.
struct SweepNeeds: Equatable, Sendable {
  let table: String
  /// The column used to find due rows.
  let key: String
  /// The columns read or written as timestamps.
  let moments: [String]
  let event: TableSurvey.Event
  /// The condition that an index on `key` must serve; nil if no index finds due rows or none is needed.
  let indexCondition: String?
  let needs: [SweepNeed]
  /// What it needs from other tables that its statements name.
  private(set) var others: [OtherNeeds] = []
  /// Whether it needs to read the columns of foreign keys that refer to the table.
  private(set) var readsReferences = false

  /// What is needed from the table that is searched for due rows.
  init(_ work: Sweeper.Work) {
    switch work {
    case .rows(let sweep): self.init(sweep)
    case .discovery: self = Self.discovery
    case .connections: self = Self.connections
    case .watch: self = Self.queue
    }
  }

  /// What is needed from every table.
  static func all(_ work: Sweeper.Work) -> [SweepNeeds] {
    if case .connections = work { return [connections, connectionJobs] }
    return [SweepNeeds(work), SweepNeeds(linkedTo: work)].compactMap { $0 }
  }

  /// For the table of linked rows; nil if the sweeper has none.
  init?(linkedTo work: Sweeper.Work) {
    guard case .rows(let sweep) = work, let linked = sweep.linked else { return nil }
    let assigned = SQLColumns.assigned(in: linked.set)
    self.init(
      table: linked.table, key: linked.key, moments: [linked.key], event: .update, indexCondition: nil,
      reads: [linked.id] + SQLColumns.read(in: linked.due), assigned.map { SweepNeed(privilege: .update, column: $0) })
  }

  private init(
    table: String, key: String, moments: [String], event: TableSurvey.Event, indexCondition: String?,
    reads: [String], _ writes: [SweepNeed]
  ) {
    self.table = table
    self.key = key
    self.moments = moments
    self.event = event
    self.indexCondition = indexCondition
    var needs: [SweepNeed] = []
    for need in reads.map({ SweepNeed(privilege: .select, column: $0) }) + writes where !needs.contains(need) {
      needs.append(need)
    }
    self.needs = needs
  }

  private init(_ sweep: RowSweep) {
    var reads = SQLColumns.read(in: sweep.due) + [sweep.key]
    if let lookup = sweep.lookup { reads.append(lookup.foreignKey) }
    if sweep.audit != nil || sweep.attemptLimit != nil { reads.append("id") }
    if let index = sweep.index { reads += SQLColumns.read(in: index.reaches) }
    if let linked = sweep.linked { reads += ["id", linked.references] }
    var writes: [SweepNeed]
    switch sweep.change {
    case .delete: writes = [SweepNeed(privilege: .delete, column: "")]
    case .update(let set):
      let assigned = SQLColumns.assigned(in: set)
      writes = assigned.map { SweepNeed(privilege: .update, column: $0) }
      reads += SQLColumns.read(in: set).filter { !assigned.contains($0) }
    }
    if sweep.leavesReferenced {
      // Rows are locked by ctid.
      reads.append("")
      writes.append(SweepNeed(privilege: .update, column: "id"))
    }
    let needsIndex = sweep.index.map { !$0.passesSuffice } ?? false
    self.init(
      table: sweep.table, key: sweep.key, moments: sweep.moments, event: sweep.event,
      indexCondition: needsIndex ? sweep.index?.reaches : nil, reads: reads, writes)
    others = OtherNeeds.all(of: sweep)
    readsReferences = sweep.leavesReferenced
  }

  /// As `QueueWatch.query` has it.
  private static var queue: SweepNeeds {
    SweepNeeds(
      table: QueueWatch.table, key: "created_at", moments: QueueWatch.moments, event: .update, indexCondition: nil,
      reads: QueueWatch.columns, [])
  }

  private static let jobColumns = ["job_type", "status", "correlation_id", "agent_scope", "payload"]

  /// As `DiscoveryStatements.insert` has it.
  private static var discovery: SweepNeeds {
    SweepNeeds(
      table: Discovery.table, key: "created_at", moments: [], event: .insert, indexCondition: nil, reads: jobColumns,
      jobColumns.map { SweepNeed(privilege: .insert, column: $0) })
  }

  /// As `ConnectionStatements` has it.
  private static var connections: SweepNeeds {
    SweepNeeds(
      table: ConnectionDiscovery.table, key: "last_discover_at", moments: ConnectionDiscovery.moments, event: .update,
      indexCondition: nil,
      reads: [
        "id", "type", "scope", "status", "cluster_name", "discover_enabled", "discover_interval_seconds",
        "last_discover_at", "last_discover_status", "last_discover_started_at",
      ],
      ["last_discover_status", "last_discover_started_at", "last_discover_error"].map {
        SweepNeed(privilege: .update, column: $0)
      })
  }

  private static var connectionJobs: SweepNeeds {
    SweepNeeds(
      table: Discovery.table, key: "created_at", moments: [], event: .insert, indexCondition: nil,
      reads: ["job_type", "status", "correlation_id", "payload"],
      (["id"] + jobColumns).map { SweepNeed(privilege: .insert, column: $0) })
  }
}

/// Another table as a sweeper's statements use it.
struct OtherNeeds: Equatable, Sendable {
  let table: String
  let needs: [SweepNeed]

  static func all(of sweep: RowSweep) -> [OtherNeeds] {
    var others: [OtherNeeds] = []
    if let lookup = sweep.lookup {
      let columns = [lookup.key] + SQLColumns.read(in: lookup.value)
      others.append(
        OtherNeeds(table: lookup.table, needs: columns.map { SweepNeed(privilege: .select, column: $0) }))
    }
    if sweep.audit != nil {
      others.append(
        OtherNeeds(
          table: AuditNote.table, needs: AuditNote.columns.map { SweepNeed(privilege: .insert, column: $0) }))
    }
    return others
  }
}

/// The columns in a condition or a SET list, by the sweepers' style: lower-case column names, upper-case keywords, and
/// functions followed by their parenthesis.
enum SQLColumns {
  static func read(in text: String) -> [String] { words(of: text).map(\.name) }

  /// The columns that a SET list assigns to.
  static func assigned(in text: String) -> [String] { words(of: text).filter(\.isAssigned).map(\.name) }

  private static func words(of text: String) -> [(name: String, isAssigned: Bool)] {
    let bytes = Array(text.utf8)
    var words: [(name: String, isAssigned: Bool)] = []
    var index = 0
    var depth = 0
    // Whether the next word begins an element of a list.
    var isFirst = true
    while index < bytes.count {
      let byte = bytes[index]
      if byte == UInt8(ascii: "'") {
        index = (bytes[(index + 1)...].firstIndex(of: byte) ?? bytes.count - 1) + 1
        isFirst = false
      } else if isNamePart(byte) || byte == UInt8(ascii: ":") {
        var end = index + 1
        while end < bytes.count, isNamePart(bytes[end]) || bytes[end] == UInt8(ascii: ":") { end += 1 }
        if isColumn(bytes[index..<end]), end == bytes.count || bytes[end] != UInt8(ascii: "(") {
          let rest = bytes[end...].first { $0 != UInt8(ascii: " ") }
          let isAssigned = isFirst && depth == 0 && rest == UInt8(ascii: "=")
          words.append((String(decoding: bytes[index..<end], as: UTF8.self), isAssigned))
        }
        isFirst = false
        index = end
      } else {
        if byte == UInt8(ascii: "(") { depth += 1 }
        if byte == UInt8(ascii: ")") { depth -= 1 }
        if byte == UInt8(ascii: ","), depth == 0 { isFirst = true }
        index += 1
      }
    }
    return words
  }

  private static func isColumn(_ word: ArraySlice<UInt8>) -> Bool {
    let isLower = word.allSatisfy { isNamePart($0) && !(UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) }
    return isLower && !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(word[word.startIndex])
  }

  private static func isNamePart(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
      || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "_")
  }
}
