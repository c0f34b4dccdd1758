// The harness's own knowledge of the retention sweepers, and what makes them run: their slots are an hour apart, so
// `trigger` requests them every few seconds. Invariant: as in Sweep, nothing comes from the worker's code.

import Foundation
import Reactor
import TestSupport

/// A table whose rows are deleted one day after their end.
struct Retained: Sendable {
  let sweeper: String
  let variable: String
  let table: String
  /// Tables with foreign keys to it.
  var referring: [String] = []
  /// SQL for when a row ended; null or 'infinity' if it has not.
  let end: String

  /// How long rows are retained: the minimum that the worker's settings allow.
  static let time = "24h"

  static let all = [
    Retained(
      sweeper: "sessions-retention", variable: "SB_WORKER_RETAIN_SESSIONS", table: "sessions",
      end: "least(expires_at, idle_expires_at, revoked_at)"),
    Retained(
      sweeper: "enrollment-tokens-retention", variable: "SB_WORKER_RETAIN_ENROLLMENT_TOKENS",
      table: "agent_enrollment_tokens", end: "least(expires_at, consumed_at, revoked_at)"),
    Retained(
      sweeper: "reveal-sessions-retention", variable: "SB_WORKER_RETAIN_REVEAL_SESSIONS", table: "reveal_sessions",
      end: "expired_at"),
    Retained(
      sweeper: "jobs-retention", variable: "SB_WORKER_RETAIN_JOBS", table: "sync_jobs", referring: ["access_requests"],
      end: "CASE WHEN status IN ('succeeded', 'failed', 'expired') THEN updated_at END"),
    Retained(
      sweeper: "secrets-missing-retention", variable: "SB_WORKER_RETAIN_SECRETS_MISSING", table: "secrets",
      referring: ["project_secrets"], end: "CASE status WHEN 'missing' THEN greatest(last_seen_at, updated_at) END"),
    Retained(
      sweeper: "gitops-observations-retention", variable: "SB_WORKER_RETAIN_GITOPS_OBSERVATIONS",
      table: "gitops_observations",
      end: "CASE WHEN polling_state IN ('applied', 'applied_unverified', 'failed') THEN terminal_at END"),
  ]

  /// Those that a role with only column grants can delete from: it cannot read the other tables entirely.
  static let sweptByColumns = ["sessions", "agent_enrollment_tokens", "gitops_observations"]

  /// On tables with partitions or children they delete from each part separately; they are off here.
  static func all(in surroundings: Surroundings) -> [Retained] {
    all.filter { retained in
      (surroundings.role != .columns || sweptByColumns.contains(retained.table))
        && (surroundings.shape == .plain || !SurroundingsMaker.tables.contains(retained.table))
    }
  }

  /// A SQL condition for unreferenced rows that have been due for at least `lag`.
  func due(lag: Duration) -> String {
    let condition = "\(end) < clock_timestamp() - interval '24 hours' - interval '\(lag.milliseconds) milliseconds'"
    switch table {
    case "sync_jobs": return condition + " AND NOT EXISTS (SELECT FROM access_requests WHERE job_id = sync_jobs.id)"
    case "secrets": return condition + " AND NOT EXISTS (SELECT FROM project_secrets WHERE secret_id = secrets.id)"
    default: return condition
    }
  }
}

/// An operator who repeatedly triggers the retention sweepers.
enum RetentionTriggers {
  /// A trigger makes every sweeper ask Redis, so this is longer than a reveal session may stay open: otherwise triggers
  /// would mask a worker that misses sessions.
  static let period = Duration.seconds(7)
  /// When a trigger's runs must have ended.
  static let runLimit = Duration.seconds(4)

  /// Triggers until cancelled, skipping triggers that a faulted Redis does not accept.
  static func run(on cluster: Cluster, _ plane: Plane) async {
    let names = Retained.all(in: cluster.options.surroundings).map(\.sweeper)
    while !Task.isCancelled {
      do {
        let verb = try await WorkerProcess.start(
          ["trigger"] + names, environment: plane.redisEnvironment(ports: cluster.redisPorts),
          executable: cluster.options.worker)
        try await verb.waitForExit(within: .seconds(10))
        try await Task.sleep(for: period)
      } catch {
        // The next attempt follows anyway.
      }
    }
  }
}
