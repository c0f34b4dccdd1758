// What goes wrong in a virtual run, and when: phases of faults separated by calm, drawn from the seed.
// Invariant: each fault ends within its phase, and the judge learns when everything works again.

import Reactor

@EventLoop
final class Faults {
  private let world: World
  private let scenario: Scenario
  private let redis: RedisServer
  private let postgres: PostgresServer
  private let replicas: [Replica]
  private let judge: Judge
  /// How often each kind of fault happened.
  private(set) var counts: [String: Int] = [:]

  private static let longest: Int64 = 60_000_000

  init(
    _ world: World, _ scenario: Scenario, _ redis: RedisServer, _ postgres: PostgresServer, _ replicas: [Replica],
    _ judge: Judge
  ) {
    self.world = world
    self.scenario = scenario
    self.redis = redis
    self.postgres = postgres
    self.replicas = replicas
    self.judge = judge
  }

  /// Draws the whole run.
  func plan() {
    let calm = scenario.intervals.filter { $0 < 3_600_000 }.max()! * 4_000
    var time: Int64 = 0
    while true {
      let calmEnd = scenario.isFaultless ? scenario.length : time + world.any(calm / 2...calm * 3 / 2)
      judge.isQuiet(from: time, to: min(calmEnd, scenario.length))
      // The run ends with a calm period for recovery.
      guard calmEnd + 4 * Self.longest + 2 * calm < scenario.length else { break }
      time = phase(from: calmEnd)
    }
  }

  /// - Returns: when the last of its faults has ended.
  private func phase(from begin: Int64) -> Int64 {
    var end = begin
    for _ in 0..<Int(world.any(1...6)) {
      let start = begin + world.any(0...Self.longest)
      let length = world.any(10...Self.longest / (world.oneIn(2) ? 1 : 20))
      end = max(end, start + length * 3 / 2)
      plan(start, length)
    }
    return end + 1
  }

  private func plan(_ start: Int64, _ length: Int64) {
    let (name, begin, finish) = draw(length)
    counts[name, default: 0] += 1
    world.at(start, begin)
    world.at(start + length, finish)
  }

  private func draw(_ length: Int64) -> (String, @EventLoop () -> Void, @EventLoop () -> Void) {
    let replica = world.any(of: replicas)
    let sweeper = Int(world.any(0...Int64(scenario.intervals.count - 1)))
    let nothing = { @EventLoop in }
    switch world.any(0...21) {
    case 0, 1: return ("stop and go on", { replica.pause(length) }, nothing)
    case 2, 3, 4, 5:
      // Half of the phase to hit a batch, half to last.
      return ("freeze at a batch", { replica.freezeAtNextBatch = length / 2 }, { replica.freezeAtNextBatch = nil })
    case 6, 7: return ("kill and restart", { replica.kill() }, { replica.start() })
    case 8:
      return (
        "drain and restart", { replica.drain() },
        {
          replica.kill()
          replica.start()
        }
      )
    case 9, 10, 11: return path(replica, \.redisPath, "Redis")
    case 12, 13: return path(replica, \.postgresPath, "PostgreSQL")
    case 14: return ("Redis hangs", { [redis] in redis.change(.hanging) }, { [redis] in redis.change(.up) })
    case 15: return ("Redis is away", { [redis] in redis.change(.away) }, { [redis] in redis.change(.up) })
    case 16: return ("FLUSHALL", { [redis] in redis.flush() }, nothing)
    case 17:
      // A Redis replica lags by a moment, or lacks everything since it lost its master.
      return ("failover to an older replica", { [redis] in redis.replicate() }, { [redis] in redis.failOver() })
    case 18:
      return ("PostgreSQL hangs", { [postgres] in postgres.change(.hanging) }, { [postgres] in postgres.change(.up) })
    case 19:
      return ("PostgreSQL restarts", { [postgres] in postgres.change(.away) }, { [postgres] in postgres.change(.up) })
    case 20: return tables(length)
    default: return rare(replica, sweeper, length)
    }
  }

  private func path(
    _ replica: Replica, _ path: ReferenceWritableKeyPath<Replica, Path>, _ server: String
  ) -> (String, @EventLoop () -> Void, @EventLoop () -> Void) {
    let fault = world.any(of: [Path.slow, .requestsLost, .answersLost, .closed])
    return (
      "the way to \(server): \(fault)",
      {
        replica.note("its way to \(server): \(fault)")
        replica[keyPath: path] = fault
      },
      {
        replica.note("its way to \(server) is open")
        replica[keyPath: path] = .open
      }
    )
  }

  private func tables(_ length: Int64) -> (String, @EventLoop () -> Void, @EventLoop () -> Void) {
    if world.oneIn(3) { return ("sessions ended", { [postgres] in postgres.endAllSessions() }, {}) }
    return (
      "tables locked",
      { [world, postgres] in
        world.note("the tables are locked for \(length / 1_000) ms")
        postgres.tablesLockedUntil = max(postgres.tablesLockedUntil, world.now + length)
      }, {}
    )
  }

  private func rare(_ replica: Replica, _ sweeper: Int, _ length: Int64) -> (
    String, @EventLoop () -> Void, @EventLoop () -> Void
  ) {
    let step = world.any(-60_000_000...60_000_000)
    switch world.any(0...5) {
    case 0: return ("Redis's clock is stepped", { [redis] in redis.step(step) }, {})
    case 1: return ("PostgreSQL's clock is stepped", { [postgres] in postgres.step(step) }, {})
    case 3:
      return (
        "a sweeper is paused", { [redis] in redis.pause(sweeper) }, { [redis] in redis.resume(sweeper) }
      )
    // A triggered discovery run adds jobs to those of its slot.
    case 4: return ("a sweeper is triggered", { [redis] in redis.trigger(0) }, {})
    case 2: return ("suspended", { replica.pause(length, suspends: true) }, {})
    default:
      return ("another kind of worker", { [redis] in redis.lockByAnother(sweeper, milliseconds: length / 1_000) }, {})
    }
  }
}
