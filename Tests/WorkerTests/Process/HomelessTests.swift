// The worker under an account without a name and with an unreadable home directory, as in containers.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "only root can be somebody else")) struct HomelessTests {
  /// Starts the worker as uid 65532 with root's home.
  private func start(_ environment: [String: String]) async throws -> WorkerProcess {
    try await WorkerProcess.start(
      [
        "--reuid=65532", "--regid=65532", "--clear-groups", "--pdeathsig", "KILL", "--", WorkerProcess.executable,
        "run",
      ],
      environment: environment.merging(["HOME": "/root"]) { given, _ in given }, executable: "/usr/bin/setpriv")
  }

  @Test(arguments: ["require", "prefer"])
  func aHomeThatCannotBeReadIsInNobodysWayAndNothingIsDowngraded(mode: String) async throws {
    chmod("/root", 0o700)
    let server = try await PrivatePostgres.startWithTLS()
    let redis = try PrivateRedis()
    let worker = try await start([
      "DATABASE_URL": server.url(query: "sslmode=\(mode)"), "REDIS_URL": redis.url,
    ])
    try await onLoop { try await worker.answersReadyz(200) }
    let encrypted = try await server.psql(
      """
      SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
       WHERE application_name LIKE 'secrets-bridge-worker%'
      """)
    #expect(encrypted == "t")
    #expect(try await worker.stop() == .exited(0))
    await server.stop()
  }

  @Test(arguments: [
    ("postgres://127.0.0.1:1/d", "user is missing, and the account that this runs as has no name"),
    ("postgres://u@127.0.0.1:1/d?sslkey=/root/key", "sslkey: the file cannot be read: Permission denied"),
  ])
  func whatIsMissingIsSaidAtBoot(_ url: String, _ fault: String) async throws {
    let worker = try await start(["DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1"])
    #expect(try await worker.waitForExit() == .exited(78))
    #expect(worker.log.contains { $0["variable"] == "DATABASE_URL" && $0["error"]?.contains(fault) == true })
  }

  @Test(arguments: [("PGSERVICE", "nowhere"), ("PGSERVICEFILE", "/nowhere/hunter2")])
  func aServiceThatIsNotThereIsSaidAtBoot(_ name: String, _ value: String) async throws {
    var environment = [
      "DATABASE_URL": "postgres://u@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1", "PGSERVICE": "nowhere",
    ]
    environment[name] = value
    let worker = try await start(environment)
    #expect(try await worker.waitForExit() == .exited(78))
    let fault = "PGSERVICE names a service that no readable service file has"
    #expect(worker.log.contains { $0["error"]?.contains(fault) == true })
    #expect(!worker.everything.contains("hunter2"))
  }
}
