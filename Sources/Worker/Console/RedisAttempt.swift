// A command's connection to Redis: one attempt, whose failure is reported and not retried.

import Reactor

extension RedisBackend {
  /// Waits until the first attempt to connect has succeeded or failed. `run` must be running.
  ///
  /// - Throws: `RedisError.notSent` with the reason.
  func firstConnection(by deadline: MonotonicInstant, on clock: LoopClock) async throws(RedisError) {
    let attempt = OneShot<ServerAvailability>()
    onStateChange = { attempt.fire($0) }
    switch await attempt.wait(until: deadline, on: clock) {
    case .ready: return
    case .unavailable(let reason): throw .notSent(reason)
    case nil: throw .notSent("timed out")
    }
  }
}

/// A command's use of Redis.
@EventLoop
struct RedisVisit {
  let configuration: RedisConfiguration
  let clock: LoopClock

  /// The settings that it needs.
  nonisolated static let rows = [Setting.redisURL.row, Setting.redisNamespace.row, Setting.redisDialTimeout.row]

  init(_ settings: Settings, clock: LoopClock) {
    var configuration = settings[.redisURL]
    configuration.dialTimeout = configuration.dialTimeout ?? settings[.redisDialTimeout]
    self.configuration = configuration
    self.clock = clock
  }

  /// Connects, and runs `body` with the connection.
  ///
  /// - Throws: `RedisError` if Redis cannot be reached, and what `body` throws.
  func use<Result: Sendable>(
    _ body: @escaping @EventLoop @Sendable (any RedisScripts) async throws -> Result
  ) async throws -> Result {
    let client = redisBackend(configuration, clock: clock)
    let limit = clock.now.advanced(
      by: (configuration.dialTimeout ?? RedisConfiguration.defaultDialTimeout) + .seconds(1))
    return try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await client.run() }
      defer { group.cancelAll() }
      try await client.firstConnection(by: limit, on: clock)
      return try await body(client)
    }
  }

  /// Why a Redis command failed, in an operator's terms, with the remedy for a missing right.
  nonisolated static func reason(_ error: any Error) -> String {
    guard let error = error as? RedisError else { return "\(error)" }
    return CertificateHint.added(to: error.publicReason)
  }
}
