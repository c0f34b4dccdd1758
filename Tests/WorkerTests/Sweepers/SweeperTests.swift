// Each sweeper on a real PostgreSQL with the control plane's schema, row by row: what it changes and what it leaves.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SweeperTests {
  static let wrap = """
    INSERT INTO secret_wraps (key_name, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash,
      byte_length, expires_at, consumed_at, consumed_by_user)
    """

  @Test(arguments: DevelopmentSchema.allCases)
  func wrapsPastTheirExpiryGoConsumedOrNot(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      \(Self.wrap) VALUES
        ('expired',  '', '', '', 'k', '', 0, now() - interval '1 second', NULL, NULL),
        ('consumed', '', '', '', 'k', '', 0, now() - interval '1 day', now() - interval '2 days', 'someone'),
        ('live',     '', '', '', 'k', '', 0, now() + interval '1 hour', NULL, NULL),
        ('used',     '', '', '', 'k', '', 0, now() + interval '1 hour', now(), 'someone')
      """)
    let sweeper = Sweeper.wrapsExpired(try plane.settings())
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.changed == 2)
    #expect(try await plane.sql("SELECT string_agg(key_name, ',' ORDER BY key_name) FROM secret_wraps") == "live,used")
  }

  @Test(arguments: DevelopmentSchema.allCases)
  func presentSecretsThatWereNotSeenForLongBecomeMissing(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      INSERT INTO secrets (cluster_name, provider_type, secret_ref, status, last_seen_at) VALUES
        ('c', 'vault', 'stale', 'present', now() - interval '25 hours'),
        ('c', 'vault', 'fresh', 'present', now() - interval '23 hours'),
        ('c', 'vault', 'gone',  'missing', now() - interval '9 days')
      """)
    let before = try await plane.sql("SELECT updated_at FROM secrets WHERE secret_ref = 'gone'")
    let sweeper = Sweeper.secretsStale(try plane.settings())
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.changed == 1)
    #expect(count.cutoffMicroseconds != nil)
    #expect(
      try await plane.sql("SELECT string_agg(secret_ref || ':' || status, ',' ORDER BY secret_ref) FROM secrets")
        == "fresh:present,gone:missing,stale:missing")
    #expect(try await plane.sql("SELECT updated_at FROM secrets WHERE secret_ref = 'gone'") == before)
  }

  @Test(arguments: DevelopmentSchema.allCases)
  func silentAgentsBecomeStaleAndThoseNeverSeenAreLeftAlone(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      INSERT INTO agents (name, status, secret_hash, last_seen_at) VALUES
        ('silent', 'active', '', now() - interval '6 minutes'), ('alive', 'active', '', now() - interval '4 minutes'),
        ('never', 'active', '', NULL), ('disabled', 'disabled', '', now() - interval '1 day'),
        ('enrolled', 'enrolled', '', now() - interval '1 day')
      """)
    let sweeper = Sweeper.agentsStale(try plane.settings())
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.changed == 1)
    #expect(try await plane.sql("SELECT string_agg(name, ',') FROM agents WHERE status = 'stale'") == "silent")
  }

  @Test func theSweeperInTheDocumentIsTheOneInTheSource() throws {
    func text(_ path: String) throws -> String {
      try Repository.text(path)
    }
    let parts = try text("docs/sweepers.md").components(separatedBy: "```swift\n")
    let shown = try #require(parts.dropFirst().first?.components(separatedBy: "```").first)
    let source = try text("Sources/Worker/Sweepers/AgentsStale.swift")
    #expect(source.contains(shown))
  }

  static let jobs = """
    INSERT INTO agents (id, name, secret_hash) VALUES ('11111111-1111-1111-1111-111111111111', 'a', '');
    INSERT INTO sync_jobs (job_type, correlation_id, status, claimed_by, claim_expires_at, payload)
    SELECT 'sync', gen_random_uuid(), job.status, agents.id, expiry, payload FROM agents, (VALUES
      ('claimed', now() - interval '30 seconds', '"stuck"'::jsonb),
      ('claimed', now() + interval '5 minutes', '"held"'),
      ('claimed', NULL, '"endless"'),
      ('queued', NULL, '"waiting"'),
      ('succeeded', now() - interval '1 hour', '"done"')) AS job (status, expiry, payload);
    """

  @Test(arguments: DevelopmentSchema.allCases)
  func aStuckJobExpiresByDefault(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(Self.jobs)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.changed == 1)
    #expect(try await plane.sql("SELECT payload::text FROM sync_jobs WHERE status = 'expired'") == "\"stuck\"")
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'claimed'") == "2")
    #expect(sweeper.report.title == "stuck jobs marked expired")
  }

  @Test(arguments: DevelopmentSchema.allCases)
  func aStuckJobGoesBackToTheQueueWhereAskedTo(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(Self.jobs)
    let sweeper = Sweeper.jobsRecovery(try plane.settings(["SB_WORKER_JOBS_RECOVERY_ACTION": "requeue"]))
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.changed == 1)
    #expect(
      try await plane.sql(
        """
        SELECT status, claimed_by IS NULL, claim_expires_at IS NULL FROM sync_jobs WHERE payload = '"stuck"'
        """) == "queued|t|t")
    #expect(sweeper.report.title == "stuck jobs requeued")
  }

  @Test func withinTheGraceAStuckJobIsLeftToTheAgents() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(Self.jobs)
    let sweeper = Sweeper.jobsRecovery(try plane.settings(["SB_WORKER_JOBS_RECOVERY_GRACE": "1m"]))
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 0)
  }

  static let targets = """
    [{"name": "a", "cluster": "c1", "provider_type": "vault",
      "provider_config": {"deep": {"list": [1, {"x": null}]}, "ü": "日本", "tenth": 0.1, "big": 12345678901234567890},
      "scope": {"prefix": "app/"}},
     {"name": "b", "cluster": "c2", "provider_type": "aws-sm", "provider_config": {}}]
    """

  @Test(arguments: DevelopmentSchema.allCases)
  func eachTargetGetsOneJobWithItsConfigUnchanged(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    let settings = try plane.settings(["SB_DISCOVER_TARGETS_JSON": Self.targets])
    let sweeper = Sweeper.discoverScheduler(settings)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 2)
    #expect(
      try await plane.sql(
        "SELECT job_type, status, agent_scope::text, payload ? 'scope' FROM sync_jobs ORDER BY agent_scope::text")
        == "discover|queued|{\"cluster_name\": \"c1\"}|t\ndiscover|queued|{\"cluster_name\": \"c2\"}|f")
    #expect(
      try await plane.sql(
        """
        SELECT payload = jsonb_build_object('cluster_name', 'c1', 'target_provider_type', 'vault',
          'target_provider_config', ('\(Self.targets)'::jsonb)->0->'provider_config',
          'scope', ('\(Self.targets)'::jsonb)->0->'scope'), payload->'target_provider_config'->>'big',
          payload->'target_provider_config'->>'tenth'
        FROM sync_jobs WHERE agent_scope->>'cluster_name' = 'c1'
        """) == "t|12345678901234567890|0.1")
  }

  private func discovery(_ plane: ControlPlane, pilesUp: Bool = true) throws -> Sweeper {
    let settings = try plane.settings([
      "SB_DISCOVER_TARGETS_JSON": Self.targets, "SB_WORKER_DISCOVER_PILE_UP": "\(pilesUp)",
    ])
    return Sweeper.discoverScheduler(settings)
  }

  @Test func aTargetsSlotIsEnqueuedOnce() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = try discovery(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper, slot: 1_000) }.changed == 2)
    let again = try await onLoop { try await plane.sweep(sweeper, slot: 1_000) }
    #expect(again == SweepCount())
    #expect(try await onLoop { try await plane.sweep(sweeper, slot: 2_000) }.changed == 2)
  }

  @Test func aTargetWhoseEqualJobIsStillQueuedGetsNoSecondOneAndIsCounted() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = try discovery(plane, pilesUp: false)
    #expect(try await onLoop { try await plane.sweep(sweeper, slot: 1_000) }.changed == 2)
    // An agent takes the first target's job; the second one's agent is away.
    try await plane.sql("UPDATE sync_jobs SET status = 'claimed' WHERE agent_scope->>'cluster_name' = 'c1'")
    let count = try await onLoop { try await plane.sweep(sweeper, slot: 2_000) }
    #expect(count.changed == 1 && count.skipped == 1)
    #expect(
      try await plane.sql(
        "SELECT agent_scope->>'cluster_name', count(*) FROM sync_jobs GROUP BY 1 ORDER BY 1") == "c1|2\nc2|1")
  }

  @Test func aQueuedJobOfAnotherConfigurationKeepsNoTargetFromItsOwn() async throws {
    let plane = try await ControlPlane.fresh()
    let sweeper = try discovery(plane, pilesUp: false)
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, agent_scope, payload)
      VALUES ('discover', gen_random_uuid(), '{"cluster_name": "c2"}', '{"target_provider_type": "aws-sm",
        "target_provider_config": {"region": "elsewhere"}, "cluster_name": "c2"}')
      """)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 2)
  }

  @Test func aTargetThatFailsDoesNotKeepTheOthersFromBeingEnqueued() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql("ALTER TABLE sync_jobs ADD CHECK (agent_scope->>'cluster_name' <> 'c1')")
    let sweeper = try discovery(plane)
    let (failure, count) = try await onLoop {
      let tally = RunTally()
      let failure = await #expect(throws: Discovery.SomeFailed.self) { try await plane.sweep(sweeper, noting: tally) }
      return (failure, tally.count)
    }
    #expect(failure?.failures.map(\.target) == ["a"])
    #expect(count.changed == 1)
    #expect(try await plane.sql("SELECT agent_scope->>'cluster_name' FROM sync_jobs") == "c2")
  }
}
