// A machine with one worker process at a time: its monotonic clock, its paths to both servers, and what happens to the
// process: it is started, stopped, suspended, killed and asked to end.
// Invariant: a process does nothing after its end or while stopped; only what it sent before may still arrive.

import Coordination
import Reactor

/// How messages fare between a replica and a server.
enum Path: Equatable {
  case open, slow
  /// Requests are lost, or arrive when the path is open again.
  case requestsLost
  case answersLost
  case closed
}

@EventLoop
final class Replica {
  let number: Int
  let world: World
  let scenario: Scenario
  let redis: RedisServer
  let postgres: PostgresServer
  let judge: Judge
  let mutation: Mutation?
  private(set) var life: Life?
  private var lives = 0
  var redisPath = Path.open
  var postgresPath = Path.open
  /// How long to freeze before or in the middle of the next batch, in µs.
  var freezeAtNextBatch: Int64?
  private let partsPerMillion: Int64
  /// Its monotonic clock minus true time, in µs: a suspension reduces it.
  private var offset: Int64
  private var starting = Latch()

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
    partsPerMillion = world.any(scenario.drifts)
    offset = world.any(0...1_000_000_000)
  }

  func note(_ text: @autoclosure () -> String) {
    world.note("replica \(number): \(text())")
  }

  /// The live process, if any.
  var living: Life? { life.flatMap { $0.isAlive ? $0 : nil } }

  /// Runs one process after another until cancelled.
  func run() async {
    do {
      while true {
        try await world.clock.sleep(until: .never, orUntil: starting)
        starting = Latch()
        await life?.run()
        try Task.checkCancellation()
      }
    } catch {
      // The simulation ends.
    }
  }

  func start() {
    guard living == nil else { return }
    lives += 1
    note("starts")
    freezeAtNextBatch = nil
    let clock = world.time.clock(partsPerMillion: partsPerMillion, offset: .microseconds(offset))
    life = Life(self, number: lives, clock: clock)
    starting.open()
  }

  func kill() {
    living?.end("dies")
  }

  /// SIGTERM.
  func drain() {
    living?.drain()
  }

  /// SIGSTOP, then SIGCONT after `length` µs.
  func pause(_ length: Int64, suspends: Bool = false) {
    guard let life = living, life.hold() else { return }
    note("\(suspends ? "is suspended" : "stops") for \(length / 1_000) ms")
    if suspends {
      life.standsStill()
      postgres.connections?.suspended(for: length)
    }
    world.after(length) { [self] in
      if suspends { offset -= length }
      guard life.isAlive else { return }
      note("goes on")
      life.release(losing: suspends ? .microseconds(length) : .zero)
    }
  }

  // MARK: Its ways to the servers

  /// Delivers a message to a server in time, late or never, depending on the path.
  func deliver(_ way: KeyPath<Replica, Path>, _ body: @escaping @EventLoop () -> Void) {
    let path = self[keyPath: way]
    switch path {
    case .open, .slow, .answersLost: world.after(delay(path), body)
    case .requestsLost, .closed:
      guard world.oneIn(2) else { return }
      // TCP retransmits for as long as it can: it arrives when the path opens.
      retransmit(tries: 12, way, body)
    }
  }

  private func retransmit(tries: Int, _ way: KeyPath<Replica, Path>, _ body: @escaping @EventLoop () -> Void) {
    guard tries > 0 else { return }
    world.after(world.any(500_000...5_000_000)) { [self] in
      self[keyPath: way] == .open ? body() : retransmit(tries: tries - 1, way, body)
    }
  }

  func delay(_ path: Path) -> Int64 {
    path == .slow ? world.any(50_000...3_000_000) : world.any(100...2_000)
  }
}
