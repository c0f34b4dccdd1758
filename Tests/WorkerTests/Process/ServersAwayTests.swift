// The worker as a process while its servers are down, hang or drop connections: it stays up, reports it and recovers.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct ServersAwayTests {
  /// The issue's promise: so soon after its servers' return the worker has recovered by itself.
  private static let recoveryLimit = Duration.seconds(5)

  @Test func bootsWithServersAwayAndIsReadySoonAfterTheyCome() async throws {
    let stage = try await WorkerStage.set()
    stage.postgresProxy.admission = .refuse
    stage.redisProxy.admission = .refuse
    let worker = try await stage.start()
    try await onLoop {
      let away = #"{"status":"not_ready","failing":{"postgres":"connection refused","redis":"connection refused"}}"#
      try await eventually("it says what is away") { try await readyz(worker).body == away }
      #expect(try await readyz(worker).status == 503)
      #expect(await worker.status(of: "/healthz") == 200)
      stage.postgresProxy.heal()
      stage.redisProxy.heal()
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
    }
    #expect(try await worker.stop() == .exited(0))
    let messages = worker.log.compactMap(\.message)
    #expect(
      messages.contains("not ready") && messages.contains("PostgreSQL is ready") && messages.contains("Redis is ready"))
    #expect(messages.count { $0 == "PostgreSQL is unavailable" } == 1, "once a change, not once a try")
    #expect(messages.count { $0 == "Redis is unavailable" } == 1, "once a change, not once a try")
  }

  @Test(arguments: ["postgres", "redis"])
  func oneServerThatGoesIsNamedAloneAndFoundAgain(server: String) async throws {
    let stage = try await WorkerStage.set()
    let proxy = server == "postgres" ? stage.postgresProxy : stage.redisProxy
    let worker = try await stage.start()
    try await onLoop {
      try await worker.answersReadyz(200)
      proxy.goAway()
      let away = #"{"status":"not_ready","failing":{"\#(server)":"connection refused"}}"#
      try await eventually("it says which is away") { try await readyz(worker).body == away }
      proxy.heal()
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
    }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func serversThatHangFromTheBeginningTimeOutAndTheProbesAnswerThroughout() async throws {
    let stage = try await WorkerStage.set()
    stage.postgresProxy.set(.blackHole)
    stage.redisProxy.set(.blackHole)
    let worker = try await stage.start(["REDIS_DIAL_TIMEOUT": "1s", "DATABASE_CONNECT_TIMEOUT": "1s"])
    try await onLoop {
      let hang = #"{"status":"not_ready","failing":{"postgres":"timed out connecting","redis":"timed out"}}"#
      try await eventually("it says that they hang") {
        // Each within its own limit, or `get` throws: the loop is never held up.
        #expect(try await worker.get("/healthz", within: .seconds(1)).status == 200)
        #expect(try await worker.get("/metrics", within: .seconds(1)).status == 200)
        return try await readyz(worker).body == hang
      }
      stage.postgresProxy.heal()
      stage.redisProxy.heal()
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
    }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func frozenServersAreDistinguishedFromAbsentOnesInMidRunAndSweepingContinues() async throws {
    let server = try await PrivatePostgres.start()
    let redis = try PrivateRedis()
    let schema = try ControlPlane.schema()
    try await server.psql(schema)
    let worker = try await WorkerProcess.started([
      "DATABASE_URL": server.url(), "REDIS_URL": redis.url, "REDIS_DIAL_TIMEOUT": "1s", "SB_WORKER_LEASE": "3s",
      "SB_WORKER_AGENTS_STALE_INTERVAL": "500ms",
    ])
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      server.pause()
      redis.pause()
      try await eventually("it says that they hang") {
        #expect(try await worker.get("/healthz", within: .seconds(1)).status == 200)
        let answer = try await readyz(worker)
        return answer.body.contains(#""postgres":"timed out"#) && answer.body.contains(#""redis":"#)
          && !answer.body.contains("refused")
      }
      let before = try await worker.runs("agents-stale", "success")
      server.resume()
      redis.resume()
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
      try await eventually("it sweeps again") { try await worker.runs("agents-stale", "success") > before }
    }
    #expect(try await worker.stop() == .exited(0))
    await server.stop()
  }

  @Test func aRunThatLosesPostgreSQLIsAFailureAndTheNextOneGoesOn() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.startStuck()
    try await onLoop {
      stage.postgresProxy.resetConnections()
      try await eventually("it failed") { try await worker.runs("wraps-expired", "failure") >= 1 }
      try await stage.plane.sql("DROP TRIGGER wait ON secret_wraps")
      try await eventually("another run did it") {
        try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0"
      }
    }
    #expect(try await worker.stop() == .exited(0))
    let failure = try #require(worker.log.first { $0["title"] == "delete expired wraps failed" })
    #expect(failure.level == "ERROR" && failure["task"] == "wraps-expired" && failure["error"] != nil)
  }

  /// An outage is logged once when it begins and once when it ends. The runs that it prevents are counted.
  @Test func anOutageOfPostgreSQLIsLoggedOnceAndStatusShowsTheRunsThatItPrevents() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start(["LOG_LEVEL": "debug"])
    // Not through the proxy: it can use the server.
    let environment = try await stage.environment.merging(["DATABASE_URL": stage.plane.url]) { $1 }
    let status = try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      stage.postgresProxy.goAway()
      try await eventually("each sweeper has failed twice", within: .seconds(30)) {
        for sweeper in WorkerStage.sweepers where try await worker.runs(sweeper, "failure") < 2 { return false }
        return true
      }
      let status = try await WorkerProcess.start(["status"], environment: environment)
      #expect(try await status.waitForExit() == .exited(2), "\(status.everything)")
      stage.postgresProxy.heal()
      try await worker.answersReadyz(200, within: Self.recoveryLimit)
      let before = try await worker.runs("agents-stale", "success")
      try await eventually("it sweeps again") { try await worker.runs("agents-stale", "success") > before }
      return status.output
    }
    #expect(try await worker.stop() == .exited(0))
    for sweeper in WorkerStage.sweepers {
      #expect(status.contains(try Regex("\n\(sweeper) +failing ")), "\(status)")
      #expect(status.contains(try Regex("\n\(sweeper): PostgreSQL was unavailable to the last [0-9]+ runs\n")))
    }
    let shown = worker.log.filter { ($0.level ?? "") > "DEBUG" }.compactMap(\.message)
    #expect(shown.count { $0 == "PostgreSQL is unavailable" } == 1 && !shown.contains("scheduler: task failed"))
    let failures = worker.log.filter { $0.message == "scheduler: task failed" }
    #expect(Set(failures.compactMap { $0["task"] }) == Set(WorkerStage.sweepers))
    #expect(failures.allSatisfy { $0["error"] != nil && $0["title"] != nil })
  }

  private func readyz(_ worker: WorkerProcess) async throws -> HTTPAnswer {
    // Its own deadline is 2 s a server.
    try await worker.get("/readyz", within: .seconds(4))
  }
}
