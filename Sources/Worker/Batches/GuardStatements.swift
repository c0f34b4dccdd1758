// The statements around and in one guarded batch: the deadline, the advisory lock, the verdict. Text only.
// Invariants: what the guard decided lives in the transaction's settings, for all of its statements; moments are whole
// microseconds since 1970, which no DateStyle, time zone or IntervalStyle changes.

import Reactor

/// The statements around and in one guarded batch. All of a batch's statements are one pipeline and one implicit
/// transaction, and whatever they set ends with it.
package enum GuardStatements {
  /// First key of the advisory lock, the same for every sweeper: "sbwk" in ASCII.
  static let advisoryClass = 0x7362_776b

  /// How long a row's lock is waited for.
  package static let lockTimeoutMilliseconds = 250

  /// The first server that can end a transaction, and so a pipeline that was cut in its middle, by a timer.
  static let transactionTimeoutVersion = 170_000

  /// How long after the deadline such a transaction is ended: a statement that still runs is cancelled before, and the
  /// session lives on. The least margin of a lease is longer.
  package static let transactionTimeoutReserveMilliseconds = 250

  /// transaction_timeout ended the session.
  package static let transactionTimeoutState = "25P04"

  /// What the closing statement fails with after the deadline: division by zero.
  package static let pastDeadlineState = "22012"

  /// The epoch, which is understood in any DateStyle.
  static let epoch = "'epoch'::timestamptz"

  /// A moment that is given in µs since 1970, as timestamptz.
  static func moment(_ microseconds: String) -> String {
    "(\(epoch) + ((\(microseconds))::float8 * '1 microsecond'::interval))"
  }

  /// A timestamptz as µs since 1970. Infinities have no such number: see `TableStatements.key`.
  static func microseconds(_ moment: String) -> String {
    "(extract(epoch FROM \(moment)) * 1000000)::bigint"
  }

  static let nowMicroseconds = microseconds("clock_timestamp()")

  // MARK: Before and behind a batch's statements
  // They are VALUES without a subquery, whose expressions PostgreSQL never compiles (JIT). Where an operator made all
  // seem costly, compiling them takes half a second, longer than a batch is meant to take.

  /// Parameters: deadline (µs on PostgreSQL's clock), application_name, cutoff (µs) or null, age in µs, advisory key.
  /// Answers whether the deadline lay ahead, and sets the verdict.
  ///
  /// statement_timeout is computed on the server, when the statement runs there: bytes can arrive late. It cannot be 0,
  /// which would switch it off. The advisory lock is taken here, not in the write, whose snapshot would be older than
  /// the lock. The operator's own time-outs hold where they are shorter. An operator may have switched TID range scans
  /// off, without which each batch reads the whole table, or have errors end the session. With JIT off, no later
  /// statement is compiled.
  package static let open = opening(more: "")

  /// The same, with a timer for the transaction as a whole.
  package static let openWithTransactionTimeout = opening(
    more: """
      set_config('transaction_timeout',
        least((\(millisecondsLeft) + \(transactionTimeoutReserveMilliseconds)), \(given("transaction_timeout")))::text,
        true),
      """)

  /// What is left until the deadline, at least 1 ms.
  static let millisecondsLeft =
    "greatest(1, ((current_setting('sb.deadline')::bigint - \(nowMicroseconds)) / 1000))"

  /// A time-out that the session has, in ms; null where it has none. PostgreSQL shows it with a unit that an interval's
  /// input understands in any IntervalStyle.
  static func given(_ setting: String) -> String {
    let length = "(extract(epoch FROM current_setting('\(setting)')::interval) * 1000)::bigint"
    return "(CASE WHEN (\(length) > 0) THEN \(length) END)"
  }

  /// Before a statement outside of any batch: how long it may wait for a lock, and take.
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

  /// The cutoff, as the planner can look at it.
  static let plannedCutoff = moment("current_setting('sb.cutoff')::bigint")

  /// The cutoff, computed once a statement.
  static let cutoff = "(SELECT \(plannedCutoff))"

  /// The last statement of every batch: the verdict, 1, PostgreSQL's time in µs, the cutoff in µs, and the µs that the
  /// transaction took until here. After the deadline it divides by zero instead, so that nothing is committed late.
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
