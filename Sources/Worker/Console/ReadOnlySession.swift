// A PostgreSQL session for commands that only read. Invariant: every statement runs in a read-only transaction, waits
// for locks only briefly, and is cancelled by the server after a bounded time.

import Reactor

/// A command's read-only connection.
@EventLoop
struct ReadOnlySession {
  let connection: PostgresConnection
  let clock: LoopClock
  /// The deadline of the last answer.
  let deadline: MonotonicInstant
  /// The time limit of each answer.
  let answerLimit: Duration

  private static let readOnly = CatalogSQL.qualified("SELECT set_config('transaction_read_only', 'on', true)")

  /// Runs one statement, after `preparations` in the same transaction.
  ///
  /// - Parameter isLimited: whether statement_timeout and lock_timeout are set, as before a sweep's queries. Queries
  ///   that read these settings leave them unchanged.
  /// - Throws: `PostgresError`.
  func query(
    _ statement: PostgresStatement, after preparations: [PostgresStatement] = [], isLimited: Bool = true
  ) async throws -> PostgresResult {
    let limits = isLimited ? [PostgresStatement(GuardStatements.readLimits)] : []
    let results = try await connection.pipeline(
      connection.prelude + [PostgresStatement(Self.readOnly)] + limits + preparations + [statement],
      by: min(deadline, clock.now.advanced(by: answerLimit)))
    return results[results.count - 1]
  }

  /// The other tables that a sweep of `table` names.
  ///
  /// - Throws: `SweepRefusal` if a run would be refused for one of them; `PostgresError`.
  func related(
    to table: TableSurvey, for sweep: RowSweep, allowsRowSecurity: Bool
  ) async throws -> RelatedTables {
    guard sweep.needsRelatedTables else { return RelatedTables() }
    let related = RelatedTables(try await query(sweep.relatedTables(of: table)))
    if let refusal = related.refusal(of: sweep, allowsRowSecurity: allowsRowSecurity) { throw refusal }
    return related
  }

  /// The table that the name resolves to in this session; nil if the search path has none.
  func survey(_ needs: SweepNeeds) async throws -> TableSurvey? {
    let statement = TableSurvey.statement(
      needs.table, key: needs.key, moments: needs.moments, event: needs.event)
    return TableSurvey(table: needs.table, try await query(PostgresStatement(statement.sql, statement.parameters)))
  }
}
