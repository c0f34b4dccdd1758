// Enqueues discover jobs: one statement for all targets, and one by one where that fails.
// Invariant: a target's slot has one job at the most, whatever dies in between: the correlation_id follows from both.

import Reactor

/// The configured discover targets, as the JSON text they came in: PostgreSQL takes it apart, nothing is re-encoded.
struct Discovery: Sendable {
  let targets: DiscoverTargets
  /// Whether a target gets another job while an equal one of an earlier slot is still queued.
  let pilesUp: Bool

  /// The namespace of the jobs' version 5 UUIDs (RFC 9562, section 5.5): made once for this purpose, never changed.
  static let uuidNamespace: [UInt8] = [
    0x5e, 0x0c, 0x9a, 0x1e, 0x2d, 0x7b, 0x4f, 0x43, 0x9b, 0x61, 0x3c, 0x8d, 0x4e, 0x12, 0x70, 0xa5,
  ]

  /// Parameters: all targets as a JSON array, their job ids in the same order, which one to insert (null: all), and
  /// whether jobs may pile up. Answers how many targets had no job of this slot, and how many of them got one.
  ///
  /// No index makes correlation_id unique: the guard's advisory lock, taken in a statement before this one, does.
  static let insert = """
    WITH wanted AS MATERIALIZED (
      SELECT job.id, jsonb_build_object('cluster_name', target->'cluster') AS agent_scope,
             jsonb_build_object('target_provider_type', target->'provider_type',
                                'target_provider_config', target->'provider_config',
                                'cluster_name', target->'cluster')
               || CASE WHEN coalesce(target->'scope', 'null') = 'null' THEN '{}'
                       ELSE jsonb_build_object('scope', target->'scope') END AS payload
        FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS configured (target, number)
        JOIN unnest($2::uuid[]) WITH ORDINALITY AS job (id, number) USING (number)
       WHERE \(GuardStatements.filter)
         AND ($3::int IS NULL OR number = $3::int)
         AND NOT EXISTS (SELECT FROM sync_jobs WHERE correlation_id = job.id AND job_type = 'discover')),
    inserted AS (
      INSERT INTO sync_jobs (job_type, status, correlation_id, agent_scope, payload)
      SELECT 'discover', 'queued', id, agent_scope, payload
        FROM wanted
       WHERE $4::boolean
          OR NOT EXISTS (
               SELECT FROM sync_jobs AS earlier
                WHERE earlier.status = 'queued' AND earlier.job_type = 'discover'
                  AND earlier.agent_scope = wanted.agent_scope AND earlier.payload = wanted.payload)
      RETURNING 1)
    SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM inserted)
    """

  /// One target or more could not be enqueued; the others were.
  struct SomeFailed: Error {
    let failed: Int
    /// The first one after which another try may help, where there is one.
    let first: any Error
  }

  /// Notes what it enqueues, and as skipped the targets whose earlier job is still queued.
  ///
  /// - Parameter slot: the slot's start in ms, part of every job's id.
  /// - Throws: `SomeFailed`, `RunInterruption`, or `PostgresError` where the server is not to be reached.
  @EventLoop
  func run(in session: GuardedSession, slot: Int64, noting tally: RunTally) async throws {
    let ids = "{" + targets.targets.map { Self.jobID(target: $0.name, slot: slot) }.joined(separator: ",") + "}"
    func enqueue(_ number: Int?) async throws {
      let statement = PostgresStatement(
        Self.insert, [targets.document, ids, number.map { "\($0)" }, pilesUp ? "true" : "false"])
      let answer = try await session.batch([statement]).results[0]
      let wanted = answer[row: 0, column: 0].flatMap { Int($0) } ?? 0
      let inserted = answer[row: 0, column: 1].flatMap { Int($0) } ?? 0
      tally.count.changed += inserted
      tally.count.skipped += wanted - inserted
    }
    do {
      try await enqueue(nil)
    } catch let error as PostgresError where error.sqlState != nil {
      var failures: [PostgresError] = []
      for number in 1...targets.targets.count {
        do {
          try await enqueue(number)
        } catch let error as PostgresError where error.sqlState != nil {
          failures.append(error)
        }
      }
      if let first = failures.first(where: { !RunFailure($0).isPermanent }) ?? failures.first {
        throw SomeFailed(failed: failures.count, first: first)
      }
    }
  }

  /// The version 5 UUID of a target's slot.
  static func jobID(target: String, slot: Int64) -> String {
    var digest = Array(SHA1.digest(uuidNamespace + Array("\(target)\n\(slot)".utf8))[..<16])
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
