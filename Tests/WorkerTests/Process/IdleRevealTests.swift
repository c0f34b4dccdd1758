// What reveal-sessions-expired costs a worker while nothing is due.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct IdleRevealTests {
  private static let name = "reveal-sessions-expired"

  private static func voluntarySwitches(_ worker: WorkerProcess) throws -> Int {
    let status = try String(contentsOfFile: "/proc/\(worker.id)/status", encoding: .utf8)
    let line = status.split(separator: "\n").first { $0.hasPrefix("voluntary_ctxt_switches") }
    return try #require(line.flatMap { Int($0.split(separator: "\t")[1]) })
  }

  private static func scripts(_ redis: PrivateRedis) throws -> Int {
    let text = try redis.cli("INFO", "commandstats")
    let calls = text.firstMatch(of: /cmdstat_evalsha:calls=([0-9]+)/)
    return calls.flatMap { Int($0.output.1) } ?? 0
  }

  @Test func aSlotWithNothingDueIsTwoWakeUpsAndAsksNoRedis() async throws {
    let stage = try await WorkerStage.set()
    var settings = ["SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL": "300ms"]
    for name in ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE", "JOBS_RECOVERY"] {
      settings["SB_WORKER_\(name)_INTERVAL"] = "off"
    }
    let worker = try await stage.start(settings)
    try await onLoop {
      try await eventually("it sweeps", within: .seconds(20)) { try await worker.runs(Self.name, "success") > 2 }
    }
    let (slots, switches) = (try await worker.runs(Self.name, "success"), try Self.voluntarySwitches(worker))
    let scripts = try Self.scripts(stage.redis)
    try await onLoop {
      try await eventually("forty more slots", within: .seconds(40)) {
        // Each look at the metrics wakes the worker, too.
        try await LoopClock.system.sleep(for: .seconds(2))
        return try await worker.runs(Self.name, "success") >= slots + 40
      }
    }
    let attended = Int(try await worker.runs(Self.name, "success") - slots)
    let wakeUps = try Self.voluntarySwitches(worker) - switches
    print("\(attended) slots: \(wakeUps) wake-ups, \(try Self.scripts(stage.redis) - scripts) scripts")
    // Beside the slots: the metrics that this test asks for, and the servers' health.
    #expect(wakeUps <= attended * 2 + 45)
    #expect(try Self.scripts(stage.redis) - scripts <= 2)
    #expect(try await worker.stop() == .exited(0))
  }
}
