// Whether the worker is ready: checks both servers on request.
// Invariant: at most one check per server is in flight, a result up to a second old is reused, and every check ends by
// its deadline. No text names a host, user, database or password.

import Reactor

/// One server's result: nil if it is healthy, otherwise the reason.
typealias FailureReason = String

/// A coalesced check of one server: callers that arrive while one is in flight get the same result.
@EventLoop
final class CoalescedCheck {
  /// How old a result may be to be reused.
  static let freshFor = Duration.seconds(1)
  /// The time limit of a check.
  static let limit = Duration.seconds(2)

  private let clock: LoopClock
  private let ask: @EventLoop @Sendable (MonotonicInstant) async -> FailureReason?
  private var last: (answer: FailureReason?, at: MonotonicInstant)?
  private var waiting: [OneShot<FailureReason?>] = []
  private var isInFlight = false

  init(clock: LoopClock, ask: @escaping @EventLoop @Sendable (MonotonicInstant) async -> FailureReason?) {
    self.clock = clock
    self.ask = ask
  }

  /// The last result if it may be reused. The outer nil means that there is none.
  var fresh: FailureReason?? {
    guard let last, last.at.duration(to: clock.now) < Self.freshFor else { return nil }
    return .some(last.answer)
  }

  func answer() async -> FailureReason? {
    if let fresh { return fresh }
    if isInFlight {
      let result = OneShot<FailureReason?>()
      waiting.append(result)
      // A cancelled caller stays until the check ends, which its deadline bounds.
      guard let answer = await result.waitThroughCancellation() else { preconditionFailure("the check has ended") }
      return answer
    }
    isInFlight = true
    let answer = await ask(clock.now.advanced(by: Self.limit))
    isInFlight = false
    last = (answer, clock.now)
    let waiters = waiting
    waiting = []
    for waiter in waiters { waiter.fire(answer) }
    return answer
  }
}

/// The worker's state as /readyz reports it.
@EventLoop
final class Readiness {
  enum State: Equatable, Sendable {
    case booting, ready, draining
    case notReady(failing: [String: FailureReason])
  }

  private let postgres: CoalescedCheck
  private let redis: CoalescedCheck
  /// Whether both servers have been checked for the first time.
  private(set) var hasBooted = false
  private let shutdown: Shutdown

  init(pool: PostgresPool, redis: RedisClient, clock: LoopClock, shutdown: Shutdown) {
    self.shutdown = shutdown
    postgres = CoalescedCheck(clock: clock) { deadline in
      do {
        try await pool.ping(by: deadline)
        return nil
      } catch let error as PostgresError {
        return error.publicReason
      } catch {
        return "cancelled"
      }
    }
    self.redis = CoalescedCheck(clock: clock) { deadline in
      do throws(RedisError) {
        try await redis.checkHealth(by: deadline)
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
    async let postgresReason = postgres.answer()
    async let redisReason = redis.answer()
    return state(await postgresReason, await redisReason)
  }

  private func state(_ postgres: FailureReason?, _ redis: FailureReason?) -> State {
    var failing: [String: FailureReason] = [:]
    failing["postgres"] = postgres
    failing["redis"] = redis
    return failing.isEmpty ? .ready : .notReady(failing: failing)
  }
}
