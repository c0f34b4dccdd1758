// The worker while its PostgreSQL fails over: a primary and a standby that streams from it, both real.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct PostgresFailoverTests {
  /// From the promotion to the next sweep.
  private static let failoverLimit = Duration.seconds(10)

  /// Two replicas, each of which reaches the primary in its own way: by a list of both hosts, and at an address that
  /// moves.
  @Test func sweepsContinueOnceTheStandbyIsPromoted() async throws {
    let primary = try await PrivatePostgres.start()
    try await primary.psql(try ControlPlane.schema())
    let standby = try await primary.startStandby()
    // Whatever was reported to the worker as committed is also on the standby.
    try await primary.synchronizeStandby()
    let redis = try PrivateRedis()
    let address = try FaultProxy(to: UInt16(primary.port))
    let hosts = "127.0.0.1:\(primary.port),127.0.0.1:\(standby.port)"
    let workers = [
      try await Self.start("postgres://postgres@\(hosts)/postgres?target_session_attrs=read-write", redis),
      try await Self.start("postgres://postgres@127.0.0.1:\(address.port)/postgres", redis),
    ]
    try await onLoop {
      try await Self.insertWrap("first", on: primary)
      try await eventually("they sweep") { try await Self.isSwept("first", on: primary) }
      await primary.halt()
      address.upstream = UInt16(standby.port)
      let readOnly = #"{"status":"not_ready","failing":{"postgres":"the database is read-only"}}"#
      for worker in workers {
        try await eventually("/readyz says that it is read-only") { try await worker.get("/readyz").body == readOnly }
      }
      let failures = try await Self.failures(workers)
      // Four slots: enough for a run that would fail.
      let end = LoopClock.system.now.advanced(by: .seconds(2))
      try await eventually("slots pass") { LoopClock.system.now >= end }
      #expect(try await Self.failures(workers) == failures, "a slot that no server can take is no failure")
      try await standby.psql("SELECT pg_promote()")
      try await Self.insertWrap("second", on: standby)
      try await eventually("the new primary is swept", within: Self.failoverLimit) {
        try await Self.isSwept("second", on: standby)
      }
      for worker in workers { try await worker.answersReadyz(200) }
    }
    for worker in workers {
      #expect(try await worker.stop() == .exited(0))
      // A second time if the primary said something else in between, on its way down.
      #expect((1...2).contains(worker.log.count { $0["error"] == "the database is read-only" }))
    }
    for sweeper in WorkerStage.sweepers { try Self.expectEachSlotOnce(sweeper, redis) }
    await standby.stop()
    await primary.stop()
  }

  private static func start(_ url: String, _ redis: PrivateRedis) async throws -> WorkerProcess {
    var environment = ["DATABASE_URL": url, "REDIS_URL": redis.url, "SB_WORKER_LEASE": "3s"]
    for name in ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE", "JOBS_RECOVERY"] {
      environment["SB_WORKER_\(name)_INTERVAL"] = "500ms"
    }
    return try await WorkerProcess.started(environment)
  }

  private static func insertWrap(_ name: String, on server: PrivatePostgres) async throws {
    try await server.psql(
      """
      INSERT INTO secret_wraps
        (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
      VALUES ('x', 'x', 'x', '\(name)', 'x', 1, now() - interval '1 hour')
      """)
  }

  private static func isSwept(_ name: String, on server: PrivatePostgres) async throws -> Bool {
    try await server.psql("SELECT count(*) FROM secret_wraps WHERE kms_key_id = '\(name)'") == "0"
  }

  private static func failures(_ workers: [WorkerProcess]) async throws -> Double {
    var count = 0.0
    for worker in workers {
      for sweeper in WorkerStage.sweepers { count += try await worker.runs(sweeper, "failure") }
    }
    return count
  }

  /// Of the runs in a sweeper's history.
  private static func expectEachSlotOnce(_ sweeper: String, _ redis: PrivateRedis) throws {
    let lines = try redis.cli("LRANGE", "secrets-bridge:history:{\(WorkerStage.lockKey(sweeper))}", "0", "-1")
    var slots: [String] = []
    for line in lines.split(separator: "\n") {
      let run = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
      if run["outcome"] as? String == "success" { slots.append(try #require(run["slot"] as? String)) }
    }
    #expect(!slots.isEmpty && Set(slots).count == slots.count, "\(sweeper): \(slots)")
  }
}
