// A session of PostgreSQL for commands that look and change nothing. Invariant: every statement runs in a read-only
// transaction, waits for no lock for long, and is cancelled by the server after a bounded time.

import Reactor

/// A connection on which a command reads.
@EventLoop
struct ReadOnlySession {
  let connection: PostgresConnection
  let clock: LoopClock
  /// When the last answer must have come.
  let deadline: MonotonicInstant
  /// How long each answer may take.
  let questionLimit: Duration

  private static let readOnly = CatalogSQL.qualified("SELECT set_config('transaction_read_only', 'on', true)")

  /// Runs one statement, after `preparations` in the same transaction.
  ///
  /// - Parameter isLimited: whether statement_timeout and lock_timeout are set, as before a sweep's questions. They are
  ///   left alone where they are asked for.
  /// - Throws: `PostgresError`.
  func query(
    _ statement: PostgresStatement, after preparations: [PostgresStatement] = [], isLimited: Bool = true
  ) async throws -> PostgresResult {
    let limits = isLimited ? [PostgresStatement(GuardStatements.readLimits)] : []
    let results = try await connection.pipeline(
      connection.prelude + [PostgresStatement(Self.readOnly)] + limits + preparations + [statement],
      by: min(deadline, clock.now.advanced(by: questionLimit)))
    return results[results.count - 1]
  }

  /// The tables that a sweep of `table` names besides.
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

  /// The table as the session finds it by its name; nil if the search path leads to none.
  func survey(_ needs: SweepNeeds) async throws -> TableSurvey? {
    let look = TableSurvey.statement(
      needs.table, key: needs.key, moments: needs.moments, event: needs.event)
    return TableSurvey(table: needs.table, try await query(PostgresStatement(look.sql, look.parameters)))
  }
}
