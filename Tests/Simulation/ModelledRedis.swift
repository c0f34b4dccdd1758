// A replica's connection to the modelled Redis, as the worker's loops use it.
// Invariants: a lost connection loses every pending answer, and what was sent may still arrive; nothing is sent or
// answered after the life's end.

import Coordination
import Reactor
import Worker

@EventLoop
final class ModelledRedis: RedisScripts {
  private typealias Reply = Result<RedisValue, RedisError>

  private let life: Life
  private let server: RedisServer
  private var isReady = true
  private var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)
  private var awaited: [OneShot<Reply>] = []
  private var whenReady: [OneShot<Void>] = []

  init(_ life: Life, _ server: RedisServer) {
    self.life = life
    self.server = server
  }

  var outage: String? { isReady ? nil : "connection lost" }

  func waitUntilReady(by deadline: MonotonicInstant) async throws {
    guard !isReady else { return }
    let signal = OneShot<Void>()
    whenReady.append(signal)
    if await signal.wait(until: deadline, on: life.clock) != nil { return }
    whenReady.removeAll { $0 === signal }
    try Task.checkCancellation()
    throw RedisError.notSent("not connected")
  }

  func command(
    _ arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    precondition(arguments == ["TIME"], "the model does not know this command: \(arguments[0])")
    let server = server
    do throws(RedisError) {
      let value = try await ask(by: deadline) { server.timeValue }
      let parts = value.array ?? []
      life.noteRedisClock((parts[0].integer ?? 0) * 1_000 + (parts[1].integer ?? 0) / 1_000)
      return value
    } catch {
      life.wasNotAnswered()
      throw error
    }
  }

  func evaluate(
    _ script: RedisScript, keys: [String], arguments: [String], isRepeatable: Bool, by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    if keys[0].hasPrefix(Scenario.lockKey(ofConnection: "")) {
      return try await connectionLock(script, keys[0], arguments, by: deadline)
    }
    let sweeper = life.replica.scenario.sweeper(ofLock: keys[0])
    let call = ScheduleModel.call(script, arguments, sweeper: life.replica.scenario.name(sweeper))
    life.calls(call, sweeper)
    let execution = Execution(call, sweeper)
    do throws(RedisError) {
      if life.replica.mutation == .renewalOff, case .renew = call { throw RedisError.notSent("left out") }
      let (server, life) = (server, life)
      let value = try await ask(by: deadline) { execution.run(on: server, for: life) }
      if let answer = execution.answer { life.answered(call, answer, sweeper) }
      life.noteRedisClock(value.array?[1].integer ?? 0)
      return value
    } catch {
      let isUnknown = if case .notSent = error { false } else { true }
      life.failed(call, sweeper, isUnknown: isUnknown)
      life.wasNotAnswered()
      throw error
    }
  }

  /// Takes or releases the lock of a connection.
  private func connectionLock(
    _ script: RedisScript, _ key: String, _ arguments: [String], by deadline: MonotonicInstant
  ) async throws(RedisError) -> RedisValue {
    let (server, token, mutation) = (server, arguments[0], life.replica.mutation)
    let connections = life.replica.postgres.connections
    if script.sha1 == DiscoverLocks.take.sha1 {
      let length = mutation == .connectionLockOutlived ? 1 : Int64(arguments[1]) ?? 0
      return try await ask(by: deadline) {
        let isTaken = server.lock(key, token: token, milliseconds: length)
        if isTaken { connections?.lockTaken(key) }
        return .array([.integer(isTaken ? 1 : 0)])
      }
    }
    precondition(script.sha1 == CoordinationScripts.release.sha1, "this is no script of a connection's lock")
    return try await ask(by: deadline) {
      let isReleased = mutation != .connectionLockKept && server.unlock(key, token: token)
      return .array([.integer(isReleased ? 1 : 0)])
    }
  }

  /// A call that may be executed at most once.
  @EventLoop
  private final class Execution {
    private let call: ScheduleModel.Call
    private let sweeper: Int
    private(set) var answer: ScheduleModel.Answer?

    init(_ call: ScheduleModel.Call, _ sweeper: Int) {
      self.call = call
      self.sweeper = sweeper
    }

    func run(on server: RedisServer, for life: Life) -> RedisValue {
      let answer = server.execute(call, sweeper, from: life)
      self.answer = answer
      return answer.value(at: server.time)
    }
  }

  /// Has the server execute `work`, and returns its answer.
  private func ask(
    by deadline: MonotonicInstant, _ work: @escaping @EventLoop () -> RedisValue
  ) async throws(RedisError) -> RedisValue {
    guard !Task.isCancelled else { throw .notSent("cancelled") }
    while !isReady {
      let signal = OneShot<Void>()
      whenReady.append(signal)
      guard await signal.wait(until: deadline, on: life.clock) != nil else {
        whenReady.removeAll { $0 === signal }
        throw .notSent(Task.isCancelled ? "cancelled" : "not connected")
      }
    }
    let reply = OneShot<Reply>()
    awaited.append(reply)
    transmit(work, reply)
    let answer = await reply.wait(until: deadline, on: life.clock)
    awaited.removeAll { $0 === reply }
    if let answer { return try answer.get() }
    if Task.isCancelled { throw .unknownOutcome("cancelled") }
    lost()
    throw .unknownOutcome("timed out")
  }

  private func transmit(_ work: @escaping @EventLoop () -> RedisValue, _ reply: OneShot<Reply>) {
    let (replica, life, server) = (life.replica, life, server)
    replica.deliver(\.redisPath) { [self] in
      if server.condition == .away { return life.receive { [self] in lost() } }
      server.receive { [self] in
        let value = work()
        guard replica.redisPath != .answersLost, replica.redisPath != .closed else { return }
        replica.world.after(replica.delay(replica.redisPath)) { [self] in
          life.receive { [self] in
            if awaited.contains(where: { $0 === reply }) { reply.fire(.success(value)) }
          }
        }
      }
    }
  }

  /// The connection is lost, and with it every pending answer.
  private func lost() {
    guard isReady else { return }
    isReady = false
    let unanswered = awaited
    awaited = []
    for reply in unanswered { reply.fire(.failure(.unknownOutcome("connection lost"))) }
    reconnect()
  }

  private func reconnect() {
    let world = life.replica.world
    let delay = backoff.next(jitter: world.jitter).nanoseconds / 1_000
    world.after(delay) { [self] in life.receive { [self] in connect() } }
  }

  private func connect() {
    let path = life.replica.redisPath
    guard path == .open || path == .slow, server.condition == .up else { return reconnect() }
    isReady = true
    backoff.reset()
    let waiting = whenReady
    whenReady = []
    for signal in waiting { signal.fire(()) }
  }
}
