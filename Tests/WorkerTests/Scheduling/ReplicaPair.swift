// Two replicas on a private Redis, for tests of operators' commands.

import Coordination
import Reactor
import TestSupport

@testable import Worker

/// Two replicas that attend agents-stale over one connection.
@EventLoop
struct ReplicaPair {
  nonisolated static let keys = CoordinationScripts.keys(namespace: "pair", sweeper: "agents-stale")

  let first: Coordinator
  let second: Coordinator
  let client: RedisClient
  let server: PrivateRedis

  /// The answer of a script on the sweeper's lock and record.
  func evaluate(_ script: RedisScript, _ arguments: [String]) async throws -> [RedisValue] {
    let answer = try await client.evaluate(
      script, keys: [Self.keys.lock, Self.keys.record], arguments: arguments,
      by: LoopClock.system.now.advanced(by: .seconds(2)))
    return answer.array ?? []
  }
}

/// Runs `body` with replicas named a and b, whose slots are `interval` apart.
func withReplicaPair(
  every interval: Duration, _ body: @escaping @EventLoop @Sendable (ReplicaPair) async throws -> Void
) async throws {
  let server = try await offLoop { try PrivateRedis() }
  try await onLoop {
    let client = RedisClient(try RedisConfiguration(url: server.url), clock: .system)
    @EventLoop func replica(_ name: String) -> Coordinator {
      Coordinator(
        redis: client, redisClock: RedisClock(), clock: .system, namespace: "pair", sweeper: "agents-stale",
        interval: interval, leaseDuration: .milliseconds(600), replica: name)
    }
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await client.run() }
      try await body(ReplicaPair(first: replica("a"), second: replica("b"), client: client, server: server))
      group.cancelAll()
    }
  }
  server.stop()
}
