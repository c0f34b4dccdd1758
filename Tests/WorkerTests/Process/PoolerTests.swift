// The worker as a process behind PgBouncer: the URL's settings count in its transactions, and other clients of the same
// sessions find them as they were.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct PoolerTests {
  @Test(arguments: PrivatePgBouncer.Mode.allCases)
  func sweepsWithTheURLsSettingsAndLeavesTheSessionsAsTheyWere(mode: PrivatePgBouncer.Mode) async throws {
    let server = try await PrivatePostgres.start()
    try await server.psql(
      """
      CREATE ROLE api LOGIN; ALTER ROLE api SET default_transaction_isolation = 'serializable';
      CREATE SCHEMA vault AUTHORIZATION api; SET search_path = vault, public;
      """ + ControlPlane.schema())
    try await server.psql(
      """
      SET search_path = vault; GRANT ALL ON ALL TABLES IN SCHEMA vault TO api;
      INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')
      """)
    let redis = try PrivateRedis()
    let pooler = try await PrivatePgBouncer.start(to: server, mode: mode, users: ["api"])
    let query = "search_path=vault,public&statement_timeout=20s&options=-c%20work_mem%3D6MB"
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--force"],
      environment: [
        "DATABASE_URL": pooler.url(user: "api", query: query), "REDIS_URL": redis.url, "SB_WORKER_LEASE": "3s",
      ])
    #expect(try await worker.waitForExit() == .exited(0), "\(worker.log)")
    #expect(try await server.psql("SELECT status FROM vault.agents") == "stale")
    // Its only session, as the next client has it.
    let settings = [
      "default_transaction_isolation", "client_connection_check_interval", "search_path", "statement_timeout",
      "work_mem", "application_name",
    ]
    let list = settings.map { "current_setting('\($0)')" }.joined(separator: ", ")
    let left = try await server.psql("SELECT \(list)", through: pooler.url(user: "api"))
    #expect(left == "serializable|0|\"$user\", public|0|4MB|psql")
    await pooler.stop()
    await server.stop()
  }

  @Test func whatAPoolerRefusesIsSaidWithWhatToDo() async throws {
    // It knows one user, and not this one.
    let pooler = try await PrivatePgBouncer.start(to: try await PrivatePostgres.shared, mode: .session)
    let redis = try PrivateRedis()
    let worker = try await WorkerProcess.started([
      "DATABASE_URL": pooler.url(user: "stranger"), "REDIS_URL": redis.url,
    ])
    try await onLoop {
      try await eventually("it says why") {
        let body = try await worker.get("/readyz", within: .seconds(4)).body
        // Newer poolers have the server's code for it.
        return body.contains("the pooler refuses the login") || body.contains("authentication failed")
      }
    }
    #expect(!worker.everything.contains("stranger\\\""))
    #expect(try await worker.stop() == .exited(0))
    await pooler.stop()
  }
}
