// The environment of the process tests: a control plane and a Redis, each behind a proxy that the workers connect to.
// Invariant: a stage belongs to one test, except for the PostgreSQL server, on which it has its own database.

import Foundation
import Reactor
import Synchronization
import TestSupport
import Testing

/// The servers of one test, with a proxy before each.
struct WorkerStage: Sendable {
  static let sweepers = ["wraps-expired", "secrets-stale", "agents-stale", "jobs-recovery"]

  let plane: ControlPlane
  let redis: PrivateRedis
  let postgresProxy: FaultProxy
  let redisProxy: FaultProxy

  static func set(redis settings: PrivateRedis? = nil) async throws -> WorkerStage {
    let redis = try settings ?? PrivateRedis()
    let plane = try await ControlPlane.fresh()
    return WorkerStage(
      plane: plane, redis: redis, postgresProxy: try FaultProxy(to: UInt16(await PrivatePostgres.shared.port)),
      redisProxy: try FaultProxy(to: redis.port))
  }

  /// The default settings of a worker on this stage: short intervals, and the shortest lease.
  var environment: [String: String] {
    get async throws {
      let direct = "127.0.0.1:\(try await PrivatePostgres.shared.port)"
      var environment = [
        "DATABASE_URL": plane.url.replacingOccurrences(of: direct, with: "127.0.0.1:\(postgresProxy.port)"),
        "REDIS_URL": redis.url.replacingOccurrences(of: ":\(redis.port)", with: ":\(redisProxy.port)"),
        "SB_WORKER_LEASE": "3s", "SB_WORKER_CROSS_TEAM_FILL_EXPIRED_INTERVAL": "off",
        "SB_WORKER_CONNECTIONS_STUCK_INTERVAL": "off", "SB_WORKER_DISCOVER_CONNECTIONS_INTERVAL": "off",
        "SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL": "off",
      ]
      for name in ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE", "JOBS_RECOVERY"] {
        environment["SB_WORKER_\(name)_INTERVAL"] = "500ms"
      }
      return environment
    }
  }

  /// Starts a worker and waits until its probes answer; `settings` beside the usual ones, or in their place.
  func start(_ settings: [String: String] = [:]) async throws -> WorkerProcess {
    try await WorkerProcess.started(environment.merging(settings) { $1 })
  }

  /// Starts a worker and waits until its run of wraps-expired is stuck in a statement, for a minute.
  func startStuck(
    _ settings: [String: String] = [:], _ arguments: [String] = ["run"]
  ) async throws -> WorkerProcess {
    try settle()
    try await makeDeletingWait(seconds: 60)
    let worker = try await WorkerProcess.start(arguments, environment: environment.merging(settings) { $1 })
    try await onLoop {
      try await eventually("a run is stuck in its statement") { try await self.stuckStatements() == 1 }
    }
    return worker
  }

  static func lockKey(_ sweeper: String) -> String { "secrets-bridge:lock:worker:sweeper:\(sweeper)" }

  static func recordKey(_ sweeper: String) -> String { "secrets-bridge:schedule:{\(lockKey(sweeper))}" }

  /// Those that the sweeper's record lists.
  func replicas(_ sweeper: String) throws -> String {
    try redis.cli("HGET", Self.recordKey(sweeper), "replicas").trimmingCharacters(in: .newlines)
  }

  /// Makes Redis look as if it had long known the sweepers, so that no first run waits for a lease.
  func settle() throws {
    for sweeper in Self.sweepers {
      try redis.cli("HSET", Self.recordKey(sweeper), "epoch", "1")
    }
  }

  /// The locks that are in Redis now.
  func locks() throws -> [String] {
    try redis.cli("KEYS", "secrets-bridge:lock:*").split(separator: "\n").map(String.init).filter { !$0.isEmpty }
  }

  /// An expired wrap, for a sweep to delete.
  func addExpiredWrap() async throws {
    try await plane.sql(
      """
      INSERT INTO secret_wraps
        (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
      VALUES ('x', 'x', 'x', 'k', 'x', 1, now() - interval '1 hour')
      """)
  }

  /// From now on, whoever deletes a wrap waits for as long: a run that is stuck in its statement.
  private func makeDeletingWait(seconds: Int) async throws {
    try await addExpiredWrap()
    try await plane.sql(
      """
      CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(\(seconds)); RETURN OLD; END $$;
      CREATE TRIGGER wait BEFORE DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION wait()
      """)
  }

  /// Statements that `makeDeletingWait` holds up right now.
  func stuckStatements() async throws -> Int {
    let count = try await plane.sql(
      """
      SELECT count(*) FROM pg_stat_activity
      WHERE datname = current_database() AND state = 'active' AND wait_event = 'PgSleep'
      """)
    return try #require(Int(count))
  }
}

extension WorkerProcess {
  /// A worker whose probes answer.
  static func started(_ environment: [String: String]) async throws -> WorkerProcess {
    let worker = try await start(environment: environment)
    try await onLoop { try await eventually("it is up") { await worker.status(of: "/healthz") == 200 } }
    return worker
  }

  /// Waits until /readyz answers so.
  @EventLoop
  func answersReadyz(_ status: Int, within limit: Duration = .seconds(10)) async throws {
    try await eventually("/readyz answers \(status)", within: limit) { await self.status(of: "/readyz") == status }
  }

  /// A metric's value; nil if it is not shown.
  func metric(_ name: String) async throws -> Double? {
    for line in try await get("/metrics").body.split(separator: "\n") where line.hasPrefix(name + " ") {
      return Double(line.dropFirst(name.count + 1))
    }
    return nil
  }

  func runs(_ sweeper: String, _ outcome: String) async throws -> Double {
    try await metric(#"worker_scheduler_runs_total{task="\#(sweeper)",outcome="\#(outcome)"}"#) ?? -1
  }
}

/// A process's maximum number of threads, sampled by a separate thread for as long as the process lives.
final class ThreadWatch: Sendable {
  private let seen = Mutex((most: 0, samples: 0))

  init(_ process: WorkerProcess) {
    let id = process.id
    Thread.detachNewThread { [self] in
      // One entry a thread: cheaper than the text of the status, so that no short-lived thread is missed.
      while let threads = try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(id)/task").count, threads > 0 {
        seen.withLock { $0 = (max($0.most, threads), $0.samples + 1) }
        usleep(300)
      }
    }
  }

  var most: Int { seen.withLock { $0.most } }
  var samples: Int { seen.withLock { $0.samples } }
}
