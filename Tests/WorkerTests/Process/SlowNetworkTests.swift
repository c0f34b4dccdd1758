// The worker as a process with long round trips to PostgreSQL, or behind a network that forgets connections.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct SlowNetworkTests {
  private func readyz(_ worker: WorkerProcess) async throws -> HTTPAnswer {
    try await worker.get("/readyz", within: .seconds(4))
  }

  @Test(arguments: [300, 800])
  func isReadyAndSweepsThoughEachRoundTripIsLong(milliseconds: Int) async throws {
    let server = try await PrivatePostgres.startWithTLS()
    try await server.psql(ControlPlane.schema())
    try await server.psql(
      """
      GRANT ALL ON ALL TABLES IN SCHEMA public TO \(PrivatePostgres.lockedUser);
      INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')
      """)
    let redis = try PrivateRedis()
    let proxy = try FaultProxy(to: UInt16(server.port))
    proxy.set(.delay(.milliseconds(milliseconds / 2)))
    let url = server.url(
      user: PrivatePostgres.lockedUser, password: PrivatePostgres.lockedPassword, query: "sslmode=require"
    ).replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    let worker = try await WorkerProcess.started([
      "DATABASE_URL": url, "REDIS_URL": redis.url, "SB_WORKER_AGENTS_STALE_INTERVAL": "3s",
      "SB_WORKER_OUTAGE_AFTER": "1s",
    ])
    try await onLoop {
      try await eventually("it is being connected") {
        try await readyz(worker).body == #"{"status":"not_ready","failing":{"postgres":"connecting"}}"#
      }
      try await worker.answersReadyz(200, within: .seconds(15))
      try await eventually("it sweeps", within: .seconds(40)) {
        try await worker.runs("agents-stale", "success") > 1
      }
      for _ in 0..<3 { #expect(try await readyz(worker).status == 200) }
    }
    #expect(try await server.psql("SELECT status FROM agents") == "stale")
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.log.contains { $0.level == "ERROR" || $0.message == "PostgreSQL is unavailable" })
    await server.stop()
  }

  @Test func aForgottenConnectionCostsNoFailure() async throws {
    let stage = try await WorkerStage.set()
    var intervals: [String: String] = [:]
    for name in ["WRAPS_EXPIRED", "SECRETS_STALE", "JOBS_RECOVERY"] {
      intervals["SB_WORKER_\(name)_INTERVAL"] = "1h"
    }
    intervals["SB_WORKER_AGENTS_STALE_INTERVAL"] = "5s"
    let worker = try await stage.start(intervals)
    try await onLoop {
      try await eventually("it swept", within: .seconds(20)) { try await worker.runs("agents-stale", "success") == 2 }
      stage.postgresProxy.forgetConnections()
      try await eventually("it swept again", within: .seconds(20)) {
        try await worker.runs("agents-stale", "success") == 3
      }
      #expect(try await worker.runs("agents-stale", "failure") == 0)
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.log.contains { $0.level == "ERROR" || $0.level == "WARN" }, "\(worker.log)")
  }
}
