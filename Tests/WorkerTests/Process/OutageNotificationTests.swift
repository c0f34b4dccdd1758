// The notifications of two replicas about their servers' outages. Each replica has its own endpoint.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct OutageNotificationTests {
  /// Two replicas that have swept, and their endpoints.
  private struct Fleet {
    let stage: WorkerStage
    let endpoints: [Endpoint]
    let workers: [WorkerProcess]

    static func start() async throws -> Fleet {
      let stage = try await WorkerStage.set()
      try stage.settle()
      let endpoints = [try await Endpoint.start(.https), try await Endpoint.start(.https)]
      var workers: [WorkerProcess] = []
      for endpoint in endpoints {
        workers.append(
          try await stage.start([
            "SB_WORKER_NOTIFY_CA_FILE": try await TestAuthority.shared().certificateFile,
            "SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "1s",
          ]))
      }
      return Fleet(stage: stage, endpoints: endpoints, workers: workers)
    }

    /// How many messages that contain `text` each replica sent.
    func count(_ text: String) -> [Int] {
      endpoints.map { $0.received.count { $0["body"]?.contains(text) == true } }
    }

    @EventLoop
    func sum(_ text: String, is expected: Int) async throws {
      try await eventually("\(expected) of: \(text)", within: .seconds(15)) { count(text).reduce(0, +) == expected }
    }
  }

  @Test func anOutageOfPostgresIsReportedOnceAndNotAsAFailureOfSweepers() async throws {
    let fleet = try await Fleet.start()
    try await onLoop {
      for worker in fleet.workers { try await worker.answersReadyz(200) }
      fleet.stage.postgresProxy.goAway()
      try await fleet.sum("PostgreSQL is unavailable", is: 1)
      // Both replicas have seen the outage for longer than SB_WORKER_OUTAGE_AFTER.
      for worker in fleet.workers {
        try await eventually("each replica noticed") {
          worker.log.contains { $0.message == "PostgreSQL is unavailable" }
        }
      }
      fleet.stage.postgresProxy.heal()
      try await fleet.sum("PostgreSQL is available again", is: 1)
      for worker in fleet.workers { try await worker.answersReadyz(200) }
    }
    for worker in fleet.workers { #expect(try await worker.stop() == .exited(0)) }
    #expect(fleet.count("PostgreSQL is unavailable").reduce(0, +) == 1)
    #expect(fleet.count("PostgreSQL is available again").reduce(0, +) == 1)
    for sweeper in WorkerStage.sweepers { #expect(fleet.count(sweeper) == [0, 0], "\(sweeper) was blamed") }
  }

  @Test func ifTheReplicaThatReportedIsKilledAnotherReportsTheEndAndTheNextOutage() async throws {
    let fleet = try await Fleet.start()
    try await onLoop {
      for worker in fleet.workers { try await worker.answersReadyz(200) }
      fleet.stage.postgresProxy.goAway()
      try await fleet.sum("PostgreSQL is unavailable", is: 1)
      let reporter = try #require(fleet.count("PostgreSQL is unavailable").firstIndex(of: 1))
      fleet.workers[reporter].signal(SIGKILL)
      _ = try await fleet.workers[reporter].waitForExit()
      fleet.stage.postgresProxy.heal()
      try await fleet.sum("PostgreSQL is available again", is: 1)
      fleet.stage.postgresProxy.goAway()
      try await fleet.sum("PostgreSQL is unavailable", is: 2)
      fleet.stage.postgresProxy.heal()
      try await fleet.sum("PostgreSQL is available again", is: 2)
      #expect(try await fleet.workers[1 - reporter].stop() == .exited(0))
    }
  }

  @Test func aReplicaThatStartsAfterAnOutageReportsTheEndForADeadOne() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let endpoint = try await Endpoint.start(.http)
    let settings = ["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "1s"]
    func reported(_ text: String) -> Int { endpoint.received.count { $0["body"]?.contains(text) == true } }
    let first = try await stage.start(settings)
    try await onLoop {
      try await first.answersReadyz(200)
      stage.postgresProxy.goAway()
      try await eventually("it is reported", within: .seconds(15)) { reported("PostgreSQL is unavailable") == 1 }
    }
    first.signal(SIGKILL)
    _ = try await first.waitForExit()
    stage.postgresProxy.heal()
    let second = try await stage.start(settings)
    try await onLoop {
      try await eventually("its end is reported", within: .seconds(15)) {
        reported("PostgreSQL is available again") == 1
      }
    }
    #expect(try await second.stop() == .exited(0))
    #expect(reported("PostgreSQL is unavailable") == 1 && reported("PostgreSQL is available again") == 1)
  }

  @Test func aRunThatHangsWithItsServerIsNotAFailureOfItsSweeper() async throws {
    let stage = try await WorkerStage.set()
    let endpoint = try await Endpoint.start(.http)
    // A lease that is not lost on a busy machine.
    let worker = try await stage.startStuck([
      "SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "1s", "SB_WORKER_LEASE": "6s",
    ])
    try await onLoop {
      stage.postgresProxy.set(.blackHole)
      try await eventually("the run has failed", within: .seconds(15)) {
        worker.log.contains { $0["title"] == "delete expired wraps failed" }
      }
      try await eventually("the outage is reported", within: .seconds(15)) {
        endpoint.received.contains { $0["body"]?.contains("PostgreSQL is unavailable") == true }
      }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(!endpoint.received.contains { $0["body"]?.contains("wraps-expired") == true })
  }

  @Test func eachReplicaReportsAnOutageOfRedisOnce() async throws {
    let fleet = try await Fleet.start()
    try await onLoop {
      for worker in fleet.workers { try await worker.answersReadyz(200) }
      fleet.stage.redisProxy.goAway()
      try await eventually("each reports it", within: .seconds(15)) { fleet.count("Redis is unavailable") == [1, 1] }
      fleet.stage.redisProxy.heal()
      try await eventually("each reports its end", within: .seconds(15)) {
        fleet.count("Redis is available again") == [1, 1]
      }
    }
    for worker in fleet.workers { #expect(try await worker.stop() == .exited(0)) }
    #expect(fleet.count("Redis is unavailable") == [1, 1] && fleet.count("Redis is available again") == [1, 1])
  }

  @Test func anOutageShorterThanOutageAfterIsNotReported() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let endpoint = try await Endpoint.start(.http)
    let worker = try await stage.start([
      "SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "30s",
    ])
    try await onLoop {
      try await worker.answersReadyz(200)
      stage.postgresProxy.goAway()
      try await worker.answersReadyz(503)
      stage.postgresProxy.heal()
      try await worker.answersReadyz(200)
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(!endpoint.received.contains { $0["body"]?.contains("PostgreSQL") == true })
  }
}
