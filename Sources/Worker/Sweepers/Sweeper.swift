// What a sweeper is: a name, an interval, what it does to which rows, and what it reports. No plumbing: connections,
// locks, retries and metrics belong to the scheduler, which runs what is declared here.

import Reactor

/// One housekeeping duty of the worker.
package struct Sweeper: Sendable {
  /// As it appears in the lock's key, the metrics' `task` label, and the logs.
  package let name: String
  /// What it does, in one sentence.
  let summary: String
  /// Between two slots; nil if the sweeper is off.
  package let interval: Duration?
  /// What the schema must have, or the sweeper is off until it has. Empty if that is in every schema.
  var requires: [RequiredTable] = []
  package let work: Work
  let report: Report

  package enum Work: Sendable {
    /// Changes due rows of a table, by physical ranges.
    case rows(RowSweep)
    /// Inserts one discover job a target.
    case discovery(Discovery)
    /// Claims provider connections that are due, and inserts a discover job for each.
    case connections(ConnectionDiscovery)
    /// Reads how long queued jobs have waited.
    case watch(QueueWatch)
  }

  /// The texts of the event that follows a run.
  struct Report: Sendable {
    /// When any row changed.
    let severity: Event.Severity
    let title: String
    /// What the count of changed rows is called in the event's metadata.
    let countName: String
    /// The same of linked rows, where the sweeper has any.
    var linkedCountName: String?
    /// Whether the cutoff is told as the event's detail.
    var showsCutoff = false
    /// The event's detail where it is the same after every run.
    var detail = ""
    /// What is told of rows that had been changed as often as they may.
    var exhausted: Exhausted?
    let failureTitle: String

    /// The texts of the event, and what the count of such rows is called.
    struct Exhausted: Sendable {
      let title: String
      let countName: String
      let detail: String
    }
  }
}

/// A table that a sweeper uses, and the columns of it that it uses.
struct RequiredTable: Sendable {
  let name: String
  let columns: [String]

  init(_ name: String, _ columns: String...) {
    self.init(name, columns)
  }

  init(_ name: String, _ columns: [String]) {
    self.name = name
    self.columns = columns
  }
}

/// Rows of one table that are due by a condition, and what becomes of them.
///
/// In its conditions, `:cutoff` stands for the run's cutoff: PostgreSQL's clock at the run's beginning, less `age`.
package struct RowSweep: Sendable {
  enum Change: Sendable {
    case delete
    /// The SET list, in which `:cutoff` stands for the cutoff, too.
    case update(set: String)
  }

  package let table: String
  let change: Change
  /// The condition of a due row, written as `CatalogSQL` wants it. It is checked again on every row that is written. It
  /// must not fail for any values: a row that it fails for would keep the others from being found.
  let due: String
  /// The column, of type timestamptz, that says since when a row is due.
  package let key: String
  /// The other columns of the table, of type timestamptz, that its conditions compare with a moment or its change sets
  /// to one. Of a column that is not named, a statement may only ask whether it is null.
  var otherMoments: [String] = []
  /// How far the cutoff lies before now.
  let age: Duration
  /// Finds due rows without a look at the whole table.
  var index: Index?
  /// Rows of a second table that change with a due row.
  package var linked: LinkedRows?
  /// A value of another table that `due` uses.
  var lookup: Lookup?
  /// Whether a row that a foreign key of any table refers to stays, whatever that key does on delete.
  var leavesReferenced = false
  /// What the audit trail says of each changed row, in the same transaction.
  var audit: AuditNote?
  /// How often the same row is changed, where it may become due again.
  var attemptLimit: AttemptLimit?
  /// Whether PostgreSQL is asked if anything is due before Redis is asked for the lock: that saves most of an idle slot
  /// where the interval is a few seconds. An index has to lead to the oldest due row.
  package var probesFirst = false
  /// How large a share of the table may look due for a run to change anything.
  var shareLimit: ShareLimit?

  /// Whether a due row's key lies before the cutoff in any case, so that an index of all rows leads to it.
  var isDueByKey: Bool {
    KeyIndexes.parts(of: due).contains { $0 == "\(key)<:cutoff" || $0 == "\(key)<=:cutoff" }
  }

  /// All columns that are read or written as moments.
  package var moments: [String] { [key] + otherMoments }

  var deletes: Bool { if case .delete = change { true } else { false } }

  /// What it does to the table's rows, as triggers see it.
  var event: TableSurvey.Event { deletes ? .delete : .update }

  /// The index on `key` that due rows are found by, the newest first.
  struct Index: Sendable {
    /// A condition that the index serves: it leads to all due rows that the index has.
    let reaches: String
    /// How long after it became due a row that the index lacks is changed at the latest: the whole table is read often
    /// enough for that. Nil if the index has every due row.
    var fullPassWithin: Duration?
    /// Whether that is early enough for every row, so that without such an index, too, not each run reads the table.
    var passesSuffice = false
  }

  /// One value of one row of another table, for each swept row.
  struct Lookup: Sendable {
    /// Stands for the value in `due`, such as ":request_ttl".
    let placeholder: String
    /// An expression over the other table's columns.
    let value: String
    let table: String
    /// Its unique column, and the swept table's column that has the same value.
    let key: String
    let foreignKey: String
  }

  /// A row that becomes due again and again is changed so often only. Then it is changed once more, into something else
  /// by `:exhausted` in the SET list. The schedule record keeps the counts, of some hundred rows at the most.
  struct AttemptLimit: Sendable {
    let count: Int
    /// The condition of a row that may become due again.
    let comesBack: String
  }

  /// The other tables that its statements name.
  var otherTables: [String] { (lookup.map { [$0.table] } ?? []) + (audit == nil ? [] : [AuditNote.table]) }
}

/// A line of the audit trail about one changed row, in the form of the api's own lines.
struct AuditNote: Sendable {
  static let table = "audit_events"
  /// The columns that are written; the others have defaults.
  static let columns = ["actor", "action", "resource", "status", "correlation_id", "metadata"]
  /// What a schema must have for it.
  static let requirement = RequiredTable(table, columns)

  let action: String
  /// What the row is called: the resource is this, a colon, and the row's id.
  let resource: String
  var status = "success"
  /// Its metadata, as SQL that knows the row's id as changed.id.
  var metadata = "'{}'::jsonb"
}

/// Rows of a second table to which the due rows of a sweep refer, and what becomes of them.
///
/// Both changes are one transaction. A due row changes only if none of its linked rows is still due then, so no
/// committed row has one: where another session holds a linked row locked, its due row waits for the next run.
package struct LinkedRows: Sendable {
  package let table: String
  /// The column of the swept table that has the ids of the linked rows: an array.
  let references: String
  /// The column that these are the values of.
  let id: String
  /// The SET list.
  let set: String
  /// The condition of a linked row that changes, written as `CatalogSQL` wants it.
  let due: String
  /// The column, of type timestamptz, that the condition compares with the cutoff. It is the only one that is read or
  /// written as a moment.
  package let key: String
}
