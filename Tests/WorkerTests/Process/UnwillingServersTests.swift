// The worker among servers that are there and do not serve: full, read-only, breaking off, behind a name that nobody
// resolves. It stays up, says what is wrong in words that may be shown, and goes on by itself when they do.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct UnwillingServersTests {
  /// The issue's promise: so soon after its servers' return the worker has recovered by itself.
  private static let recoveryLimit = Duration.seconds(5)

  @Test func aFullServerIsReportedAsFullAndUsedOnceItIsNot() async throws {
    let stage = try await WorkerStage.set()
    let role = "crowded_\(stage.redis.port)"
    try await stage.plane.sql(
      "CREATE ROLE \(role) LOGIN IN ROLE pg_read_all_data, pg_write_all_data CONNECTION LIMIT 0")
    let url = try await stage.environment["DATABASE_URL"]?.replacingOccurrences(of: "//postgres@", with: "//\(role)@")
    let worker = try await stage.start(["DATABASE_URL": try #require(url)])
    try await onLoop {
      let full = #"{"status":"not_ready","failing":{"postgres":"too many connections (SQLSTATE 53300)"}}"#
      try await eventually("it says so") { try await worker.get("/readyz").body == full }
      try await stage.plane.sql("ALTER ROLE \(role) CONNECTION LIMIT -1")
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(worker.log.count { $0.message == "PostgreSQL is unavailable" } == 1, "once a change, not once a try")
    let lines = worker.log.drop { $0.message == "starting" }
    #expect(!lines.contains { $0.text.contains(role) }, "what the server said about the role is not told")
    try await stage.plane.sql("DROP ROLE \(role)")
  }

  /// Pings are shorter than a batch.
  @Test func aServerThatLongStatementsDoNotReachIsNotReadyUntilTheyDo() async throws {
    let stage = try await WorkerStage.set()
    let server = try await PrivatePostgres.shared
    let proxy = try FaultProxy(to: UInt16(server.port))
    let url = stage.plane.url.replacingOccurrences(of: ":\(server.port)/", with: ":\(proxy.port)/")
    let worker = try await stage.start(["DATABASE_URL": url])
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      // New connections send whole statements, not the names of prepared ones.
      proxy.set(.holdBack(overBytes: 1_200), .toServer)
      proxy.resetConnections()
      try await eventually("it says so", within: .seconds(60)) {
        try await worker.get("/readyz").body.contains("statements get no answer though pings do")
      }
      // It stays so: pings prove nothing now.
      for _ in 0..<20 {
        #expect(await worker.status(of: "/readyz") == 503)
        try await LoopClock.system.sleep(for: .milliseconds(100))
      }
      proxy.heal()
      try await worker.answersReadyz(200, within: .seconds(20))
      let runs = try await worker.runs("agents-stale", "success")
      try await eventually("it sweeps again") { try await worker.runs("agents-stale", "success") > runs }
    }
    #expect(try await worker.stop() == .exited(0))
    let changes = worker.log.filter { $0.message?.hasPrefix("PostgreSQL is ") ?? false }
    let losses = changes.count { $0["error"]?.hasPrefix("statements get no answer") ?? false }
    #expect(losses == 1, "\(changes.map { $0.text })")
    proxy.stop()
  }

  /// Acts as an administrator who ends all idle sessions, or as a server's idle_session_timeout.
  @Test func idleSessionsThatTheServerEndsAreReplacedAndNobodyNotices() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(Dictionary(uniqueKeysWithValues: Self.intervals.map { ($0, "1h") }))
    try await onLoop {
      try await worker.answersReadyz(200)
      for _ in 0..<3 {
        try await eventually("a session was ended") {
          #expect(await worker.status(of: "/readyz") == 200)
          let ended = try await stage.plane.sql(
            """
            SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'secrets-bridge-worker%'
              AND state = 'idle' AND state_change < clock_timestamp() - interval '20 ms'
            """)
          return ended != "0"
        }
        #expect(await worker.status(of: "/readyz") == 200)
      }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.log.contains { $0.level == "ERROR" || $0.message == "PostgreSQL is unavailable" })
  }

  private static let intervals = [
    "SB_WORKER_WRAPS_EXPIRED_INTERVAL", "SB_WORKER_SECRETS_STALE_INTERVAL", "SB_WORKER_AGENTS_STALE_INTERVAL",
    "SB_WORKER_JOBS_RECOVERY_INTERVAL",
  ]

  @Test func aStandbyIsSweptAsSoonAsItIsPromoted() async throws {
    let server = try await PrivatePostgres.start()
    let redis = try PrivateRedis()
    let schema = try ControlPlane.schema()
    try await server.psql(schema)
    try await server.psql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('a', '', now() - interval '1 day')")
    try await server.demote()
    let worker = try await WorkerProcess.started([
      "DATABASE_URL": server.url(), "REDIS_URL": redis.url, "SB_WORKER_LEASE": "3s",
      "SB_WORKER_AGENTS_STALE_INTERVAL": "500ms",
    ])
    try await onLoop {
      let readOnly = #"{"status":"not_ready","failing":{"postgres":"the database is read-only"}}"#
      try await eventually("it says why") { try await worker.get("/readyz").body == readOnly }
      #expect(await worker.status(of: "/readyz") == 503)
      try await server.psql("SELECT pg_promote()")
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
    }
    #expect(try await server.psql("SELECT status FROM agents").contains("stale"))
    #expect(try await worker.stop() == .exited(0))
    let lines = worker.log.filter { $0.message == "PostgreSQL is unavailable" }
    #expect(lines.map { $0["error"] } == ["the database is read-only"])
    await server.stop()
  }

  @Test func aServerThatBreaksOffInMidHandshakeIsAskedAgain() async throws {
    let stage = try await WorkerStage.set()
    // PostgreSQL's answer to the start-up is about 400 bytes.
    stage.postgresProxy.set(.cut(afterBytes: 200), .toClient)
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it says that it is not ready") {
        // Reset or closed, as the network has it.
        let body = try await worker.get("/readyz").body
        return body.contains("not_ready") && body.contains(#""postgres":""#) && !body.contains("127.0.0.1")
      }
      stage.postgresProxy.heal()
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
    }
    #expect(try await worker.stop() == .exited(0))
  }

  /// What makes a Redis refuse writes, what ends that, and what is said meanwhile.
  struct Refusal: Sendable, CustomTestStringConvertible {
    let begin: [String]
    let end: [String]
    let reason: String

    var testDescription: String { reason }

    static let all = [
      Refusal(
        begin: ["REPLICAOF", "127.0.0.1", "1"], end: ["REPLICAOF", "NO", "ONE"],
        reason: "the server is a read-only replica (READONLY)"),
      Refusal(
        begin: ["CONFIG", "SET", "maxmemory", "1"], end: ["CONFIG", "SET", "maxmemory", "0"],
        reason: "the server is out of memory and refuses writes (OOM)"),
      Refusal(
        begin: ["ACL", "SETUSER", "default", "-@scripting"], end: ["ACL", "SETUSER", "default", "+@scripting"],
        reason: "the user may not run evalsha (NOPERM)"),
    ]

    var notReady: String { #"{"status":"not_ready","failing":{"redis":"\#(reason)"}}"# }
  }

  @Test(arguments: Refusal.all)
  func aRedisThatRefusesWritesFromTheStartIsReportedOnceAndEachSlotIsAFailure(refusal: Refusal) async throws {
    let stage = try await WorkerStage.set()
    try stage.redis.cli(refusal.begin)
    let endpoint = try await Endpoint.start(.http)
    let worker = try await stage.start(["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "1s"])
    try await onLoop {
      try await eventually("it says so") { try await worker.get("/readyz").body == refusal.notReady }
      try await eventually("each slot counts", within: .seconds(20)) {
        try await worker.runs("agents-stale", "failure") >= 4
      }
      #expect(try await worker.metric("worker_redis_connected") == 0)
      try await eventually("people are told") {
        endpoint.received.contains { $0["body"]?.contains("Redis is unavailable") ?? false }
      }
      try stage.redis.cli(refusal.end)
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
    }
    #expect(try await worker.stop() == .exited(0))
    let lines = worker.log.compactMap(\.message).filter { $0.hasPrefix("Redis is") }
    #expect(lines == ["Redis is unavailable", "Redis is ready"], "one outage, one line, and one for its end")
    #expect(endpoint.received.count { $0["body"]?.contains("Redis is unavailable") ?? false } == 1)
  }

  @Test(arguments: Refusal.all)
  func aRedisThatBeginsToRefuseWritesIsOneOutage(refusal: Refusal) async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      try stage.redis.cli(refusal.begin)
      // Nobody asks /readyz: the sweepers find out.
      try await eventually("it is found out") { worker.log.contains { $0.message == "Redis is unavailable" } }
      let failures = try await worker.runs("agents-stale", "failure")
      try await eventually("each slot counts", within: .seconds(20)) {
        try await worker.runs("agents-stale", "failure") >= failures + 3
      }
      #expect(try await worker.get("/readyz").body == refusal.notReady)
      try stage.redis.cli(refusal.end)
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
    }
    #expect(try await worker.stop() == .exited(0))
    let lines = worker.log.compactMap(\.message).filter { $0.hasPrefix("Redis is") }
    #expect(lines == ["Redis is ready", "Redis is unavailable", "Redis is ready"])
  }

  @Test func aClusterNodeIsRefusedWithWhatToDo() async throws {
    let stage = try await WorkerStage.set(redis: try PrivateRedis(settings: ["cluster-enabled yes"]))
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it says so") {
        let body = try await worker.get("/readyz").body
        return body.contains("the URL leads to a Redis Cluster node: write redis+cluster://HOST:PORT")
      }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(worker.log.count { $0.message == "Redis is unavailable" } == 1)
  }

  @Test func aRedisThatClosesIdleConnectionsIsNoOutage() async throws {
    let stage = try await WorkerStage.set(redis: try PrivateRedis(settings: ["timeout 1"]))
    let hourly = Dictionary(uniqueKeysWithValues: Self.intervals.map { ($0, "1h") })
    let worker = try await stage.start(hourly.merging(["LOG_LEVEL": "debug"]) { $1 })
    try await onLoop {
      try await worker.answersReadyz(200)
      try await eventually("its connections were closed", within: .seconds(20)) {
        worker.log.count { $0.message == "idle Redis connection closed" } >= 2
      }
      #expect(await worker.status(of: "/readyz") == 200)
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(worker.log.compactMap(\.message).filter { $0.hasPrefix("Redis is") } == ["Redis is ready"])
  }

  @Test func aLockWithoutExpiryIsNamedAndCountsAsFailures() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let key = WorkerStage.lockKey("wraps-expired")
    try stage.redis.cli("SET", key, "for-ever")
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("its slots count as failures") { try await worker.runs("wraps-expired", "failure") >= 2 }
      #expect(try stage.redis.cli("GET", key) == "for-ever")
      try stage.redis.cli("DEL", key)
      try await eventually("it sweeps") { try await worker.runs("wraps-expired", "success") > 0 }
    }
    #expect(try await worker.stop() == .exited(0))
    let warnings = worker.log.filter { $0["error"] == "the lock has no expiry" }
    #expect(warnings.count == 1 && warnings.first?["key"] == key)
  }

  @Test(.enabled("takes the right to mount") { await OwnMounts.arePermitted() })
  func aNameServerThatHangsHoldsUpNothingElse() async throws {
    let stage = try await WorkerStage.set()
    let names = try ScratchNames()
    var environment = try await stage.environment
    for name in ["DATABASE_URL", "REDIS_URL"] {
      environment[name] = environment[name]?.replacingOccurrences(of: "127.0.0.1", with: "server.example.test")
    }
    let worker = try await OwnMounts.start(environment: environment, after: names.mounting)
    try await onLoop {
      try await eventually("it is up") { await worker.status(of: "/healthz") == 200 }
      try await eventually("it says that nobody tells the addresses") {
        #expect(try await worker.get("/healthz", within: .seconds(1)).status == 200)
        #expect(try await worker.get("/metrics", within: .seconds(1)).status == 200)
        let body = try await worker.get("/readyz").body
        return body.contains(#""postgres":"timed out resolving the host's name""#) && body.contains(#""redis":"#)
      }
      try names.tell("127.0.0.1 server.example.test")
      try await worker.answersReadyz(200)
    }
    #expect(try await worker.stop() == .exited(0))
  }

  /// libpq by itself would go to the address, whatever the host is.
  @Test func anAddressOfTheEnvironmentIsNotTakenForASocketOfTheURL() async throws {
    let server = try await PrivatePostgres.shared
    let redis = try PrivateRedis()
    let worker = try await WorkerProcess.start(environment: [
      "DATABASE_URL": "host=\(server.socketDirectory) port=\(server.port) user=postgres dbname=postgres",
      "REDIS_URL": redis.url, "PGHOSTADDR": "192.0.2.1",
    ])
    try await onLoop { try await worker.answersReadyz(200) }
    let local = "usename = 'postgres' AND client_addr IS NULL AND application_name LIKE 'secrets-bridge-worker%'"
    #expect(try await server.psql("SELECT count(*) > 0 FROM pg_stat_activity WHERE \(local)") == "t")
    #expect(try await worker.stop() == .exited(0))
  }

  @Test(.enabled("only where there is IPv6") { hasLoopbackIPv6() })
  func everythingMayBeOnIPv6Alone() async throws {
    let server = try await PrivatePostgres.start(settings: ["listen_addresses=127.0.0.1,::1"])
    let redis = try PrivateRedis(settings: ["bind 127.0.0.1 ::1"])
    let schema = try ControlPlane.schema()
    try await server.psql(schema)
    let address = "[::1]:\(try freePort())"
    let worker = try await WorkerProcess.start(environment: [
      "DATABASE_URL": server.url().replacingOccurrences(of: "127.0.0.1", with: "[::1]"),
      "REDIS_URL": "redis://[::1]:\(redis.port)", "SB_WORKER_LOCAL_ADDR": address,
    ])
    try await onLoop {
      try await eventually("it is ready, and probes itself there") {
        let probe = try await WorkerProcess.start(["probe"], environment: ["SB_WORKER_LOCAL_ADDR": address])
        return try await probe.waitForExit() == .exited(0)
      }
    }
    #expect(try await worker.stop() == .exited(0))
    await server.stop()
  }
}

/// A resolv.conf whose name server never answers, and a hosts file that can be told an address later.
private final class ScratchNames: Sendable {
  private let directory: URL
  private let silent: Int32

  init() throws {
    directory = FileManager.default.temporaryDirectory.appendingPathComponent("names-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    let server = try bindSilentNameServer()
    silent = server.descriptor
    try "nameserver \(server.address)\n".write(to: file("resolv.conf"), atomically: false, encoding: .utf8)
    try tell("127.0.0.1 localhost")
  }

  deinit {
    close(silent)
    // A directory that stays behind is no fault of the test.
    try? FileManager.default.removeItem(at: directory)
  }

  var mounting: String {
    ["resolv.conf", "hosts"].map { "mount --bind \(file($0).path) /etc/\($0)" }.joined(separator: " && ")
  }

  func tell(_ line: String) throws {
    try (line + "\n").write(to: file("hosts"), atomically: false, encoding: .utf8)
  }

  private func file(_ name: String) -> URL { directory.appendingPathComponent(name) }
}
