// Whether the worker is ready, asked of both servers on request.
// Invariant: at most one question a server is in flight, an answer up to a second old is used again, and every question
// ends within its deadline. Nothing that is said names a host, a user, a database or a password.

import Reactor

/// One server's answer: nil where it is well, else what is wrong.
typealias Ailment = String

/// A question to one server, coalesced: whoever asks while one is in flight waits for the same answer.
@EventLoop
final class CoalescedCheck {
  /// How old an answer may be that is used again.
  static let freshFor = Duration.seconds(1)
  /// How long a server may take.
  static let limit = Duration.seconds(2)

  private let clock: LoopClock
  private let ask: @EventLoop @Sendable (MonotonicInstant) async -> Ailment?
  private var last: (answer: Ailment?, at: MonotonicInstant)?
  private var waiting: [CheckedContinuation<Ailment?, Never>] = []
  private var isInFlight = false

  init(clock: LoopClock, ask: @escaping @EventLoop @Sendable (MonotonicInstant) async -> Ailment?) {
    self.clock = clock
    self.ask = ask
  }

  func answer() async -> Ailment? {
    if let last, last.at.duration(to: clock.now) < Self.freshFor { return last.answer }
    if isInFlight { return await withCheckedContinuation { waiting.append($0) } }
    isInFlight = true
    let answer = await ask(clock.now.advanced(by: Self.limit))
    isInFlight = false
    last = (answer, clock.now)
    let waiters = waiting
    waiting = []
    for waiter in waiters { waiter.resume(returning: answer) }
    return answer
  }
}

/// The worker's state as /readyz tells it.
@EventLoop
final class Readiness {
  enum State: Equatable, Sendable {
    case booting, ready, draining
    case notReady(failing: [String: Ailment])
  }

  private let postgres: CoalescedCheck
  private let redis: CoalescedCheck
  private var isBooting = true
  private let drain: Gate

  init(pool: PostgresPool, redis: RedisClient, clock: LoopClock, drain: Gate) {
    self.drain = drain
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
      do {
        _ = try await redis.command(["PING"], by: deadline)
        return nil
      } catch let error as RedisError {
        return error.publicReason
      } catch {
        return "cancelled"
      }
    }
  }

  /// Asks both servers for the first time: until this has their answers, the worker is booting.
  func boot() async -> State {
    let state = await ask()
    isBooting = false
    return state
  }

  func state() async -> State {
    if drain.isOpen { return .draining }
    if isBooting { return .booting }
    return await ask()
  }

  private func ask() async -> State {
    async let postgresAilment = postgres.answer()
    async let redisAilment = redis.answer()
    var failing: [String: Ailment] = [:]
    failing["postgres"] = await postgresAilment
    failing["redis"] = await redisAilment
    return failing.isEmpty ? .ready : .notReady(failing: failing)
  }
}
