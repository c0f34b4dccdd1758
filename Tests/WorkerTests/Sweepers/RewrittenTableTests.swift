// A table that is rewritten to another file while it is swept, on a real PostgreSQL.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct RewrittenTableTests {
  /// Some hundred pages that are nearly empty, and due jobs on the last ones: a rewrite moves them to the first pages.
  private static func fill(_ plane: ControlPlane) async throws {
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
      SELECT 'sync', gen_random_uuid(), CASE WHEN n <= 14000 THEN 'succeeded' ELSE 'claimed' END,
        now() - interval '1 hour', to_jsonb(n || repeat(' ', 150)) FROM generate_series(1, 14200) AS n;
      DELETE FROM sync_jobs WHERE status = 'succeeded' AND ctid >= '(64,0)'
      """)
  }

  /// One run that reclaims jobs, with `sql` once the first 64 pages have been read and the others not.
  private static func sweep(_ plane: ControlPlane, meanwhile sql: String) async throws -> (changed: Int, batches: Int) {
    try await fill(plane)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    return try await onLoop {
      let pool = try plane.pool()
      var batches = 0
      let swept = try await plane.sweep(
        sweeper, through: pool,
        beforeBatch: {
          batches += 1
          if batches == 2 { #expect(throws: Never.self) { try plane.sqlAtOnce(sql) } }
        })
      await pool.close()
      return (swept.changed, batches)
    }
  }

  @Test(
    arguments: [
      "VACUUM FULL sync_jobs", "CLUSTER sync_jobs USING sync_jobs_pkey",
      "ALTER TABLE sync_jobs ADD COLUMN more float8 DEFAULT random()",
    ])
  func dueRowsThatARewriteMovesToTheFirstPagesAreSweptInTheSameRun(_ rewrite: String) async throws {
    let plane = try await ControlPlane.fresh()
    let run = try await Self.sweep(plane, meanwhile: rewrite)
    #expect(run.batches > 2)
    #expect(run.changed == 200)
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'claimed'") == "0")
  }

  @Test func aTableThatIsTruncatedMeanwhileIsNoFailure() async throws {
    let plane = try await ControlPlane.fresh()
    #expect(try await Self.sweep(plane, meanwhile: "TRUNCATE sync_jobs CASCADE").changed == 0)
  }

  @Test func aTableThatIsRewrittenBeforeEachBatchIsReportedAsPartlySwept() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.fill(plane)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let pool = try plane.pool()
      let refusal = await #expect(throws: SweepRefusal.self) {
        try await plane.sweep(
          sweeper, through: pool,
          beforeBatch: { #expect(throws: Never.self) { try plane.sqlAtOnce("VACUUM FULL sync_jobs") } })
      }
      #expect(refusal == .changing("public.sync_jobs"))
      await pool.close()
    }
  }
}
