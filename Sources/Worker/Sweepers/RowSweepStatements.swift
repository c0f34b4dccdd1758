// The SQL of a row sweep, put together from its declaration. Pure text.
// Invariants: every write names its range of pages, checks the row's condition again, and has the guard's verdict as
// a one-time filter; what the guard decided lives in the transaction's settings, for all of its statements.

import Reactor

/// The statements around and in one guarded batch. All of a batch's statements are one pipeline and one implicit
/// transaction.
enum GuardStatements {
  /// First key of the advisory lock, the same for every sweeper: "sbwk" in ASCII.
  static let advisoryClass = 0x7362_776b

  /// How long a row's lock is waited for.
  static let lockTimeoutMilliseconds = 250

  /// Parameters: deadline (µs on PostgreSQL's clock), application_name, cutoff text or null, age in µs, advisory key.
  /// Answers whether the deadline lay ahead, and the verdict.
  ///
  /// statement_timeout is computed on the server, when the statement runs there: bytes can arrive late. It cannot be 0,
  /// which would switch it off. The advisory lock is taken here, not in the write, whose snapshot would be older than
  /// the lock.
  static let open = """
    SELECT set_config('statement_timeout', greatest(1, trunc(extract(epoch FROM deadline - clock_timestamp()) * 1000))
             ::bigint::text, true),
           set_config('lock_timeout', '\(lockTimeoutMilliseconds)ms', true),
           set_config('application_name', $2, true),
           set_config('sb.deadline', deadline::text, true),
           set_config('sb.cutoff',
             coalesce($3, (clock_timestamp() - $4::bigint * interval '1 microsecond')::text), true),
           clock_timestamp() < deadline,
           set_config('sb.guard', (clock_timestamp() < deadline
             AND pg_try_advisory_xact_lock(\(advisoryClass), $5::int))::text, true)
      FROM (SELECT timestamptz 'epoch' + $1::bigint * interval '1 microsecond') AS lease (deadline)
    """

  /// The one-time filter of every write.
  static let filter = """
    (SELECT current_setting('sb.guard')::boolean AND clock_timestamp() < current_setting('sb.deadline')::timestamptz)
    """

  static let cutoff = "(SELECT current_setting('sb.cutoff')::timestamptz)"

  /// The last statement of every batch: the verdict, whether the deadline still lay ahead, PostgreSQL's time in µs, the
  /// cutoff, and the µs that the transaction took until here.
  static let close = """
    SELECT current_setting('sb.guard')::boolean,
           clock_timestamp() < current_setting('sb.deadline')::timestamptz,
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

extension RowSweep {
  /// Changes the due rows of pages $1 ≤ page < $2.
  var write: String {
    "\(verb) WHERE \(GuardStatements.filter) AND \(range) AND \(condition(due))"
  }

  /// The same for a range in which a row stayed locked: leaves locked rows out, and answers how many rows were due and
  /// how many were changed.
  var writeSkippingLocked: String {
    """
    WITH free AS MATERIALIZED (
        SELECT ctid AS row_id FROM \(table)
         WHERE \(GuardStatements.filter) AND \(range) AND \(condition(due)) FOR UPDATE SKIP LOCKED),
      changed AS (\(verbUsingFree) RETURNING 1)
    SELECT (SELECT count(*) FROM \(table) WHERE \(range) AND \(condition(due))), (SELECT count(*) FROM changed)
    """
  }

  /// Answers the table's size in pages.
  var size: String {
    "SELECT pg_relation_size('\(table)', 'main') / current_setting('block_size')::int"
  }

  /// Answers how many entries of the index were looked at, and whether a due row was among them.
  func look(_ probe: Probe) -> String {
    """
    SELECT count(*), coalesce(bool_or(is_due), false) FROM (
      SELECT \(condition(due)) AS is_due FROM \(table) WHERE \(condition(probe.indexed))
       ORDER BY \(probe.order) LIMIT \(Probe.limit)) AS looked_at
    """
  }

  private var range: String {
    "\(table).ctid >= $1::tid AND \(table).ctid < $2::tid"
  }

  private var verb: String {
    switch change {
    case .delete: "DELETE FROM \(table)"
    case .update(let set): "UPDATE \(table) SET \(set)"
    }
  }

  private var verbUsingFree: String {
    switch change {
    case .delete: "DELETE FROM \(table) USING free WHERE \(table).ctid = free.row_id AND \(condition(due))"
    case .update(let set):
      "UPDATE \(table) SET \(set) FROM free WHERE \(table).ctid = free.row_id AND \(condition(due))"
    }
  }

  private func condition(_ text: String) -> String {
    "(" + text.replacingFirst(":cutoff", with: GuardStatements.cutoff) + ")"
  }
}

extension String {
  /// The text with the first occurrence of `pattern` replaced. (The standard library's `replacing` brings a megabyte of
  /// regular expressions along.)
  func replacingFirst(_ pattern: String, with replacement: String) -> String {
    let text = Array(utf8)
    let sought = Array(pattern.utf8)
    guard !sought.isEmpty, text.count >= sought.count else { return self }
    for start in 0...(text.count - sought.count) where text[start..<(start + sought.count)].elementsEqual(sought) {
      let tail = text[(start + sought.count)...]
      return String(decoding: text[..<start], as: UTF8.self) + replacement + String(decoding: tail, as: UTF8.self)
    }
    return self
  }
}
