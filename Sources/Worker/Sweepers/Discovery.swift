// Enqueues discover jobs: one statement for all targets, or one per target if that fails.
// Invariant: a target's slot has at most one job, whatever dies in between: correlation_id is derived from both.

import Coordination
import Reactor

/// The configured discover targets, as the given JSON text: PostgreSQL decomposes it, nothing is re-encoded.
package struct Discovery: Sendable {
  /// The table for jobs.
  package static let table = "sync_jobs"

  let targets: DiscoverTargets
  /// Whether a target gets another job while an equal one from an earlier slot is queued.
  let pilesUp: Bool

  /// One or more targets, or connections, could not be enqueued; the others were.
  struct SomeFailed: Error {
    /// Names and reasons, in the order of the targets.
    let failures: [(target: String, error: any Error)]
    /// What failed: targets, or connections.
    var label = "target"
    /// The table for the jobs, by display name.
    var table: String?

    /// The most failures that a reason names.
    private static let namedLimit = 5

    /// Each failed target, with its reason: "target=a: …; target=b: …".
    var reason: String {
      var text = ""
      for failure in failures.prefix(Self.namedLimit) {
        let reason = RunFailure(failure.error, on: table.map { "INSERT on \($0)" }).reason
        text += (text.isEmpty ? "" : "; ") + "\(label)=\(failure.target): \(reason)"
      }
      let rest = failures.count - Self.namedLimit
      return rest > 0 ? text + "; and \(rest) more" : text
    }

    /// Not permanent if a retry may help one of them.
    var isPermanent: Bool { failures.allSatisfy { RunFailure($0.error).isPermanent } }
  }

  /// Counts new jobs, and as skipped the targets whose earlier job is still queued.
  ///
  /// - Throws: `SomeFailed`, `SweepRefusal`, `RunInterruption`, or `PostgresError` if the server cannot be reached.
  @EventLoop
  func run(
    _ run: Run, in session: GuardedSession, knowing memory: TableMemory, allowsRowSecurity: Bool = false,
    noting tally: RunTally
  ) async throws {
    // Surveyed in each run: the name may refer to another table now, whose jobs the agents claim.
    let survey = try await session.surveyAgain(Self.table, key: "created_at", moments: [], event: .insert, for: memory)
    if let refusal = survey.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
    let insert = DiscoveryStatements.insert(into: survey.quotedName)
    func enqueue(_ targets: DiscoverTargets) async throws {
      let statement = PostgresStatement(
        insert,
        [
          targets.document,
          PostgresArray.words(targets.targets.map { Self.jobID(target: $0.identity, slot: run.slot) }),
          PostgresArray.words(targets.targets.map { Self.jobID(target: $0.identity, run: run.epoch) }),
          run.isForced ? "true" : "false", pilesUp ? "true" : "false",
        ])
      let settings = TableStatements.settings(flushes: true, statementLimit: SweepBatches.noLimit)
      let answer = try await session.batch([settings, statement]).results[1]
      let (wanted, allowed, inserted) = (answer.number(0), answer.number(1), answer.number(2))
      var there = inserted
      if inserted < allowed || survey.hasLateTriggers, let jobs = answer[row: 0, column: 3] {
        // A trigger may have moved them to another part of the table, or removed them again.
        let found = try await session.query(
          PostgresStatement(DiscoveryStatements.count(in: survey.quotedName), [jobs]))
        let left = min(allowed, found.number(0))
        there = survey.hasLateTriggers ? left : max(inserted, left)
      }
      tally.count.changed += there
      tally.count.skipped += wanted - allowed
      tally.count.kept += allowed - there
    }
    do {
      try await enqueue(targets)
    } catch let error as PostgresError where survey.isRefusedByRule(error) {
      throw SweepRefusal.rule(survey.displayName)
    } catch let error as PostgresError where error.sqlState != nil {
      var failures: [(target: String, error: any Error)] = []
      for target in targets.single {
        do {
          try await enqueue(target)
        } catch let error as PostgresError where error.sqlState != nil {
          failures.append((target.targets[0].name, error))
        }
      }
      if !failures.isEmpty { throw SomeFailed(failures: failures, table: survey.displayName) }
    }
    if tally.count.kept > 0 { throw SweepRefusal.swallowed(tally.count.kept, table: survey.displayName) }
  }

  // MARK: Job ids

  /// The namespace of the jobs' version 5 UUIDs (RFC 9562, section 5.5). Never changed.
  static let uuidNamespace: [UInt8] = [
    0x5e, 0x0c, 0x9a, 0x1e, 0x2d, 0x7b, 0x4f, 0x43, 0x9b, 0x61, 0x3c, 0x8d, 0x4e, 0x12, 0x70, 0xa5,
  ]

  /// The version 5 UUID for a target's slot.
  static func jobID(target: String, slot: Int64) -> String {
    uuid(of: "\(target)\n\(slot)")
  }

  /// The same for a run that was forced after the slot's job was enqueued.
  static func jobID(target: String, run epoch: Int64) -> String {
    uuid(of: "\(target)\nrun \(epoch)")
  }

  private static func uuid(of text: String) -> String {
    var digest = Array(SHA1.digest(uuidNamespace + Array(text.utf8))[..<16])
    digest[6] = digest[6] & 0x0f | 0x50
    digest[8] = digest[8] & 0x3f | 0x80
    let hex = digest.map { byte in
      let text = String(byte, radix: 16)
      return byte < 16 ? "0" + text : text
    }.joined()
    func part(_ range: Range<Int>) -> String {
      String(decoding: Array(hex.utf8)[range], as: UTF8.self)
    }
    return [part(0..<8), part(8..<12), part(12..<16), part(16..<20), part(20..<32)].joined(separator: "-")
  }
}

/// The SQL of discovery.
package enum DiscoveryStatements {
  /// Parameters: targets as a JSON array, in their order the ids of the slot's jobs and of this run's, whether the run
  /// was forced, and whether jobs may pile up. Answers how many targets there were, how many of them have no equal job
  /// queued, how many jobs were inserted, and the ids of the jobs to insert.
  ///
  /// A forced run makes its own job if the slot's was enqueued before and is no longer queued. correlation_id is unique
  /// without an index because of the guard's advisory lock, which an earlier statement took.
  package static func insert(into table: String) -> String {
    CatalogSQL.qualified(
      """
      WITH wanted AS MATERIALIZED (
        SELECT CASE WHEN done.is_enqueued THEN job.run_id ELSE job.id END AS id,
               jsonb_build_object('cluster_name', (target -> 'cluster')) AS agent_scope,
               jsonb_build_object('target_provider_type', (target -> 'provider_type'),
                                  'target_provider_config', (target -> 'provider_config'),
                                  'cluster_name', (target -> 'cluster'))
                 || CASE WHEN (coalesce((target -> 'scope'), 'null'::jsonb) = 'null'::jsonb) THEN '{}'::jsonb
                         ELSE jsonb_build_object('scope', (target -> 'scope')) END AS payload
          FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS configured (target, number)
          JOIN ROWS FROM (unnest($2::uuid[]), unnest($3::uuid[])) WITH ORDINALITY AS job (id, run_id, number)
            ON (job.number = configured.number)
         CROSS JOIN LATERAL (
           SELECT EXISTS (
             SELECT FROM \(table) AS earlier WHERE earlier.correlation_id = job.id AND earlier.job_type = 'discover'
           )) AS done (is_enqueued)
         WHERE \(GuardStatements.filter) AND ($4::boolean OR NOT done.is_enqueued)),
      allowed AS MATERIALIZED (
        SELECT id, agent_scope, payload FROM wanted
         WHERE ($5::boolean AND NOT $4::boolean)
            OR NOT EXISTS (
                 SELECT FROM \(table) AS earlier
                  WHERE earlier.status = 'queued' AND earlier.job_type = 'discover'
                    AND earlier.agent_scope = wanted.agent_scope AND earlier.payload = wanted.payload)),
      inserted AS (
        INSERT INTO \(table) (job_type, status, correlation_id, agent_scope, payload)
        SELECT 'discover', 'queued', id, agent_scope, payload FROM allowed
        RETURNING 1)
      SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM allowed), (SELECT count(*) FROM inserted),
             (SELECT array_agg(id)::text FROM allowed)
      """)
  }

  /// Parameter: ids. Answers how many of them have a job.
  static func count(in table: String) -> String {
    CatalogSQL.qualified(
      """
      SELECT count(DISTINCT job.correlation_id) FROM \(table) AS job
       WHERE (job.correlation_id = ANY ($1::uuid[])) AND (job.job_type = 'discover')
      """)
  }
}
