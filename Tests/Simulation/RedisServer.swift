// Redis as the replicas meet it: one schedule model a sweeper, a clock of its own, and its ways of being away.
// Invariant: whatever arrives is executed in one piece, in the order of arrival, also long after its sender gave up.

/// The one Redis of the simulation.
final class RedisServer {
  enum Condition { case up, away, hanging }

  private let world: World
  private let judge: Judge
  var clock: DriftingClock
  private(set) var condition = Condition.up
  private(set) var sweepers: [ScheduleModel]
  /// What an asynchronous replica of it has: an older state.
  private var older: [ScheduleModel]
  /// What arrived while it hung.
  private var backlog: [() -> Void] = []
  /// How many scripts it has executed.
  private(set) var scripts = 0

  init(_ world: World, _ scenario: Scenario, _ judge: Judge, omissions: ScheduleModel.Omissions) {
    self.world = world
    self.judge = judge
    clock = DriftingClock(partsPerMillion: world.any(scenario.drifts), offset: 1_700_000_000_000_000)
    var model = ScheduleModel()
    model.omissions = omissions
    sweepers = scenario.intervals.map { _ in model }
    older = sweepers
  }

  /// Its clock in ms.
  var time: Int64 { clock.reading(at: world.now) / 1_000 }

  /// Executes `script` as soon as it can; never where it is away.
  func receive(_ script: @escaping () -> Void) {
    switch condition {
    case .up:
      scripts += 1
      script()
    case .hanging: backlog.append(script)
    case .away: break
    }
  }

  func with<Answer>(_ sweeper: Int, _ script: (inout ScheduleModel, Int64) -> Answer) -> Answer {
    let answer = script(&sweepers[sweeper], time)
    judge.redisTime = time
    return answer
  }

  func isLocked(_ sweeper: Int) -> Bool {
    sweepers[sweeper].expire(at: time)
    return sweepers[sweeper].lock != nil
  }

  /// Forgets what has not been executed.
  func stop() {
    backlog = []
  }

  // MARK: Faults

  func change(_ condition: Condition) {
    world.note("Redis is \(condition)")
    self.condition = condition
    guard condition == .up else { return }
    let arrived = backlog
    backlog = []
    for script in arrived { receive(script) }
  }

  func flush() {
    world.note("FLUSHALL")
    for sweeper in sweepers.indices { sweepers[sweeper].flush() }
    judge.redisLostItsData()
  }

  /// A replica takes over that knows what was known some moments ago.
  func replicate() {
    older = sweepers
  }

  func failOver() {
    world.note("failover to an older replica")
    sweepers = older
    judge.redisForgot()
  }

  func step(_ microseconds: Int64) {
    world.note("Redis's clock steps by \(microseconds / 1_000) ms")
    clock.offset += microseconds
    judge.redisClockStepped(by: microseconds)
  }

  /// A worker of the other kind, or an operator, holds a lock.
  func lockByAnother(_ sweeper: Int, milliseconds: Int64) {
    sweepers[sweeper].expire(at: time)
    guard sweepers[sweeper].lock == nil else { return }
    world.note("another kind of worker takes the lock of sweeper \(sweeper)")
    sweepers[sweeper].setLock("another's", expiry: time + milliseconds)
    judge.lockedByAnother()
  }
}
