// What a worker can be watched in: its settings, its rows, and what happens around it.

import Foundation
import TestSupport

enum Scenario: String, CaseIterable, Sendable {
  case idle, sweep, probes, notifications

  static let names = allCases.map(\.rawValue).joined(separator: ", ")

  /// Prepares rows and receivers; returns the worker's settings.
  func prepare(_ instruments: Instruments) async throws -> [String: String] {
    switch self {
    case .idle, .probes: return [:]
    case .sweep:
      try await instruments.fill(["wraps": 200_000])
      // All at work as often as can be.
      return Sweeper.intervals("100ms").merging(["SB_WORKER_LEASE": "3s"]) { $1 }
    case .notifications:
      let sink = try await instruments.compile("sink")
      let port = instruments.file("sink.port")
      _ = try await instruments.keep([sink, port])
      var address = ""
      try await wait("the receiver of notifications listens") {
        address = (try? String(contentsOfFile: port, encoding: .utf8)) ?? ""
        return address.hasSuffix("\n")
      }
      return [
        "SB_WORKER_LEASE": "3s", Sweeper.agents.intervalVariable: "100ms",
        "SB_WORKER_WEBHOOK_URL": "http://127.0.0.1:\(address.dropLast())/hook",
      ]
    }
  }

  /// A worker in the scenario, ready, and settled for `settling`. After 30 s its first sweeps, on a new Redis a lease
  /// after boot, are over, and connections that only they needed are closed.
  func start(_ instruments: Instruments, settling: Duration = .seconds(30)) async throws -> WorkerProcess {
    let worker = try await instruments.startWorker(try await prepare(instruments))
    say("letting the worker settle")
    try await Task.sleep(for: settling)
    return worker
  }

  /// What happens around the worker, for so long.
  func drive(_ worker: WorkerProcess, seconds: Int, _ instruments: Instruments) async throws {
    let end = ContinuousClock.now.advanced(by: .seconds(seconds))
    switch self {
    case .idle: try await Task.sleep(until: end)
    case .sweep:
      while ContinuousClock.now < end {
        try await instruments.addRows(["wraps": 20_000, "due": 100])
        try await Task.sleep(for: .milliseconds(500))
      }
    case .probes:
      complain(try await instruments.run(["wrk", "-t1", "-c32", "-d\(seconds)s", worker.url("/healthz")]))
    case .notifications:
      while ContinuousClock.now < end {
        try await instruments.sql(
          """
          INSERT INTO agents (name, scope, secret_hash, last_seen_at)
          SELECT gen_random_uuid(), '{}', '\\x00', now() - interval '1 hour' FROM generate_series(1, 5)
          """)
        try await Task.sleep(for: .milliseconds(100))
      }
    }
  }
}

/// The sweepers of tables, with their rows in scripts/dev/rows.sql and the statement of an operator's cron job.
enum Sweeper: String, Sendable {
  case wraps = "wraps-expired"
  case secrets = "secrets-stale"
  case agents = "agents-stale"
  case jobs = "jobs-recovery"
  case reveal = "reveal-sessions-expired"

  /// Those that the first migrations have.
  static let first = [Sweeper.wraps, .secrets, .agents, .jobs]

  /// What rows.sql calls its rows.
  var rows: String {
    switch self {
    case .wraps: "wraps"
    case .secrets: "secrets"
    case .agents: "agents"
    case .jobs: "jobs"
    case .reveal: "reveals"
    }
  }

  /// The one with its due rows comes first.
  var tables: [String] {
    switch self {
    case .wraps: ["secret_wraps"]
    case .secrets: ["secrets"]
    case .agents: ["agents"]
    case .jobs: ["sync_jobs"]
    case .reveal: ["reveal_sessions", "secret_wraps"]
    }
  }

  private var table: String { tables[0] }

  private var condition: String {
    switch self {
    case .wraps: "expires_at <= now()"
    case .secrets: "status = 'present' AND last_seen_at < now() - interval '24 hours'"
    case .agents: "status = 'active' AND last_seen_at < now() - interval '5 minutes'"
    case .jobs: "status = 'claimed' AND claim_expires_at < now()"
    case .reveal: "expired_at IS NULL AND expires_at <= now()"
    }
  }

  /// Sweeps all rows that are due at once.
  var statement: String {
    switch self {
    case .wraps: "DELETE FROM \(table) WHERE \(condition)"
    case .secrets: "UPDATE \(table) SET status = 'missing' WHERE \(condition)"
    case .agents: "UPDATE \(table) SET status = 'stale' WHERE \(condition)"
    case .jobs: "UPDATE \(table) SET status = 'expired' WHERE \(condition)"
    case .reveal:
      """
      WITH ended AS (
        UPDATE \(table) SET expired_at = now(), expired_reason = 'ttl' WHERE \(condition) RETURNING wrap_ids)
      UPDATE secret_wraps AS wrap SET expires_at = now() FROM (SELECT unnest(wrap_ids) AS id FROM ended) AS shown
       WHERE wrap.id = shown.id AND wrap.consumed_at IS NULL AND wrap.expires_at > now()
      """
    }
  }

  /// Counts the rows that are due.
  var countQuery: String { "SELECT count(*) FROM \(table) WHERE \(condition)" }

  var intervalVariable: String {
    "SB_WORKER_\(rawValue.uppercased().replacingOccurrences(of: "-", with: "_"))_INTERVAL"
  }

  /// The settings with which the first ones have one interval, and those in `others` have theirs.
  static func intervals(_ interval: String, _ others: [Sweeper: String] = [:]) -> [String: String] {
    Dictionary(
      uniqueKeysWithValues: Set(first + others.keys).map { ($0.intervalVariable, others[$0] ?? interval) })
  }
}

extension WorkerProcess {
  /// The URL of one of its probes.
  func url(_ path: String) -> String { "http://127.0.0.1:\(probePort)\(path)" }
}
