// The progress of a sweep, which the schedule record on a real Redis carries from run to run.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct RunProgressTests {
  private func withReplica(_ body: @escaping @EventLoop @Sendable (Coordinator) async throws -> Void) async throws {
    let url = PrivateRedis.shared.url
    try await onLoop {
      let redis = RedisClient(try RedisConfiguration(url: url), clock: .system)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await redis.run() }
        let replica = Coordinator(
          redis: redis, redisClock: RedisClock(), clock: .system, namespace: "progress-\(Token.random(.system))",
          sweeper: "wraps-expired", interval: .seconds(60), leaseDuration: .milliseconds(1), replica: "replica")
        try await redis.waitUntilReady(by: LoopClock.system.now.advanced(by: .seconds(5)))
        try await body(replica)
        group.cancelAll()
      }
    }
  }

  @Test(arguments: [
    RunResult.success(SweepCount(progress: "page 5000")),
    .failure(RunFailure(reason: "failed", isPermanent: false), SweepCount(progress: "page 5000")),
    .drained(.shutdown, SweepCount(progress: "page 5000")),
  ])
  func theNextRunLearnsHowFarTheLastOneGot(result: RunResult) async throws {
    try await withReplica { replica in
      let first = try await replica.takeInAnyCase()
      #expect(first.progress == nil)
      _ = try await replica.complete(EndedRun(first, result))
      let second = try await replica.takeInAnyCase()
      #expect(second.progress == "page 5000")
    }
  }

  @Test func aRunWithoutProgressLeavesTheRecordUnchanged() async throws {
    try await withReplica { replica in
      let first = try await replica.takeInAnyCase()
      _ = try await replica.complete(EndedRun(first, .success(SweepCount(progress: "7"))))
      let second = try await replica.takeInAnyCase()
      _ = try await replica.complete(EndedRun(second, .success()))
      let third = try await replica.takeInAnyCase()
      #expect(third.progress == "7")
    }
  }

  @Test func aSupersededRunDoesNotChangeTheRecord() async throws {
    try await withReplica { replica in
      let late = try await replica.takeInAnyCase()
      let newer = try await replica.takeInAnyCase()
      _ = try await replica.complete(EndedRun(newer, .success(SweepCount(progress: "newer"))))
      _ = try await replica.complete(EndedRun(late, .success(SweepCount(progress: "late"))))
      let next = try await replica.takeInAnyCase()
      #expect(next.progress == "newer")
    }
  }
}
