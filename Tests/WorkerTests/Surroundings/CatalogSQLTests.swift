// No statement of a sweep depends on the search path: the qualification itself, and every statement's text.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct CatalogSQLTests {
  @Test(arguments: [
    ("now() < $1", "pg_catalog.now() OPERATOR(pg_catalog.<) $1"),
    ("count(*)", "pg_catalog.count(*)"),
    ("'now() < 1' AND \"odd<name(\"", "'now() < 1' AND \"odd<name(\""),
    ("$1::text", "$1::pg_catalog.text"), ("$1::bigint", "$1::bigint"), ("a::\"char\"[]", "a::pg_catalog.\"char\"[]"),
    ("greatest(a, b)", "greatest(a, b)"), ("pg_catalog.now()", "pg_catalog.now()"),
    (
      "UPDATE t SET a = b(1 = 2), c = 3 WHERE a = 1",
      "UPDATE t SET a = pg_catalog.b(1 OPERATOR(pg_catalog.=) 2), c = 3 WHERE a OPERATOR(pg_catalog.=) 1"
    ),
    ("AS job (id, number)", "AS job (id, number)"), ("a ->> 'b'", "a OPERATOR(pg_catalog.->>) 'b'"),
  ])
  func functionsOperatorsAndTypesAreThoseOfTheCatalogue(plain: String, qualified: String) {
    #expect(CatalogSQL.qualified(plain) == qualified)
  }

  /// Every text that a sweep sends.
  static func statements() async throws -> [String] {
    try await onLoop { try self.allStatements() }
  }

  @EventLoop
  private static func allStatements() throws -> [String] {
    let settings = try Settings.load(
      environment: [
        "DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h",
        "SB_DISCOVER_TARGETS_JSON": #"[{"name": "a", "cluster": "b", "provider_type": "c"}]"#,
        "SB_WORKER_AUDIT_EVENTS": "true", "SB_WORKER_JOBS_RECOVERY_ACTION": "requeue",
        "SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "3",
      ]
    ).settings
    let moments = MomentColumns(table: 1, names: "{a}", types: "a 1184")
    var texts = [
      GuardStatements.open, GuardStatements.openWithTransactionTimeout, GuardStatements.close, GuardStatements.clock,
      AdvisoryHolder.query, AdvisoryHolder.loginRole, TableStatements.batchSettings, TableSurvey.pagedParts,
      TableStatements.openAttempts, TableStatements.closeAttempts,
      TableStatements.comingBack(.init(count: 1, comesBack: "status = 'queued'"), in: "\"s\".\"t\""),
      TableSurvey.query, TableSurvey.check, DiscoveryStatements.insert(into: "\"s\".\"sync_jobs\""),
      DiscoveryStatements.count(in: "\"s\".\"sync_jobs\""), TriggerWatch.open, TriggerWatch.close,
      AuditProof.open, AuditProof.close(showsLines: nil), AuditProof.close(showsLines: "\"s\".\"t\""),
      ConnectionStatements.obstacles, ReplicationLag.query, SessionSQL.seesStandbys,
      SessionSQL.role, SessionSQL.settings, TableSQL.places, TableSQL.privileges, TableSQL.triggers, TableSQL.holders,
      StatusSQL.runs, StatusSQL.holders, StatusSQL.strangers, CauseSQL.referrers, DryRunSQL.open,
      DryRunSQL.limits,
      SchemaCheck.check, ConnectionStatements.covered(by: "\"s\".\"provider_connections\""),
      RelatedTables.query, QueueWatch.query(of: "\"s\".\"sync_jobs\"", moments),
    ]
    for pilesUp in [true, false] {
      let statements = ConnectionStatements(
        connections: "\"s\".\"provider_connections\"", moments: moments, jobs: "\"s\".\"sync_jobs\"",
        pilesUp: pilesUp, patience: .zero)
      texts += [statements.due, statements.insert, statements.mark]
    }
    for sweeper in Sweepers.declared(settings) {
      guard case .rows(let sweep) = sweeper.work else { continue }
      for countsDue in [true, false] {
        let related = RelatedTables(
          PostgresResult(
            rows: [
              ["2", "s", "r", "1", "f", "2", "own", "id", "t"],
              ["2", "s", "r", "1", "f", "2", "other", "created_at", "t"],
            ]))
        let table = TableStatements(
          sweep: sweep, table: "\"s\".\"t\"", moments: moments,
          countsDue: countsDue || sweep.audit != nil || sweep.attemptLimit != nil, related: related)
        texts += [
          table.write, table.writeLimited, table.writePart, table.writeSkippingLocked, table.firstDue, table.countDue,
          table.dueRows,
          table.writeRows, table.probeTable, table.writeWindow, table.firstKey, table.dueSince,
          table.dueAtAll, table.nothingDue, table.lock, table.lockRows,
        ]
        if let limit = sweep.shareLimit { texts.append(table.countShares(limit)) }
        let survey = TableSurvey(
          table: sweep.table, PostgresResult(rows: [["s", "r", "1"] + [String?](repeating: "f", count: 15)]))
        if let survey {
          let dryRun = DryRunSQL(sweep, on: survey, linkedTable: survey)
          texts += [dryRun.count, dryRun.first] + (dryRun.linked.map { [$0] } ?? [])
        }
        if let linked = sweep.linked, let survey {
          let second = LinkedStatements(linked, of: table, in: survey)
          texts += [
            second.writeLinked, second.writeLinkedSkippingLocked, second.write, second.writeSkippingLocked,
            second.firstKey,
          ]
        }
        guard sweep.index != nil else { continue }
        if sweep.leavesReferenced { texts += [table.lockIndexScan, table.lockUnorderedIndexScan, table.writeLocked] }
        texts += [table.indexScan, table.indexScanSkippingLocked]
        texts += [table.unorderedIndexScan, table.unorderedIndexScanSkippingLocked]
      }
    }
    return texts
  }

  /// Words between which a parenthesis's content is taken apart: two operators without one of them between would be
  /// read from left to right, whatever was meant.
  private static let separators: Set<String> = [
    "AND", "OR", "NOT", "SELECT", "FROM", "WHERE", "WHEN", "THEN", "ELSE", "END", "CASE", "AS", "ON", "LIMIT", "OFFSET",
    "BY", "SET", "RETURNING", "JOIN", "IS", "DESC", "FOR", "OVER",
  ]

  @Test func noOperationDependsOnTheOrderOfOperators() async throws {
    let pattern = try Regex(#"(?s)\s*('[^']*'|"[^"]*"|@@OP \S+\)|\w+|.)"#, as: (Substring, Substring).self)
    for text in try await Self.statements() {
      var operators = [0]
      var rest = text.replacing("OPERATOR(pg_catalog.", with: " @@OP ")[...]
      while let token = rest.prefixMatch(of: pattern) {
        let word = String(token.1)
        switch word {
        case "(": operators.append(0)
        case ")": operators.removeLast()
        case _ where word.hasPrefix("@@OP"):
          operators[operators.count - 1] += 1
          #expect(operators.last == 1, "\(text.prefix(80))… near \(rest.prefix(60))")
        case ",",
          _ where word == "," || Self.separators.contains(word.uppercased()):
          operators[operators.count - 1] = 0
        default: break
        }
        rest = rest[token.range.upperBound...]
      }
    }
  }

  @Test func noStatementLooksAnOperatorUpInSilence() async throws {
    for text in try await Self.statements() {
      let plain = text.replacing(/'[^']*'|"[^"]*"/, with: "")
      for word in [/\bIN \(/, /\bLIKE\b/, /\bBETWEEN\b/, /\bNULLIF\b/, /\bDISTINCT FROM\b/, /\bUSING\b/] {
        #expect(plain.firstMatch(of: word) == nil, "\(text.prefix(80))")
      }
    }
  }

  @Test func noStatementReadsAMomentInTheSessionsFormat() async throws {
    for text in try await Self.statements() {
      #expect(text.firstMatch(of: /current_setting\('sb\.\w+'\)::pg_catalog\.timestamp/) == nil, "\(text.prefix(80))")
      #expect(text.firstMatch(of: /\$\d::pg_catalog\.timestamp/) == nil, "\(text.prefix(80))")
    }
  }
}
