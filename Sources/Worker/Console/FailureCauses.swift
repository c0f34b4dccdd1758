// The part of status that finds why a sweeper fails if its tables or the role's privileges are the cause.
// Invariant: PostgreSQL is queried only if a sweeper fails with such a class of error. Called by StatusCommand.

import Coordination
import Reactor

extension StatusCommand {
  /// The causes of failing sweepers, by name, a sentence each.
  func causes(of sweepers: [SweeperStatus]) async -> [String: [String]] {
    let failing = sweepers.filter { $0.errorClass.map(ErrorClass.isAboutSchema) ?? false }
    guard !failing.isEmpty else { return [:] }
    let declared = Sweepers.declared(settings)
    var causes: [String: [String]] = [:]
    do {
      let session = try await connect()
      defer { session.connection.close() }
      let role = try await session.query(PostgresStatement(SessionSQL.role))
      for status in failing {
        let name = status.record.sweeper
        guard let sweeper = declared.first(where: { $0.name == name }) else { continue }
        causes[name] = try await self.causes(of: status.errorClass ?? "", in: sweeper, role, session)
      }
    } catch {
      // The failure's class is shown without its cause.
    }
    return causes
  }

  private func causes(
    of errorClass: String, in sweeper: Sweeper, _ role: PostgresResult, _ session: ReadOnlySession
  ) async throws -> [String] {
    var causes: [String] = []
    for needs in SweepNeeds.all(sweeper.work) {
      let check = TableCheck(
        needs: needs, role: role[row: 0, column: 0] ?? "", database: role[row: 0, column: 2] ?? "",
        allowsRowSecurity: settings[.allowRowSecurity])
      for finding in try await check.findings(in: session) where finding.verdict != .ok {
        causes.append(finding.text + (finding.remedy.map { ". Run: \($0)" } ?? ""))
      }
      guard errorClass.hasPrefix("23503"), let table = try await session.survey(needs) else { continue }
      let keys = try await session.query(PostgresStatement(CauseSQL.referrers, ["\(table.identifier)"]))
      for row in 0..<keys.rowCount {
        let (key, other) = (keys[row: row, column: 0] ?? "", keys[row: row, column: 1] ?? "")
        causes.append("the foreign key \(key) of \(other) refers to rows of \(table.displayName)")
      }
    }
    return causes
  }
}

/// The query for what refers to a table.
enum CauseSQL {
  /// Parameter: a table's identifier. Returns name and table of the foreign keys that prevent deleting its rows.
  static let referrers = CatalogSQL.qualified(
    """
    SELECT key.conname, class.relname
      FROM "pg_catalog"."pg_constraint" AS key
      JOIN "pg_catalog"."pg_class" AS class ON (class.oid = key.conrelid)
     WHERE (key.contype = 'f') AND (key.confrelid = $1::oid)
       AND ((key.confdeltype = 'a') OR (key.confdeltype = 'r'))
     ORDER BY key.conname LIMIT 20
    """)
}
