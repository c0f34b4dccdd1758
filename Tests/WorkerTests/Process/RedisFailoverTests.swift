// The worker while its Redis fails over: a master, replicas and Sentinels, all real.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized) struct RedisFailoverTests {
  /// From the Sentinels' choice of a new master to the worker's readiness.
  private static let limit = Duration.seconds(3)

  @Test func sweepsContinueOnTheNewMasterWhetherTheOldOneIsKilledOrHangs() async throws {
    let redis = try await PrivateSentinels.start(replicas: 2)
    let plane = try await ControlPlane.fresh()
    // The first one that would be asked is not there.
    redis.sentinels[0].stop()
    let worker = try await WorkerProcess.started([
      "DATABASE_URL": plane.url, "REDIS_URL": redis.url, "SB_WORKER_LEASE": "3s",
      "SB_WORKER_AGENTS_STALE_INTERVAL": "500ms",
    ])
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      for end in ["killed", "frozen"] {
        let old = try #require(try redis.master())
        end == "killed" ? old.stop() : old.pause()
        try await eventually("the Sentinels choose another master", within: .seconds(30)) {
          guard let master = try redis.master() else { return false }
          return master !== old
        }
        try await worker.answersReadyz(200, within: Self.limit)
        let before = try await worker.runs("agents-stale", "success")
        try await eventually("it sweeps again", within: .seconds(15)) {
          try await worker.runs("agents-stale", "success") > before
        }
        old.resume()
      }
    }
    #expect(try await worker.stop() == .exited(0))
    let lines = worker.log.compactMap(\.message).filter { $0.hasPrefix("Redis is") }
    #expect(lines.filter { $0 == "Redis is ready" }.count >= 3 && lines.last == "Redis is ready")
  }
}
