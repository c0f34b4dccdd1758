// One sweeper of a replica: performs the steps of the worker's SweeperStateMachine in virtual time, as SweeperLoop and
// Coordinator do on the loop. Invariant: it decides nothing, and keeps the books of what was to be counted.

import Coordination
import Reactor

final class SweeperPart {
  /// As the Coordinator's.
  private static let commandLimit = Duration.seconds(2)

  unowned let replica: Replica
  let sweeper: Int
  let grid: SlotGrid
  private var machine: SweeperStateMachine
  private(set) var run: ReplicaRun?
  /// A question or a run is under way.
  private var isBusy = false
  private var waitNumber = 0
  private(set) var hasEnded = false
  private let life: Int
  /// A take that waits for its answer, or whose outcome is unknown.
  private var openToken: String?
  private var books = Books()
  /// The connection that the pool keeps, with its sample of PostgreSQL's clock.
  var session: PostgresSession?
  var sample: ClockSample?

  init(_ replica: Replica, _ sweeper: Int) {
    self.replica = replica
    self.sweeper = sweeper
    life = replica.life
    grid = replica.scenario.grid(sweeper)
    machine = SweeperStateMachine(
      grid: grid, leaseDuration: Self.lease(replica), mode: replica.scenario.runsOnStart ? .start : .due,
      at: replica.now)
  }

  private static func lease(_ replica: Replica) -> Duration { .milliseconds(replica.scenario.leaseMilliseconds) }

  private var world: World { replica.world }

  private var redisTime: Int64? { replica.redisClock?.estimate(at: replica.now) }

  func note(_ text: @autoclosure () -> String) {
    replica.note("sweeper \(sweeper): \(text())")
  }

  // MARK: Steps

  func step() {
    guard !isBusy, !hasEnded, replica.isStill(life) else { return }
    waitNumber += 1
    switch machine.next(at: replica.now, isDraining: replica.isDraining) {
    case .take(let mode): take(mode)
    case .run(let grant): start(grant)
    case .complete(let completion): complete(completion)
    case .release(let token): release(token)
    case .wait(let until), .pause(let until): sleep(until: until) { [self] in step() }
    case .waitForRedis(let until): waitForRedis(until)
    case .end: end()
    }
  }

  private func sleep(until: MonotonicInstant, _ body: @escaping () -> Void) {
    let number = waitNumber
    replica.wake(at: until) { [self] in
      if number == waitNumber { body() }
    }
  }

  private func waitForRedis(_ until: MonotonicInstant) {
    let number = waitNumber
    let woke = { [self] in
      guard number == waitNumber, replica.isStill(life) else { return }
      machine.woke(at: replica.now, chance: world.chance)
      step()
    }
    replica.link.onceReady(woke)
    if number == waitNumber { replica.wake(at: until, woke) }
  }

  func drain() {
    step()
  }

  func giveUp() {
    run?.end(.drained)
  }

  /// The machine is suspended.
  func standsStill() {
    if let openToken { replica.judge.stoodStill(openToken) }
    if let run, !run.hasSample { replica.judge.stoodStill(run.token) }
  }

  func died() {
    run?.died()
    if let session { replica.postgres.end(session) }
  }

  private func end() {
    let counts = machine.finished()
    books.count(counts)
    replica.judge.counted(skipped: books.skipped, expected: books.expected, sweeper)
    hasEnded = true
    replica.partEnded()
  }

  /// What the books say when the simulation ends in mid-life.
  func closeBooks() {
    books.count(machine.finished())
    replica.judge.counted(skipped: books.skipped, expected: books.expected, sweeper)
  }

  // MARK: Questions

  private func ask<Answer>(
    _ script: @escaping (RedisServer) -> (Answer, Int64), _ done: @escaping (Answer, Int64) -> Void,
    failed: @escaping (_ isUnknown: Bool) -> Void
  ) {
    isBusy = true
    replica.link.ask(by: replica.now.advanced(by: Self.commandLimit), script) { [self] reply in
      guard replica.isStill(life) else { return }
      isBusy = false
      switch reply {
      case .answer((let answer, let time)):
        note(time)
        done(answer, time)
      case .notSent: failed(false)
      case .unknown: failed(true)
      }
      step()
    }
  }

  /// What a command carries that is given up at `deadline`.
  func notAfter(_ deadline: MonotonicInstant) -> Int64 {
    replica.redisClock?.earliest(at: deadline) ?? 0
  }

  private func note(_ time: Int64) {
    replica.redisClock = ClockSample(reading: time, arrivedAt: replica.now, unitsPerSecond: 1_000)
  }

  private func unanswered(token: String? = nil, until: MonotonicInstant = MonotonicInstant(nanoseconds: 0)) {
    note("Redis does not answer\(token == nil ? "" : " its take")")
    let time = redisTime
    let lost = token.map { SweeperStateMachine.LostTake(token: $0, executableUntil: until) }
    let counts = machine.unanswered(lost, redisTime: time, at: replica.now, chance: world.chance)
    books.count(counts)
    if counts.contains(.failure), let time { books.failed(grid.slot(at: time)) }
  }

  private func take(_ mode: TakeMode) {
    guard replica.redisClock != nil else {
      return ask({ redis in (redis.time, redis.time) }, { _, _ in }, failed: { [self] _ in unanswered() })
    }
    let token = replica.newToken()
    openToken = token
    replica.judge.asked()
    let sentAt = replica.now
    let request = ScheduleModel.Ask(
      token: token, lease: replica.scenario.leaseMilliseconds, grid: grid,
      notAfter: notAfter(sentAt.advanced(by: Self.commandLimit)), mode: mode, pause: machine.pause)
    ask(
      { [self, replica] redis in
        let answer = redis.with(sweeper) { model, now in
          let answer = model.take(request, at: now)
          if case .held = answer, let holder = model.lock?.token { noticeHolder(holder) }
          return answer
        }
        if case .taken(let ticket) = answer {
          let isAwaited = !replica.isStill(life) || openToken == token
          replica.judge.granted(ticket, token: token, sweeper, mode: mode, isAwaited: isAwaited)
        }
        return (answer, redis.time)
      },
      { [self] answer, time in
        note("\(answer)")
        openToken = nil
        books.answered(answer)
        books.count(
          machine.answered(
            answer, token: token, sentAt: sentAt, redisTime: time, at: replica.now, chance: world.chance))
      },
      failed: { [self] isUnknown in
        if !isUnknown || replica.mutation == .accountsDropped { openToken = nil }
        unanswered(
          token: isUnknown && replica.mutation != .accountsDropped ? token : nil,
          until: sentAt.advanced(by: Self.commandLimit))
      })
  }

  /// A lock that this very life has forgotten keeps it out.
  private func noticeHolder(_ holder: String) {
    let prefix = "\(replica.number).\(life)."
    guard replica.isStill(life), holder.hasPrefix(prefix), run == nil else { return }
    replica.judge.keptOut(replica.number, sweeper)
  }

  private func release(_ token: String) {
    ask(
      { [sweeper] redis in
        (redis.with(sweeper) { model, now in model.release(token: token, at: now) }, redis.time)
      },
      { [self] _, _ in
        note("released its take")
        openToken = nil
        machine.released()
      }, failed: { [self] _ in unanswered() })
  }

  private func complete(_ completion: SweeperStateMachine.Completion) {
    let judge = replica.judge
    let (lease, name) = (replica.scenario.leaseMilliseconds, "\(replica.number)")
    ask(
      { [sweeper, grid] redis in
        let answer = redis.with(sweeper) { model, now in
          model.complete(completion, lease: lease, interval: grid.intervalMilliseconds, replica: name, at: now)
        }
        if answer != .superseded, completion.report.outcome == .success {
          judge.completedSlot(completion.grant.ticket.slot, sweeper)
        }
        return (answer, redis.time)
      },
      { [self] answer, time in
        note("epoch \(completion.grant.ticket.epoch) is completed: \(answer)")
        machine.confirmed(redisTime: time, at: replica.now, chance: world.chance)
      },
      failed: { [self] _ in
        unanswered()
        if replica.mutation == .accountsDropped {
          machine.confirmed(redisTime: redisTime ?? 0, at: replica.now, chance: world.chance)
        }
      })
  }

  // MARK: Runs

  private func start(_ grant: RunGrant) {
    isBusy = true
    note("runs as epoch \(grant.ticket.epoch)")
    books.ran(grant.ticket.slot)
    let run = ReplicaRun(self, grant)
    self.run = run
    run.begin()
  }

  func ended(_ grant: RunGrant, _ outcome: RunReport.Outcome, batches: Int, why: String) {
    note("epoch \(grant.ticket.epoch) ended: \(outcome)\(why.isEmpty ? "" : ", \(why)")")
    replica.judge.ended(grant, sweeper, outcome, batches: batches)
    run = nil
    isBusy = false
    machine.ended(
      grant, RunReport(outcome: outcome), isPermanent: false, at: replica.now, chance: world.chance)
    step()
  }
}

/// What a life attended, and what was counted for it.
struct Books {
  private enum Entry { case open, left, ran, failed }

  private var entries: [Int64: Entry] = [:]
  private var isLearning = true
  private(set) var skipped = 0

  /// How many slots were left to others in the end.
  var expected: Int {
    entries.values.count { $0 == .open || $0 == .left }
  }

  mutating func count(_ outcomes: [RunOutcome]) {
    skipped += outcomes.count { $0 == .skippedLock }
  }

  mutating func answered(_ answer: TakeAnswer) {
    switch answer {
    case .late: return
    case .taken: break
    case .held(let slot, _), .stuck(let slot), .settling(let slot, _): if !isLearning { enter(slot, .open) }
    case .idle(let slot, _), .paused(let slot, _):
      if !isLearning { enter(slot, .left) }
      for (open, entry) in entries where entry == .open { entries[open] = .left }
    }
    isLearning = false
  }

  mutating func ran(_ slot: Int64) {
    enter(slot, .ran)
  }

  mutating func failed(_ slot: Int64) {
    enter(slot, .failed)
  }

  private mutating func enter(_ slot: Int64, _ entry: Entry) {
    switch entries[slot] {
    case nil, .open: entries[slot] = entry
    case .left, .ran, .failed: break
    }
  }
}
