// Which session holds a sweeper's advisory lock, and how one of an earlier run is terminated. SQL and its answer.
// Invariant: only a session of the same login role, the same scope and a lower epoch is terminated.

import Coordination
import Reactor

/// The name of a run on PostgreSQL: the application_name of its session.
struct RunName: Equatable, Sendable {
  private static let program = "sb-worker"

  /// A hash of the Redis namespace and the schedule record's origin. Runs that coordinate through one Redis share it.
  let scope: String
  let sweeper: String

  /// - Parameters:
  ///   - namespace: the Redis namespace.
  ///   - origin: the schedule record's, which differs in every other Redis.
  init(namespace: String, origin: String, sweeper: String) {
    let digits = String(StableHash.fnv1a("\(namespace)\n\(origin)"), radix: 16)
    scope = String(repeating: "0", count: 8 - digits.utf8.count) + digits
    self.sweeper = sweeper
  }

  /// The common prefix of the names of this sweeper's runs in this scope. The epoch follows.
  var prefix: String { "\(Self.program) \(scope) \(sweeper) " }

  /// PostgreSQL keeps 63 bytes, so a sweeper's name can have 30.
  func text(epoch: Int64) -> String { "\(prefix)\(epoch)" }

  /// Whether `text` names a run of this sweeper in another scope.
  func isOtherScope(_ text: String) -> Bool {
    let begin = "\(Self.program) "
    guard text.utf8.starts(with: begin.utf8), !text.utf8.starts(with: prefix.utf8) else { return false }
    return text.utf8.dropFirst(begin.utf8.count + scope.utf8.count).starts(with: " \(sweeper) ".utf8)
  }
}

/// A session or a prepared transaction that holds the advisory lock of a sweeper.
package struct AdvisoryHolder: Equatable, Sendable {
  /// 0 for a prepared transaction.
  let processID: Int32
  let applicationName: String
  /// Whether it was of an earlier run in this scope and was terminated.
  let isTerminated: Bool

  /// Returns to the role that logged in, which may terminate its own sessions, from any role that was set.
  package static let loginRole = CatalogSQL.qualified("SELECT set_config('role', 'none', true)")

  /// Parameters: advisory key, the prefix of this sweeper's names, this run's epoch. Answers each holder's process, its
  /// application_name and whether it was terminated: a session of an earlier run that froze in the middle of a pipeline
  /// holds the lock without a timeout.
  package static let query = CatalogSQL.qualified(
    """
    SELECT coalesce(held.pid, 0), coalesce(session.application_name, ''),
           CASE WHEN (session.usename = session_user) AND starts_with(session.application_name, $2::text)
                     AND (substr(session.application_name, (length($2::text) + 1)) ~ '^[0-9]{1,18}$')
                     AND (substr(session.application_name, (length($2::text) + 1))::bigint < $3::bigint)
                THEN pg_terminate_backend(session.pid) ELSE false END
      FROM "pg_catalog"."pg_locks" AS held
      LEFT JOIN "pg_catalog"."pg_stat_activity" AS session ON (session.pid = held.pid)
     WHERE (held.locktype = 'advisory') AND held.granted AND (held.objsubid = 2)
       AND (held.database = (SELECT oid FROM "pg_catalog"."pg_database" WHERE (datname = current_database())))
       AND (held.classid = \(GuardStatements.advisoryClass)::oid)
       AND (held.objid::int8 = ($1::int8 & 4294967295))
    """)

  @EventLoop
  static func all(in result: PostgresResult) -> [AdvisoryHolder] {
    (0..<result.rowCount).map { row in
      AdvisoryHolder(
        processID: result[row: row, column: 0].flatMap { Int32($0) } ?? 0,
        applicationName: result[row: row, column: 1] ?? "", isTerminated: result[row: row, column: 2] == "t")
    }
  }
}
