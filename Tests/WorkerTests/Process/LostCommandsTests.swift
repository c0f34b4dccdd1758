// The worker and a Redis that answers, and not what matters: it ends the connection under the worker's commands, or
// refuses those of one sweeper.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct LostCommandsTests {
  private static let reason =
    "the server closes the connection when commands are sent"
    + " (see its client-output-buffer-limit and maxmemory-clients, its log, and proxies on the way)"
  private static let record = "secrets-bridge:schedule:{\(WorkerStage.lockKey("wraps-expired"))}"

  /// A limit under which all answers of scripts end the connection, and one under which a single sweeper's does.
  struct Limit: Sendable, CustomTestStringConvertible {
    let value: String
    let recordByteCount: Int
    var testDescription: String { value }

    static let all = [
      Limit(value: "normal 1024 512 1", recordByteCount: 0),
      Limit(value: "normal 32768 32768 60", recordByteCount: 40_000),
    ]
  }

  @Test(arguments: Limit.all)
  func aLimitOnAnswersIsOneOutageThatNamesItAndEndsWithIt(limit: Limit) async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let endpoint = try await Endpoint.start(.http)
    let worker = try await stage.start(["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "2s"])
    let notReady = #"{"status":"not_ready","failing":{"redis":"\#(Self.reason)"}}"#
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      if limit.recordByteCount > 0 {
        try stage.redis.cli("HSET", Self.record, "progress", String(repeating: "x", count: limit.recordByteCount))
      }
      try stage.redis.cli("CONFIG", "SET", "client-output-buffer-limit", limit.value)
      try await eventually("it says why", within: .seconds(20)) { try await worker.get("/readyz").body == notReady }
      try await eventually("people are told", within: .seconds(20)) {
        endpoint.received.contains { $0["body"]?.contains("Redis is unavailable") ?? false }
      }
      for _ in 0..<60 {
        #expect(await worker.status(of: "/readyz") == 503)
        try await LoopClock.system.sleep(for: .milliseconds(50))
      }
      #expect(try await worker.metric("worker_redis_connected") == 0)
      try stage.redis.cli("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
      try await worker.answersReadyz(200)
      let before = try await worker.runs("wraps-expired", "success")
      try await eventually("it sweeps again") { try await worker.runs("wraps-expired", "success") > before }
      try await eventually("its end is told") {
        endpoint.received.contains { $0["body"]?.contains("Redis is available again") ?? false }
      }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(endpoint.received.count { $0["body"]?.contains("Redis is unavailable") ?? false } == 1)
    let lines = worker.log.filter { $0.message == "Redis is unavailable" }
    #expect(lines.count <= 4 && lines.last?["error"] == Self.reason, "\(lines)")
  }

  @Test func aRecordOfAnotherTypeStopsItsSweeperAloneAndIsNamed() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try stage.redis.cli("SET", Self.record, "a string")
    let endpoint = try await Endpoint.start(.http)
    let worker = try await stage.start(["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook"), "SB_WORKER_OUTAGE_AFTER": "1s"])
    try await onLoop {
      try await eventually("its slots count as failures", within: .seconds(20)) {
        try await worker.runs("wraps-expired", "failure") >= 2
      }
      try await eventually("people are told") {
        endpoint.received.contains { $0["body"]?.contains("Redis refuses its commands") ?? false }
      }
      let before = try await worker.runs("agents-stale", "success")
      try await eventually("others are swept") { try await worker.runs("agents-stale", "success") > before + 1 }
      try await worker.answersReadyz(200)
      try stage.redis.cli("DEL", Self.record)
      try await eventually("it is swept", within: .seconds(20)) {
        try await worker.runs("wraps-expired", "success") > 0
      }
      try await eventually("its end is told") {
        endpoint.received.contains { $0["body"]?.contains("wraps-expired recovered") ?? false }
      }
    }
    #expect(try await worker.stop() == .exited(0))
    let lines = worker.log.filter { $0.message?.hasPrefix("Redis refuses this sweeper's commands") ?? false }
    #expect(lines.count == 1 && lines.first?["task"] == "wraps-expired" && lines.first?["key"] == Self.record)
    #expect(lines.first?["error"] == "a key holds another type of value (WRONGTYPE)")
    #expect(!worker.log.contains { $0.message?.hasPrefix("Redis does not answer") ?? false })
    #expect(!worker.log.contains { $0.message == "Redis is unavailable" })
    let reported = endpoint.received.filter { $0["body"]?.contains("Redis refuses its commands") ?? false }
    #expect(reported.count == 1 && reported.first?["body"]?.contains("WRONGTYPE") ?? false)
  }
}
