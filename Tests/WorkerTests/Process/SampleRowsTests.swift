// `run --once --force --table` on the sample rows, as scripts/run has it: every sweeper at work, on every schema.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct SampleRowsTests {
  private static let everything = [
    "SB_DISCOVER_TARGETS_JSON": #"[{"name": "a", "cluster": "b", "provider_type": "c"}]"#,
    "SB_WORKER_REQUESTS_EXPIRED_INTERVAL": "1m", "SB_WORKER_QUEUE_ALERT_AFTER": "5s", "SB_WORKER_AUDIT_EVENTS": "true",
    "SB_WORKER_JOBS_RECOVERY_ACTION": "requeue", "SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS": "3",
    "SB_WORKER_RETAIN_SESSIONS": "720h", "SB_WORKER_RETAIN_ENROLLMENT_TOKENS": "720h",
    "SB_WORKER_RETAIN_REVEAL_SESSIONS": "720h", "SB_WORKER_RETAIN_JOBS": "720h",
    "SB_WORKER_RETAIN_SECRETS_MISSING": "720h", "SB_WORKER_LEASE": "3s",
  ]

  private struct Line {
    let sweeper: String
    let found: String
    let outcome: String

    init(_ line: Substring) {
      let cells = line.split(separator: " ", maxSplits: 4).map(String.init)
      (sweeper, found, outcome) = (cells[0], cells[1], cells[4].trimmingCharacters(in: .whitespaces))
    }
  }

  private func table(at migration: DevelopmentSchema) async throws -> [Line] {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(try migration.sampleRows)
    let redis = try PrivateRedis()
    let worker = try await WorkerProcess.start(
      ["run", "--once", "--force", "--table"],
      environment: Self.everything.merging(["DATABASE_URL": plane.url, "REDIS_URL": redis.url]) { $1 })
    try await worker.waitForExit(within: .seconds(30))
    #expect(worker.ending == .exited(0), "\(worker.everything)")
    return worker.output.split(separator: "\n").dropFirst().map(Line.init)
  }

  @Test(arguments: DevelopmentSchema.allCases)
  func everySweeperHasALineThatSaysWhatItFoundOrWhyItIsOff(migration: DevelopmentSchema) async throws {
    let lines = try await table(at: migration)
    #expect(lines.map(\.sweeper) == Sweepers.names)
    for line in lines where !line.outcome.hasPrefix("off: ") {
      #expect(line.outcome == "success", "\(line)")
      // The schema's first migrations have no rows for these.
      let mayFindNone = migration != .newest && ["jobs-retention", "secrets-missing-retention"].contains(line.sweeper)
      #expect(Int(line.found) ?? 0 > 0 || mayFindNone, "\(line)")
    }
    let off = lines.filter { $0.outcome.hasPrefix("off: ") }
    #expect(off.last?.sweeper == "gitops-observations-retention")
    #expect(off.last?.outcome == "off: SB_WORKER_RETAIN_GITOPS_OBSERVATIONS=off")
    let missing = off.filter { $0.outcome.hasPrefix("off: no table ") || $0.outcome.hasPrefix("off: no column ") }
    let lacking: [DevelopmentSchema: Int] = [.eleven: 8, .twentyEight: 1, .thirtyEight: 0]
    #expect(missing.count == lacking[migration], "\(missing)")
  }
}
