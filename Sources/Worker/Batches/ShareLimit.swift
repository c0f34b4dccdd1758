// The limit on the share of a table that a run may change: counts before the first change. Pure except for the count.
// Called by RowSweepRun. Invariant: above the limit nothing changes, however many runs the rows are spread over.

import Coordination
import Reactor

/// The largest share of a table's live rows that may look due at once.
///
/// If most of a fleet looks silent, its heartbeats are probably not arriving. Its rows then come due one after the
/// other, so a single run may find few. Rows that earlier runs changed therefore also count if their key is within
/// `RowSweep.age` before the cutoff: everything that reports more often than that looks silent within that time.
struct ShareLimit: Sendable {
  /// This many rows are always allowed, whatever their share.
  static let freeRows = 20

  /// In percent of the live rows; 100 is no limit.
  let percent: Int
  /// The condition of a row that is due, or that could become due.
  let live: String
  /// The condition of a row that an earlier run changed.
  let changed: String
  /// The text after "412 of 430 " if the share is too large.
  let warning: String

  /// The result of the count.
  struct Count: Equatable, Sendable {
    /// Rows that the run would change.
    var due = 0
    /// These, and rows that earlier runs changed.
    var silent = 0
    /// All of these, and live rows that are not due.
    var live = 0
  }

  func isExceeded(by count: Count) -> Bool {
    count.due > 0 && count.silent > Self.freeRows && count.silent * 100 > count.live * percent
  }
}

extension TableStatements {
  /// Parameters: the number of rows that may look due without a count, and the cutoff (µs) before which rows were
  /// accepted, or null. Answers how many rows are due, how many look due, and how many are live; all 0 if it did not
  /// count.
  func countShares(_ limit: ShareLimit) -> String {
    let key = sweep.key
    let age = "'\(sweep.age.nanoseconds / 1_000)'::bigint"
    let since = GuardStatements.moment("(current_setting('sb.cutoff')::bigint - \(age))")
    let isNew = "($2::bigint IS NULL OR (\(key) >= \(GuardStatements.moment("$2::bigint"))))"
    let isChanged = "((\(limit.changed)) AND (\(key) >= (SELECT \(since))) AND (\(key) < \(GuardStatements.cutoff)))"
    let looksDue = "(\(isDue) OR \(isChanged)) AND \(isNew)"
    return CatalogSQL.qualified(
      """
      WITH sample AS MATERIALIZED (
          SELECT FROM \(table) AS target
           WHERE \(filter) AND (\(key) <= \(GuardStatements.plannedCutoff)) AND \(looksDue)
           LIMIT ($1::bigint + 1)),
        counted AS MATERIALIZED (
          SELECT count(*) FILTER (WHERE \(isDue) AND \(isNew)) AS due,
                 count(*) FILTER (WHERE \(looksDue)) AS silent, count(*) AS live
            FROM \(table) AS target
           WHERE ((SELECT count(*) FROM sample) > $1::bigint) AND ((\(limit.live)) OR (\(isChanged) AND \(isNew))))
      SELECT due, silent, live FROM counted
      """)
  }
}

extension SweepBatches {
  /// Counts the rows for `limit` in all `parts` of the table together.
  ///
  /// - Throws: `SweepRefusal` if that takes too long; `PostgresError`.
  func count(
    _ limit: ShareLimit, in parts: [TableStatements], acceptedBefore accepted: Int64?
  ) async throws -> ShareLimit.Count {
    // A few rows per part can be too many in total.
    let uncounted = parts.count > 1 ? -1 : ShareLimit.freeRows
    var count = ShareLimit.Count()
    for part in parts {
      let statement = PostgresStatement(part.countShares(limit), ["\(uncounted)", accepted.map { "\($0)" }])
      do {
        let answer = try await countWithinLimit(statement)
        count.due += answer.number(0)
        count.silent += answer.number(1)
        count.live += answer.number(2)
      } catch let failure as Failure {
        throw failure.kind == .tooLong ? SweepRefusal.uncounted(part.sweep.table) : failure.cause
      }
    }
    return count
  }
}
