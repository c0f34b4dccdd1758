// What a sweeper is: a name, an interval, what it does to which rows, and what it reports. No plumbing: the scheduler,
// which runs these declarations, owns connections, locks, retries and metrics.

import Reactor

/// One housekeeping task of the worker.
package struct Sweeper: Sendable {
  /// Its name in the lock's key, the metrics' `task` label, and the logs.
  package let name: String
  /// What it does, in one sentence.
  let summary: String
  /// Between two slots; nil if the sweeper is off.
  package let interval: Duration?
  /// What the schema must have; without it the sweeper is off. Empty if every schema has it.
  var requires: [RequiredTable] = []
  package let work: Work
  let report: Report

  package enum Work: Sendable {
    /// Changes due rows of a table, by page ranges.
    case rows(RowSweep)
    /// Inserts one discover job per target.
    case discovery(Discovery)
    /// Claims due provider connections, and inserts a discover job for each.
    case connections(ConnectionDiscovery)
    /// Reads how long queued jobs have waited.
    case watch(QueueWatch)
  }

  /// The texts of the event that follows a run.
  struct Report: Sendable {
    /// If any row changed.
    let severity: Event.Severity
    let title: String
    /// The name of the changed rows' count in the event's metadata.
    let countName: String
    /// The same for linked rows, if the sweeper has any.
    var linkedCountName: String?
    /// Whether the event's detail is the cutoff.
    var showsCutoff = false
    /// The event's detail if it is the same after every run.
    var detail = ""
    /// The report about rows that have reached the attempt limit.
    var exhausted: Exhausted?
    let failureTitle: String

    /// The event's texts, and the name of the count.
    struct Exhausted: Sendable {
      let title: String
      let countName: String
      let detail: String
    }
  }
}

/// A table and its columns that a sweeper uses.
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

/// A sweep of the rows of one table that meet a condition.
///
/// In conditions, `:cutoff` is the run's cutoff: PostgreSQL's clock at the run's start minus `age`.
package struct RowSweep: Sendable {
  enum Change: Sendable {
    case delete
    /// The SET list, in which `:cutoff` is the cutoff too.
    case update(set: String)
  }

  package let table: String
  let change: Change
  /// The condition of a due row, in the form that `CatalogSQL` requires. Checked again on every row written. It must
  /// not fail for any values: one failing row would hide all others.
  let due: String
  /// The timestamptz column that says since when a row is due.
  package let key: String
  /// The table's other timestamptz columns that conditions compare with a moment or that the change sets to one.
  /// Columns that are not listed may only be tested for null.
  var otherMoments: [String] = []
  /// How far the cutoff is before now.
  let age: Duration
  /// Finds due rows without reading the whole table.
  var index: Index?
  /// Rows of a second table that change with a due row.
  package var linked: LinkedRows?
  /// A value of another table that `due` uses.
  var lookup: Lookup?
  /// Whether a row that any table's foreign key refers to stays, whatever that key's ON DELETE action.
  package var leavesReferenced = false
  /// The audit line for each changed row, in the same transaction.
  var audit: AuditNote?
  /// How often the same row is changed, if it can become due again.
  var attemptLimit: AttemptLimit?
  /// Whether to ask PostgreSQL if anything is due before taking the lock in Redis. At an interval of a few seconds this
  /// saves most of an idle slot. Requires an index that finds the oldest due row.
  package var probesFirst = false
  /// The share of the table that may look due; above it a run changes nothing.
  var shareLimit: ShareLimit?

  /// Whether a due row's key is always before the cutoff, so that an index of all rows finds it.
  var isDueByKey: Bool {
    KeyIndexes.parts(of: due).contains { $0 == "\(key)<:cutoff" || $0 == "\(key)<=:cutoff" }
  }

  /// All columns that are read or written as moments.
  package var moments: [String] { [key] + otherMoments }

  var deletes: Bool { if case .delete = change { true } else { false } }

  /// What it does to the table's rows, in triggers' terms.
  var event: TableSurvey.Event { deletes ? .delete : .update }

  /// The index on `key` by which due rows are found, newest first.
  struct Index: Sendable {
    /// A condition that the index serves: it covers all due rows in the index.
    let reaches: String
    /// The longest time until a due row that the index lacks is changed: full passes read the whole table often enough
    /// for that. Nil if the index has every due row.
    var fullPassWithin: Duration?
    /// Whether that suffices for every row, so that even without such an index not every run reads the table.
    var passesSuffice = false
  }

  /// One value of one row of another table, for each swept row.
  struct Lookup: Sendable {
    /// The value's placeholder in `due`, such as ":request_ttl".
    let placeholder: String
    /// An expression over the other table's columns.
    let value: String
    let table: String
    /// Its unique column, and the swept table's column that refers to it.
    let key: String
    let foreignKey: String
    /// A number of seconds below any value, so that `due` can leave out most rows without looking up theirs.
    let least: Least

    struct Least: Sendable {
      /// Its placeholder in `due`, such as ":least_seconds".
      let placeholder: String
      /// An expression over `value`.
      let seconds: String
    }
  }

  /// Limits how often a row that keeps becoming due is changed. Then it is changed once more, into what `:exhausted` in
  /// the SET list says. The schedule record keeps the counts of some hundred rows at most.
  struct AttemptLimit: Sendable {
    let count: Int
    /// The condition of a row that can become due again.
    let comesBack: String
  }

  /// The other tables that its statements use.
  var otherTables: [String] { (lookup.map { [$0.table] } ?? []) + (audit == nil ? [] : [AuditNote.table]) }
}

/// An audit line about one changed row, in the form of the api's own.
struct AuditNote: Sendable {
  static let table = "audit_events"
  /// The columns that are written; the others have defaults.
  static let columns = ["actor", "action", "resource", "status", "correlation_id", "metadata"]
  /// What it requires of the schema.
  static let requirement = RequiredTable(table, columns)

  let action: String
  /// The prefix of the resource, followed by a colon and the row's id.
  let resource: String
  var status = "success"
  /// Its metadata, in SQL where changed.id is the row's id.
  var metadata = "'{}'::jsonb"
}

/// Rows of a second table that due rows of a sweep refer to, and how they change.
///
/// Both changes are one transaction. A due row changes only if none of its linked rows is still due then, so no
/// committed row has one: if another session has locked a linked row, its due row is left to the next run.
package struct LinkedRows: Sendable {
  package let table: String
  /// The swept table's column with an array of the linked rows' ids.
  let references: String
  /// The column that those ids refer to.
  let id: String
  /// The SET list.
  let set: String
  /// The condition of a linked row that changes, in the form for `CatalogSQL`.
  let due: String
  /// The timestamptz column that the condition compares with the cutoff: the only one that is read or written as a
  /// moment.
  package let key: String
}
