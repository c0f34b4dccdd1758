// Whether the worker is ready: checks both servers on request.
// Invariant: at most one check per server is in flight, a result up to a second old is reused, and every check ends by
// its deadline. No text names a host, user, database or password.

import Reactor

/// One server's result: nil if it is healthy, otherwise the reason.
typealias FailureReason = String

/// The worker's state as /readyz reports it.
@EventLoop
final class Readiness {
  enum State: Equatable, Sendable {
    case booting, ready, draining
    case notReady(failing: [String: FailureReason])
  }

  /// The time limit of a check of one server.
  static let checkLimit = Duration.seconds(2)

  private let postgres: Coalesced<FailureReason?>
  private let redis: Coalesced<FailureReason?>
  /// Whether both servers have been checked for the first time.
  private(set) var hasBooted = false
  private let shutdown: Shutdown

  init(pool: PostgresPool, redis: any RedisBackend, clock: LoopClock, shutdown: Shutdown) {
    self.shutdown = shutdown
    postgres = Coalesced(clock: clock) {
      do {
        try await pool.ping(by: clock.now.advanced(by: Self.checkLimit))
        // A server can answer pings and lose statements.
        return pool.outage
      } catch let error as PostgresError {
        return error.publicReason
      } catch {
        return "cancelled"
      }
    }
    self.redis = Coalesced(clock: clock) {
      do throws(RedisError) {
        try await redis.checkHealth(by: clock.now.advanced(by: Self.checkLimit))
        return nil
      } catch {
        return error.publicReason
      }
    }
  }

  /// Checks both servers for the first time. Until this has finished, the worker is booting.
  func boot() async -> State {
    let state = await ask()
    hasBooted = true
    return state
  }

  func state() async -> State {
    if let knownState { return knownState }
    return await ask()
  }

  /// The state if no check is needed to know it, otherwise nil.
  var knownState: State? {
    if shutdown.isDraining { return .draining }
    if !hasBooted { return .booting }
    guard let postgresReason = postgres.fresh, let redisReason = redis.fresh else { return nil }
    return state(postgresReason, redisReason)
  }

  private func ask() async -> State {
    async let postgresReason = postgres.value()
    async let redisReason = redis.value()
    return state(await postgresReason, await redisReason)
  }

  private func state(_ postgres: FailureReason?, _ redis: FailureReason?) -> State {
    var failing: [String: FailureReason] = [:]
    failing["postgres"] = postgres
    failing["redis"] = redis
    return failing.isEmpty ? .ready : .notReady(failing: failing)
  }
}
