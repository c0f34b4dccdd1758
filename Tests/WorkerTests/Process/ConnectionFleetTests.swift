// Discovery by connection by replicas that are killed, with agents that claim and complete jobs meanwhile.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct ConnectionFleetTests {
  private static let settings = [
    "SB_WORKER_DISCOVER_CONNECTIONS_INTERVAL": "200ms", "SB_WORKER_DISCOVER_PILE_UP": "true",
    "SB_WORKER_WRAPS_EXPIRED_INTERVAL": "1h", "SB_WORKER_SECRETS_STALE_INTERVAL": "1h",
    "SB_WORKER_AGENTS_STALE_INTERVAL": "1h", "SB_WORKER_JOBS_RECOVERY_INTERVAL": "1h",
  ]

  /// An agent and the api: half of the queued jobs are done, and their connections due again.
  private static let complete = """
    WITH done AS (
      UPDATE sync_jobs SET status = 'succeeded' WHERE status = 'queued' AND random() < 0.5
      RETURNING (payload->>'connection_id')::uuid AS id)
    UPDATE provider_connections AS connection SET last_discover_status = 'success',
      last_discover_at = clock_timestamp() - interval '1 hour' FROM done WHERE connection.id = done.id
    """

  /// Connections that have more than one queued job, and those that run without one.
  private static let wrong = """
    SELECT (SELECT count(*) FROM (
        SELECT FROM sync_jobs WHERE status = 'queued'
         GROUP BY payload->>'connection_id' HAVING count(*) > 1) AS doubled),
      (SELECT count(*) FROM provider_connections AS connection WHERE last_discover_status = 'running' AND NOT EXISTS (
        SELECT FROM sync_jobs WHERE status = 'queued' AND payload->>'connection_id' = connection.id::text))
    """

  @Test func replicasThatAreKilledAtAnyMomentEnqueueOneJobADueTime() async throws {
    let stage = try await WorkerStage.set()
    try stage.redis.cli(
      "HSET", "secrets-bridge:schedule:{\(WorkerStage.lockKey("discover-connections"))}", "epoch", "1")
    try await stage.plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, discover_enabled, cluster_name)
      SELECT 'connection ' || n, 'vault', 'token', true, 'c' FROM generate_series(1, 40) AS n
      """)
    var random = SeededRandom(seed: 11)
    var workers = [try await stage.start(Self.settings), try await stage.start(Self.settings)]
    for round in 0..<12 {
      let length = Duration.milliseconds(Int64.random(in: 100...600, using: &random))
      try await onLoop { try await LoopClock.system.sleep(for: length) }
      let index = round % 2
      workers[index].signal(SIGKILL)
      try await workers[index].waitForExit()
      #expect(try await stage.plane.sql(Self.wrong) == "0|0")
      try await stage.plane.sql(Self.complete)
      workers[index] = try await stage.start(Self.settings)
    }
    try await onLoop {
      try await eventually("each connection has its job", within: .seconds(30)) {
        try await stage.plane.sql(
          "SELECT count(DISTINCT payload->>'connection_id') FROM sync_jobs WHERE status = 'queued'")
          == "40"
      }
    }
    #expect(try await stage.plane.sql(Self.wrong) == "0|0")
    let total = try #require(Int(try await stage.plane.sql("SELECT count(*) FROM sync_jobs")))
    #expect(total > 60, "jobs were done and enqueued anew meanwhile")
    for worker in workers { #expect(try await worker.stop() == .exited(0)) }
    #expect(try stage.locks().allSatisfy { !$0.contains(":lock:worker:") })
  }

  @Test func aTargetThatIsAConnectionTooIsOneWarningAProcess() async throws {
    let stage = try await WorkerStage.set()
    try await stage.plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, discover_enabled, cluster_name)
      VALUES ('a', 'vault', 'token', true, 'c')
      """)
    let targets = #"[{"name": "doubled", "cluster": "c", "provider_type": "vault"}]"#
    let worker = try await stage.start(Self.settings.merging(["SB_DISCOVER_TARGETS_JSON": targets]) { $1 })
    try await onLoop {
      try await eventually("it ran twice", within: .seconds(20)) {
        try await worker.runs("discover-connections", "success") >= 2
      }
    }
    #expect(try await worker.stop() == .exited(0))
    let warning = "targets in SB_DISCOVER_TARGETS_JSON are also provider"
    let lines = worker.log.filter { $0.message?.hasPrefix(warning) ?? false }
    #expect(lines.count == 1 && lines.first?.fields?["targets"] as? [String] == ["doubled"], "\(lines)")
  }
}
