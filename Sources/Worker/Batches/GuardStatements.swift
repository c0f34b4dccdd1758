// The statements around a guarded batch: the deadline, the advisory lock, the verdict. Text only.
// Invariants: the guard's decision is a transaction-local setting that all of the batch's statements read; moments are
// whole µs since 1970, independent of DateStyle, time zone and IntervalStyle.

import Reactor

/// The statements around one guarded batch. A batch is one pipeline and one implicit transaction, and its settings end
/// with it.
package enum GuardStatements {
  /// First key of the advisory lock, the same for all sweepers: "sbwk" in ASCII.
  static let advisoryClass = 0x7362_776b

  /// The lock timeout for rows.
  package static let lockTimeoutMilliseconds = 250

  /// The first server version with transaction_timeout, which ends a pipeline that was cut off midway.
  static let transactionTimeoutVersion = 170_000

  /// How long after the deadline it ends the transaction. A statement that still runs is cancelled before that, which
  /// keeps the session. The least margin of a lease is longer.
  package static let transactionTimeoutReserveMilliseconds = 250

  /// transaction_timeout ended the session.
  package static let transactionTimeoutState = "25P04"

  /// The SQLSTATE of the closing statement after the deadline: division by zero.
  package static let pastDeadlineState = "22012"

  /// The epoch, in a form that every DateStyle accepts.
  static let epoch = "'epoch'::timestamptz"

  /// µs since 1970 as timestamptz.
  static func moment(_ microseconds: String) -> String {
    "(\(epoch) + ((\(microseconds))::float8 * '1 microsecond'::interval))"
  }

  /// A timestamptz as µs since 1970. Infinities have none: see `MomentKey`.
  static func microseconds(_ moment: String) -> String {
    "(extract(epoch FROM \(moment)) * 1000000)::bigint"
  }

  static let nowMicroseconds = microseconds("clock_timestamp()")

  // MARK: Before and behind a batch's statements
  // VALUES without a subquery: PostgreSQL never JIT-compiles those expressions. If an operator has lowered the JIT cost
  // thresholds, compiling takes half a second, longer than a batch.

  /// Parameters: deadline (µs on PostgreSQL's clock), application_name, cutoff (µs) or null, age in µs, advisory key.
  /// Answers whether the deadline is ahead, and sets the verdict.
  ///
  /// statement_timeout is computed on the server when the statement runs, because bytes can arrive late. It is at least
  /// 1 ms, since 0 would disable it. The advisory lock is taken here and not in the write, whose snapshot would predate
  /// it. The operator's own timeouts apply if they are shorter. Two settings of an operator are overridden: TID range
  /// scans switched off, which would make each batch read the whole table, and errors that end the session. With JIT
  /// off, no later statement is compiled.
  package static let open = opening(more: "")

  /// The same, with a timeout for the transaction as a whole.
  package static let openWithTransactionTimeout = opening(
    more: """
      set_config('transaction_timeout',
        least((\(millisecondsLeft) + \(transactionTimeoutReserveMilliseconds)), \(given("transaction_timeout")))::text,
        true),
      """)

  /// The time until the deadline, at least 1 ms.
  static let millisecondsLeft =
    "greatest(1, ((current_setting('sb.deadline')::bigint - \(nowMicroseconds)) / 1000))"

  /// A timeout of the session in ms; null if it has none. PostgreSQL shows it with a unit that interval input accepts
  /// in any IntervalStyle.
  static func given(_ setting: String) -> String {
    let length = "(extract(epoch FROM current_setting('\(setting)')::interval) * 1000)::bigint"
    return "(CASE WHEN (\(length) > 0) THEN \(length) END)"
  }

  /// Precedes a statement outside of a batch: its lock and statement timeouts.
  package static let readLimits = CatalogSQL.qualified(
    """
    VALUES (
      set_config('lock_timeout',
        least(\(lockTimeoutMilliseconds), \(given("lock_timeout")))::text, true),
      set_config('statement_timeout',
        least(\(readLimitMilliseconds), \(given("statement_timeout")))::text, true),
      set_config('jit', 'off', true))
    """)

  private static let readLimitMilliseconds = 2_000

  private static func opening(more: String) -> String {
    CatalogSQL.qualified(
      """
      VALUES (
        \(nowMicroseconds) < $1::bigint,
        set_config('sb.deadline', $1::bigint::text, true),
        set_config('sb.statement_limit', coalesce(\(given("statement_timeout")), 2147483647)::text, true),
        set_config('statement_timeout',
          least(\(millisecondsLeft), current_setting('sb.statement_limit')::bigint)::text, true), \(more)
        set_config('sb.lock_limit', coalesce(\(given("lock_timeout")), 2147483647)::text, true),
        set_config('application_name', $2::text, true),
        set_config('enable_tidscan', 'on', true),
        set_config('exit_on_error', 'off', true),
        set_config('jit', 'off', true),
        set_config('sb.cutoff', coalesce($3::bigint, (\(nowMicroseconds) - $4::bigint))::text, true),
        set_config('sb.guard', (\(nowMicroseconds) < $1::bigint
          AND pg_try_advisory_xact_lock(\(advisoryClass), $5::int))::text, true))
      """)
  }

  /// The one-time filter of every write.
  static let filter = """
    (SELECT current_setting('sb.guard')::boolean AND (\(nowMicroseconds) < current_setting('sb.deadline')::bigint))
    """

  /// The cutoff as the planner can read it.
  static let plannedCutoff = moment("current_setting('sb.cutoff')::bigint")

  /// The cutoff, computed once per statement.
  static let cutoff = "(SELECT \(plannedCutoff))"

  /// The last statement of every batch: the verdict, 1, PostgreSQL's time in µs, the cutoff in µs, and the
  /// transaction's duration so far in µs. After the deadline it divides by zero, so that nothing is committed late.
  package static let close = CatalogSQL.qualified(
    """
    SELECT current_setting('sb.guard')::boolean,
           1 / (\(nowMicroseconds) < current_setting('sb.deadline')::bigint)::int,
           \(nowMicroseconds),
           current_setting('sb.cutoff')::bigint,
           (extract(epoch FROM (clock_timestamp() - transaction_timestamp())) * 1000000)::bigint
    """)

  /// PostgreSQL's clock in µs.
  package static let clock = CatalogSQL.qualified("VALUES (\(nowMicroseconds))")
}
