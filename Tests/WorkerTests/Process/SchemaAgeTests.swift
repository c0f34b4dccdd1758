// The worker on schemas of any age: later sweepers that lack something are off, without a failure, and say so once.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct SchemaAgeTests {
  private static let name = "cross-team-fill-window-expired"
  private static let enabled = #"worker_sweeper_enabled{task="cross-team-fill-window-expired"}"#

  private static let on = ["SB_WORKER_CROSS_TEAM_FILL_EXPIRED_INTERVAL": "500ms"]

  private func offLines(_ worker: WorkerProcess) -> [WorkerProcess.LogLine] {
    worker.log.filter { $0["task"] == Self.name && ($0["msg"]?.hasPrefix("sweeper is off") ?? false) }
  }

  @Test func onceOnAnOldSchemaALaterSweeperIsOffAndNothingFails() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.plane.sql("DROP TABLE access_requests CASCADE")
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--force", "--table"], environment: stage.environment.merging(Self.on) { $1 })
    try await worker.waitForExit(within: .seconds(20))
    #expect(worker.ending == .exited(0))
    #expect(worker.output.contains("off: no table access_requests"), "\(worker.output)")
    #expect(offLines(worker).map { $0["missing"] } == ["table access_requests"])
    #expect(!worker.log.contains { $0["level"] == "ERROR" })
  }

  @Test func aColumnThatVanishesUnderAWorkerTurnsASweeperOffWithoutAFailure() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(Self.on)
    try await onLoop {
      try await eventually("it sweeps", within: .seconds(20)) { try await worker.runs(Self.name, "success") > 0 }
      #expect(try await worker.metric(Self.enabled) == 1)
      try await stage.plane.sql("ALTER TABLE access_requests DROP COLUMN fill_expires_at")
      try await eventually("it is off", within: .seconds(20)) { try await worker.metric(Self.enabled) == 0 }
    }
    #expect(offLines(worker).map { $0["missing"] } == ["column access_requests.fill_expires_at"])
    #expect(try await worker.runs(Self.name, "failure") == 0)
    #expect(try stage.redis.cli("EXISTS", WorkerStage.lockKey(Self.name)) == "0")
    worker.signal(SIGTERM)
    try await worker.waitForExit(within: .seconds(20))
  }

  @Test func offTurnsASweeperOffWithOneLine() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(["SB_WORKER_AGENTS_STALE_INTERVAL": "off"])
    #expect(try await worker.metric(#"worker_sweeper_enabled{task="agents-stale"}"#) == 0)
    #expect(try await worker.metric(#"worker_sweeper_enabled{task="wraps-expired"}"#) == 1)
    let line = try #require(worker.log.first { $0["msg"] == "starting" })
    #expect(line.text.contains(#""agents-stale":"off: SB_WORKER_AGENTS_STALE_INTERVAL=off""#), "\(line.text)")
    worker.signal(SIGTERM)
    try await worker.waitForExit(within: .seconds(20))
  }
}
