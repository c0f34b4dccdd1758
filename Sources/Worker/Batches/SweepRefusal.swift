// Why a sweep did not change all due rows although PostgreSQL answered: it was refused as a whole, or row by row.
// Invariant: a reason names only relations and codes, which are not secret, and says what to do.

import Coordination

/// A refusal that a retry before the next slot cannot change.
enum SweepRefusal: Error, Equatable, Sendable {
  /// The search path has no table of this name.
  case noTable(String)
  /// The name is that of a view or another relation without rows of its own.
  case notATable(String)
  /// Columns that the sweep uses as moments have a type whose values depend on the session's time zone, or that is not
  /// a moment: "expires_at is date".
  case unusableMoments(String, table: String)
  /// Row security hides rows from the role, and the settings do not allow that.
  case rowSecurity(String)
  /// Row security hides rows of a table whose foreign key refers to the swept one.
  case hiddenReferences(String)
  /// The role cannot lock rows. Without locks, a row could be deleted while a reference to it is added.
  case cannotLock(String)
  /// The table is replaced, or the role's privileges change, each time it is surveyed.
  case changing(String)
  /// Parts of the table have no pages here; the others were swept.
  case foreignParts(String)
  /// The change of this many rows was refused for these reasons; all others were swept.
  case rows(Int, [RowRefusal])
  /// The statements succeeded, but this many due rows stayed unchanged.
  case kept(Int, table: String)
  /// The statement succeeded, but this many jobs are missing: because of a trigger, or of a unique index (by name) if
  /// rows that conflict with it are skipped.
  case swallowed(Int, table: String, hasTriggers: Bool = true, uniqueIndexes: String? = nil)
  /// The statement succeeded, but lines of the audit trail are missing, or may be.
  case missingLines(RowRefusal)
  /// The audit trail is a view or another relation whose rows do not show which transaction inserted them.
  case unprovableTrail(String)
  /// A rule rewrites the sweep's statements into a form that PostgreSQL does not support.
  case rule(String)
  /// A trigger reset the session's settings, which hold the batch's guard and limits.
  case settingsReset
  /// A server that accepts writes refused a statement as read-only.
  case refusedAsReadOnly
  /// The server assigns no more transaction numbers.
  case noTransactionNumbers
  /// For this many slots, other transactions have locked all due rows.
  case locked(Int, slots: Int)
  /// Nothing was changed because this many of the live rows look due.
  case share(Int, of: Int, warning: String)
  /// The share of this table that is due could not be counted in time, so nothing was changed.
  case uncounted(String)

  var reason: String {
    switch self {
    case .noTable(let name):
      "no table \(name) in the search path: set search_path in DATABASE_URL or for the role, or grant USAGE on its "
        + "schema"
    case .notATable(let name): "\(name) is not a table"
    case .unusableMoments(let columns, let table):
      "on \(table), \(columns): only timestamp with time zone means the same moment in every session"
    case .rowSecurity(let name):
      "row security is in force for this role on \(name): grant it BYPASSRLS or a policy for all rows, or set "
        + "SB_WORKER_ALLOW_ROW_SECURITY=true if it is to see only some of them"
    case .hiddenReferences(let name):
      "row security is in force for this role on \(name), whose rows may refer to what would be deleted: grant it "
        + "BYPASSRLS or a policy for all rows"
    case .cannotLock(let name):
      "the role may not lock rows of \(name): grant it SELECT on the table and UPDATE on one of its columns"
    case .changing(let name): "\(name) was replaced or altered again and again during the run"
    case .foreignParts(let names): "foreign tables cannot be swept: \(names)"
    case .rows(let count, let refusals):
      "\(Self.rows(count)) refused (\(refusals.map(\.description).joined(separator: ", ")))"
    case .kept(let count, let table):
      "\(Self.rows(count)) stayed due though the statement succeeded: a trigger or a rule on \(table) keeps them"
    case .swallowed(let count, let table, let hasTriggers, let indexes):
      "\(count == 1 ? "1 job was" : "\(count) jobs were") not inserted though the statement succeeded: "
        + Self.obstacle(on: table, hasTriggers: hasTriggers, uniqueIndexes: indexes)
    case .missingLines(let refusal): refusal.description
    case .unprovableTrail(let name):
      "\(name) is not a table, so the worker cannot verify that it keeps the lines: set search_path so that "
        + "\(AuditNote.table) is the table, or set SB_WORKER_AUDIT_EVENTS=false"
    case .rule(let name):
      "a rule on \(name) rewrites the worker's statements (SQLSTATE 0A000): use a trigger instead"
    case .settingsReset:
      "a trigger or function resets the session's settings (RESET ALL), which batches are guarded by"
    case .refusedAsReadOnly:
      "a statement was refused as read-only by a server that takes writes (SQLSTATE 25006): a load balancer such as "
        + "pgpool must send all statements to the primary, and no trigger may set transaction_read_only"
    case .noTransactionNumbers:
      "the server gives no transaction a number until its databases are vacuumed (SQLSTATE 54000)"
    case .locked(let count, let slots):
      "nothing was swept for \(slots) slots: \(Self.rows(count)) locked by other transactions"
    case .share(let count, let live, let warning): "refused: \(count) of \(live) \(warning)"
    case .uncounted(let table):
      "nothing was changed: the rows of \(table) could not be counted within 10s, which a maximum share needs"
    }
  }

  private static func obstacle(on table: String, hasTriggers: Bool, uniqueIndexes: String?) -> String {
    guard let uniqueIndexes else { return "a trigger on \(table) discards new rows" }
    let kept = "another row that the unique index \(uniqueIndexes) allows only once"
    return hasTriggers
      ? "a trigger on \(table) discards new rows, or it has \(kept)" : "\(table) has \(kept)"
  }

  private static func rows(_ count: Int) -> String { count == 1 ? "1 row" : "\(count) rows" }
}
