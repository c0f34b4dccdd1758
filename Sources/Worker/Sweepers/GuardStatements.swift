// The statements around and in one guarded batch: the deadline, the advisory lock, the verdict. Text only.
// Invariant: what the guard decided lives in the transaction's settings, for all of its statements.

import Reactor

/// The statements around and in one guarded batch. All of a batch's statements are one pipeline and one implicit
/// transaction.
enum GuardStatements {
  /// First key of the advisory lock, the same for every sweeper: "sbwk" in ASCII.
  static let advisoryClass = 0x7362_776b

  /// How long a row's lock is waited for.
  static let lockTimeoutMilliseconds = 250

  /// The first server that can end a transaction, and so a pipeline that was cut in its middle, by a timer.
  static let transactionTimeoutVersion = 170_000

  /// How long after the deadline such a transaction is ended: a statement that still runs is cancelled before, and the
  /// session lives on. The least margin of a lease is longer.
  static let transactionTimeoutReserveMilliseconds = 250

  /// transaction_timeout ended the session.
  static let transactionTimeoutState = "25P04"

  /// What the closing statement fails with after the deadline: division by zero.
  static let pastDeadlineState = "22012"

  /// Parameters: deadline (µs on PostgreSQL's clock), application_name, cutoff text or null, age in µs, advisory key.
  /// Answers whether the deadline lay ahead, and sets the verdict.
  ///
  /// statement_timeout is computed on the server, when the statement runs there: bytes can arrive late. It cannot be 0,
  /// which would switch it off. The advisory lock is taken here, not in the write, whose snapshot would be older than
  /// the lock.
  static let open = opening(more: "")

  /// The same, with a timer for the transaction as a whole.
  static let openWithTransactionTimeout = opening(
    more: """
      set_config('transaction_timeout', (\(millisecondsLeft) + \(transactionTimeoutReserveMilliseconds))::text, true),
      """)

  private static let millisecondsLeft =
    "greatest(1, trunc(extract(epoch FROM deadline - clock_timestamp()) * 1000))::bigint"

  private static func opening(more: String) -> String {
    """
    SELECT clock_timestamp() < deadline,
           set_config('statement_timeout', \(millisecondsLeft)::text, true), \(more)
           set_config('lock_timeout', '\(lockTimeoutMilliseconds)ms', true),
           set_config('application_name', $2, true),
           set_config('sb.deadline', deadline::text, true),
           set_config('sb.cutoff',
             coalesce($3, (clock_timestamp() - $4::bigint * interval '1 microsecond')::text), true),
           set_config('sb.guard', (clock_timestamp() < deadline
             AND pg_try_advisory_xact_lock(\(advisoryClass), $5::int))::text, true)
      FROM (SELECT timestamptz 'epoch' + $1::bigint * interval '1 microsecond') AS lease (deadline)
    """
  }

  /// The one-time filter of every write.
  static let filter = """
    (SELECT current_setting('sb.guard')::boolean AND clock_timestamp() < current_setting('sb.deadline')::timestamptz)
    """

  static let cutoff = "(SELECT current_setting('sb.cutoff')::timestamptz)"

  /// The last statement of every batch: the verdict, 1, PostgreSQL's time in µs, the cutoff, and the µs that the
  /// transaction took until here. After the deadline it divides by zero instead, so that nothing is committed late.
  static let close = """
    SELECT current_setting('sb.guard')::boolean,
           1 / (clock_timestamp() < current_setting('sb.deadline')::timestamptz)::int,
           (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
           current_setting('sb.cutoff'),
           (extract(epoch FROM clock_timestamp() - transaction_timestamp()) * 1000000)::bigint
    """

  /// PostgreSQL's clock in µs.
  static let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

  /// Parameters: advisory key, the application_name that this sweeper's runs begin with, this run's epoch. Ends the
  /// session of an earlier run that froze in the middle of a pipeline and so holds the advisory lock with no timer
  /// running. Only one of our own role, by the name it gave itself in that transaction.
  static let terminatePredecessor = """
    SELECT count(pg_terminate_backend(held.pid))
      FROM pg_locks AS held
      JOIN pg_stat_activity AS session ON session.pid = held.pid
     WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
       AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND held.classid = \(advisoryClass)::oid AND held.objid::int8 = ($1::int8 & 4294967295)
       AND session.usename = current_user
       AND starts_with(session.application_name, $2)
       AND substr(session.application_name, length($2) + 1) ~ '^[0-9]+$'
       AND substr(session.application_name, length($2) + 1)::bigint < $3::bigint
    """
}
