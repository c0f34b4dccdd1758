// Redis as the replicas see it: a schedule model for each sweeper, its own clock, and its outages.
// Invariant: each call is executed atomically, in order of arrival, even long after its sender gave up.

import Coordination
import Reactor

/// The one Redis of the simulation.
@EventLoop
final class RedisServer {
  enum Condition { case up, away, hanging }

  private let world: World
  private let scenario: Scenario
  private let judge: Judge
  private let mutation: Mutation?
  var clock: DriftingClock
  private(set) var condition = Condition.up
  private(set) var sweepers: [ScheduleModel]
  /// The older state of an asynchronous replica.
  private var older: [ScheduleModel]
  private var connectionLocks = ConnectionLocks()
  private var olderLocks = ConnectionLocks()
  /// When it last lost locks of connections, or was stepped, in true time.
  private(set) var lostLocksAt = Int64.min / 2
  /// Calls received while it hung.
  private var backlog: [@EventLoop () -> Void] = []
  /// How many scripts it has executed.
  private(set) var scripts = 0

  init(_ world: World, _ scenario: Scenario, _ judge: Judge, _ mutation: Mutation?) {
    self.world = world
    self.scenario = scenario
    self.judge = judge
    self.mutation = mutation
    clock = DriftingClock(partsPerMillion: world.any(scenario.drifts), offset: 1_700_000_000_000_000)
    var model = ScheduleModel()
    model.omissions = Self.omissions(mutation)
    sweepers = scenario.intervals.map { _ in model }
    older = sweepers
  }

  private static func omissions(_ mutation: Mutation?) -> ScheduleModel.Omissions {
    var omissions = ScheduleModel.Omissions()
    switch mutation {
    case .noTokenCheck: omissions.tokenCheck = true
    case .noNotBefore: omissions.notBefore = true
    case .noNotAfter: omissions.notAfter = true
    case .epochFromOne: omissions.epochFollowsTime = true
    case .pauseIgnored: omissions.pauses = true
    case .triggerKept: omissions.triggerEnd = true
    default: break
    }
    return omissions
  }

  /// Its clock in ms.
  var time: Int64 { clock.reading(at: world.now) / 1_000 }

  /// What TIME answers.
  var timeValue: RedisValue {
    let (seconds, rest) = clock.reading(at: world.now).quotientAndRemainder(dividingBy: 1_000_000)
    return .array([.string(Array("\(seconds)".utf8)), .string(Array("\(rest)".utf8))])
  }

  /// Executes `script` as soon as it can; never if it is down.
  func receive(_ script: @escaping @EventLoop () -> Void) {
    switch condition {
    case .up:
      scripts += 1
      script()
    case .hanging: backlog.append(script)
    case .away: break
    }
  }

  /// Executes a call that `life` sent, and returns the answer.
  func execute(_ call: ScheduleModel.Call, _ sweeper: Int, from life: Life) -> ScheduleModel.Answer {
    judge.redisTime = time
    let triggeredEpoch = sweepers[sweeper].record?.triggerEpoch
    if mutation == .noRelease, case .release = call { return .release(true) }
    let answer = unchanged(sweepers[sweeper].execute(shortened(call), at: time))
    switch (call, answer) {
    case (.take(let ask), .take(.taken(let run), _)):
      judge.granted(run, sweeper, mode: ask.mode, isAwaited: life.awaits(ask.token, sweeper))
    case (.take, .take(.held, _)):
      if let holder = sweepers[sweeper].lock?.token, life.isAlive, life.tokens.contains(holder) {
        judge.keptOut(life.replica.number, sweeper)
      }
    case (.renew(let token, _, _, _), .renew(1)):
      judge.renewed(token: token)
    case (.complete(let ended, _, _, _), .complete(.done)):
      if ended.result.isSuccess { judge.completedSlot(ended.run.slot, sweeper) }
      if triggeredEpoch == ended.run.epoch, ended.result.name != "drained" {
        judge.ranTrigger(sweepers[sweeper].record?.triggerRun ?? 0, epoch: ended.run.epoch, sweeper)
      }
    default: break
    }
    return answer
  }

  // MARK: Locks of connections

  /// Takes a connection's lock, unless another holds it.
  func lock(_ key: String, token: String, milliseconds: Int64) -> Bool {
    connectionLocks.take(key, token, until: time + milliseconds, at: time) || mutation == .connectionLockIgnored
  }

  /// Releases a connection's lock if the token holds it.
  func unlock(_ key: String, token: String) -> Bool {
    connectionLocks.release(key, token, at: time)
  }

  /// The token that holds a connection's lock.
  func holder(ofLock key: String) -> String? { connectionLocks.holder(of: key, at: time) }

  /// Shortens the lease below what its holder assumes, if the mutation says so.
  private func shortened(_ call: ScheduleModel.Call) -> ScheduleModel.Call {
    guard mutation == .negativeMargin else { return call }
    switch call {
    case .take(var ask):
      ask.lease -= Scenario.marginLeftOut
      return .take(ask)
    case .renew(let token, let lease, let notAfter, let changed):
      return .renew(
        token: token, lease: lease - Scenario.marginLeftOut, notAfter: notAfter, changed: changed)
    case .release, .complete, .trigger, .leave: return call
    }
  }

  /// Hides that a record is new, if the mutation says so.
  private func unchanged(_ answer: ScheduleModel.Answer) -> ScheduleModel.Answer {
    guard mutation == .lossUnnoticed, case .take(let take, let fleet?) = answer else { return answer }
    return .take(
      take,
      FleetState(
        replicas: fleet.replicas, succeededAt: fleet.succeededAt, pause: fleet.pause,
        newestTrigger: fleet.newestTrigger,
        origin: "the same"))
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
    connectionLocks = ConnectionLocks()
    lostLocksAt = world.now
    judge.redisLostItsData()
  }

  /// A replica with a slightly older state takes over.
  func replicate() {
    older = sweepers
    olderLocks = connectionLocks
  }

  func failOver() {
    world.note("failover to an older replica")
    sweepers = older
    connectionLocks = olderLocks
    lostLocksAt = world.now
    judge.redisForgot()
  }

  func step(_ microseconds: Int64) {
    world.note("Redis's clock steps by \(microseconds / 1_000) ms")
    clock.offset += microseconds
    lostLocksAt = world.now
    judge.redisClockStepped(by: microseconds)
  }

  /// An operator pauses a sweeper that Redis knows, and resumes it later.
  func pause(_ sweeper: Int) {
    guard sweepers[sweeper].record != nil else { return }
    world.note("sweeper \(sweeper) is paused")
    sweepers[sweeper].record?.paused = "by an operator"
    judge.paused(sweeper)
  }

  /// Lifts a pause, and again during the run if an older state restores it.
  func resume(_ sweeper: Int) {
    if judge.isPaused(sweeper) { world.note("sweeper \(sweeper) is resumed") }
    judge.resumed(sweeper)
    lift(sweeper)
  }

  private func lift(_ sweeper: Int) {
    guard !judge.isPaused(sweeper) else { return }
    if let paused = sweepers[sweeper].record?.paused, !paused.isEmpty { sweepers[sweeper].record?.paused = "0" }
    world.after(5_000_000) { [self] in lift(sweeper) }
  }

  /// An operator triggers a run.
  func trigger(_ sweeper: Int) {
    let answer = sweepers[sweeper].trigger(accepts: "0", at: time)
    world.note("sweeper \(sweeper): \(answer.kind) \(answer.id)")
    for other in sweepers.indices { sweepers[other].announceTrigger(answer.id) }
  }

  /// An existing worker or an operator holds a lock.
  func lockByAnother(_ sweeper: Int, milliseconds: Int64) {
    sweepers[sweeper].expire(at: time)
    guard sweepers[sweeper].lock == nil else { return }
    world.note("another kind of worker takes the lock of sweeper \(sweeper)")
    sweepers[sweeper].setLock("another's", expiry: time + milliseconds)
  }
}
