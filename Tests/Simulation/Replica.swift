// A replica: a process with its own monotonic clock, which can be paused, suspended, killed, asked to end and started
// again, and its ways to both servers. Invariant: nothing of a life happens after its end, nor while it is paused, but
// what it sent before.

import Coordination
import Reactor

/// How messages fare between a replica and a server.
enum Path: Equatable {
  case open, slow
  /// What is sent is lost, or arrives when the path is open again.
  case requestsLost
  case answersLost
  case closed
}

final class Replica {
  /// How long a process may take to end after it was asked to, in µs.
  static let grace: Int64 = 15_000_000

  let number: Int
  let world: World
  let scenario: Scenario
  let redis: RedisServer
  let postgres: PostgresServer
  let judge: Judge
  let mutation: Mutation?
  private(set) var life = 0
  private(set) var isAlive = false
  private(set) var isPaused = false
  private(set) var isDraining = false
  var redisPath = Path.open
  var postgresPath = Path.open
  /// The next batch that is sent meets a freeze of so many µs, before it or in its middle.
  var freezeAtNextBatch: Int64?
  private var monotonic: DriftingClock
  /// How long the machine was suspended, its monotonic clock with it.
  private var suspended: Int64 = 0
  private var inbox: [() -> Void] = []
  private(set) var parts: [SweeperPart] = []
  private(set) var link: RedisLink!
  /// Redis's clock as this life knows it, from whichever sweeper's last answer.
  var redisClock: ClockSample?
  private var tokens = 0

  init(
    _ number: Int, _ world: World, _ scenario: Scenario, _ redis: RedisServer, _ postgres: PostgresServer,
    _ judge: Judge, _ mutation: Mutation?
  ) {
    self.number = number
    self.world = world
    self.scenario = scenario
    self.redis = redis
    self.postgres = postgres
    self.judge = judge
    self.mutation = mutation
    monotonic = DriftingClock(partsPerMillion: world.any(scenario.drifts), offset: world.any(0...1_000_000_000))
  }

  // MARK: Time

  var now: MonotonicInstant {
    MonotonicInstant(nanoseconds: monotonic.reading(at: world.now - suspended) * 1_000)
  }

  /// Does `body` at the instant on this replica's clock, if this life still lasts then.
  func wake(at instant: MonotonicInstant, _ body: @escaping () -> Void) {
    let time = monotonic.time(of: (instant.nanoseconds + 999) / 1_000) + suspended
    world.at(time, mine { [unowned self] in now < instant ? wake(at: instant, body) : body() })
  }

  /// `body` as something that this life does: later where it is paused, never where it is over.
  func mine(_ body: @escaping () -> Void) -> () -> Void {
    let life = life
    return { [unowned self] in
      guard isAlive, life == self.life else { return }
      if isPaused { inbox.append(mine(body)) } else { body() }
    }
  }

  /// What is true of this life, for something that arrives elsewhere later.
  func isStill(_ life: Int) -> Bool { isAlive && life == self.life }

  func newToken() -> String {
    tokens += 1
    return "\(number).\(life).\(tokens)"
  }

  func note(_ text: @autoclosure () -> String) {
    world.note("replica \(number): \(text())")
  }

  // MARK: Its life

  func start() {
    guard !isAlive else { return }
    life += 1
    note("starts")
    (isAlive, isPaused, isDraining, freezeAtNextBatch) = (true, false, false, nil)
    inbox = []
    redisClock = nil
    link = RedisLink(self)
    parts = scenario.intervals.indices.map { SweeperPart(self, $0) }
    for part in parts { part.step() }
  }

  func kill() {
    guard isAlive else { return }
    note("dies")
    for part in parts { part.died() }
    isAlive = false
    stop()
  }

  /// Forgets what has not happened.
  func stop() {
    parts = []
    inbox = []
    link?.stop()
  }

  /// SIGTERM.
  func drain() {
    guard isAlive, !isDraining else { return }
    note("drains")
    isDraining = true
    mine { [unowned self] in
      for part in parts { part.drain() }
    }()
    let life = life
    world.after(
      Self.grace - 2_000_000,
      mine { [unowned self] in
        for part in parts { part.giveUp() }
      })
    world.after(Self.grace) { [unowned self] in
      if isStill(life) { kill() }
    }
  }

  func partEnded() {
    guard parts.allSatisfy(\.hasEnded) else { return }
    kill()
  }

  /// SIGSTOP, and SIGCONT after so many µs.
  func pause(_ length: Int64, suspends: Bool = false) {
    guard isAlive, !isPaused else { return }
    note("\(suspends ? "is suspended" : "stops") for \(length / 1_000) ms")
    isPaused = true
    if suspends { for part in parts { part.standsStill() } }
    let life = life
    world.after(length) { [unowned self] in
      if suspends { suspended += length }
      guard isStill(life) else { return }
      note("goes on")
      isPaused = false
      let arrived = inbox
      inbox = []
      for body in arrived { body() }
    }
  }

  // MARK: Its way to PostgreSQL

  /// Takes `request` to the server, and what it answers back.
  func ask<Answer>(
    _ request: @escaping (_ answer: @escaping (Answer) -> Void) -> Void, _ done: @escaping (Answer) -> Void
  ) {
    let received = mine
    deliver(\.postgresPath) { [unowned self] in
      postgres.receive {
        request { [unowned self] answer in
          guard postgresPath != .answersLost, postgresPath != .closed else { return }
          world.after(delay(postgresPath), received { done(answer) })
        }
      }
    }
  }

  /// Takes a message to a server: in time, late or never, as the path is.
  func deliver(_ way: KeyPath<Replica, Path>, _ body: @escaping () -> Void) {
    switch self[keyPath: way] {
    case .open, .slow, .answersLost: world.after(delay(self[keyPath: way]), body)
    case .requestsLost, .closed:
      guard world.oneIn(2) else { return }
      // TCP sends it again for as long as it may: it arrives when the path opens.
      retransmit(tries: 12, way, body)
    }
  }

  private func retransmit(tries: Int, _ way: KeyPath<Replica, Path>, _ body: @escaping () -> Void) {
    guard tries > 0 else { return }
    world.after(world.any(500_000...5_000_000)) { [unowned self] in
      self[keyPath: way] == .open ? body() : retransmit(tries: tries - 1, way, body)
    }
  }

  func delay(_ path: Path) -> Int64 {
    path == .slow ? world.any(50_000...3_000_000) : world.any(100...2_000)
  }
}

/// A replica's connection to Redis.
final class RedisLink {
  enum Reply<Answer> {
    case answer(Answer)
    case notSent
    case unknown
  }

  private unowned let replica: Replica
  private(set) var isReady = true
  private var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(2), jitter: 0.2)
  private var number = 0
  private var awaited: [Int: () -> Void] = [:]
  private var order: [Int] = []
  private var whenReady: [() -> Void] = []

  init(_ replica: Replica) {
    self.replica = replica
  }

  /// Runs `script` on Redis, and tells the answer or why there is none.
  ///
  /// - Parameter by: when it is given up, on the replica's clock.
  func ask<Answer>(
    by deadline: MonotonicInstant, _ script: @escaping (RedisServer) -> Answer,
    _ done: @escaping (Reply<Answer>) -> Void
  ) {
    guard isReady else {
      var isOver = false
      whenReady.append { [self] in
        guard !isOver else { return }
        isOver = true
        ask(by: deadline, script, done)
      }
      return replica.wake(at: deadline) {
        guard !isOver else { return }
        isOver = true
        done(.notSent)
      }
    }
    number += 1
    let question = number
    awaited[question] = { done(.unknown) }
    order.append(question)
    let world = replica.world
    let received = replica.mine { [self] in lost() }
    replica.deliver(\.redisPath) { [replica] in
      if replica.redis.condition == .away { return received() }
      let life = replica.life
      replica.redis.receive { [self] in
        let answer = script(replica.redis)
        guard replica.redisPath != .answersLost, replica.redisPath != .closed, life == replica.life else { return }
        world.after(
          replica.delay(replica.redisPath),
          replica.mine { [self] in
            guard awaited.removeValue(forKey: question) != nil else { return }
            order.removeAll { $0 == question }
            done(.answer(answer))
          })
      }
    }
    replica.wake(at: deadline) { [self] in
      if awaited[question] != nil { lost() }
    }
  }

  /// Forgets who waits for it.
  func stop() {
    awaited = [:]
    order = []
    whenReady = []
  }

  /// Calls `body` when Redis can be asked.
  func onceReady(_ body: @escaping () -> Void) {
    isReady ? body() : whenReady.append(body)
  }

  /// The connection is gone, and with it every answer.
  func lost() {
    guard isReady else { return }
    isReady = false
    let questions = order
    order = []
    let unanswered = questions.compactMap { awaited.removeValue(forKey: $0) }
    reconnect()
    for tell in unanswered { tell() }
  }

  private func reconnect() {
    let delay = backoff.next(chance: replica.world.chance).nanoseconds / 1_000
    replica.world.after(
      delay,
      replica.mine { [self] in
        guard replica.redisPath == .open || replica.redisPath == .slow, replica.redis.condition == .up else {
          return reconnect()
        }
        isReady = true
        backoff.reset()
        let waiting = whenReady
        whenReady = []
        for body in waiting { body() }
      })
  }
}
