// What must hold under any fault: checks every write, grant and count, and reports each violation.
// Invariant: it knows the true time and every event, and influences nothing that the replicas see.

import Coordination
import Reactor

@EventLoop
final class Judge {
  struct Job: Hashable {
    let target: Int
    let slot: Int64
    /// Its correlation_id.
    let id: String
  }

  struct Violation {
    let time: Int64
    let text: String
  }

  private let world: World
  private let scenario: Scenario
  private(set) var violations: [Violation] = []
  private(set) var runs = 0
  /// How often replicas asked whether they may run, once they knew their slots.
  private(set) var takes = 0
  /// Redis's time in ms at the last script.
  var redisTime: Int64 = 0

  /// The highest epoch that began to write, by sweeper.
  private var highestEpoch: [Int64]
  /// Whether Redis has lost the highest epoch, and no run with a higher one has begun to write since.
  private var isEpochLost: [Bool]
  private var writers: [Set<Int64>]
  private var tokens: [String: Token] = [:]
  /// Runs whose machine and clock were suspended between the take and the first sample of PostgreSQL's clock.
  private var unaware: Set<String> = []
  /// Successful runs of each slot.
  private var successes: [[Int64: Int]]
  /// Slots in which a triggered run succeeded: a trigger makes a run due even in a completed slot.
  private var triggeredSlots: [Set<Int64>]
  private var jobs: Set<Job> = []
  private var jobCounts: [Int64: [Int: Int]] = [:]
  /// Sweepers that an operator has paused and whose pause Redis has not lost.
  private var pausedSweepers: Set<Int> = []
  /// What each sweeper works on.
  let tables: [ModelledTable]
  /// Epochs of runs that operators triggered, and the run that each trigger started.
  private var triggeredRuns: [Set<Int64>]
  private var triggers: [[Int64: Int64]]
  /// Each run's token and slot, by its epoch.
  private var grants: [[Int64: (token: String, slot: Int64)]]
  /// Each run's committed batches and rows, and those that were acknowledged.
  private var committed: [String: (batches: Int, rows: Int)] = [:]
  private var answered: [String: Int] = [:]

  private var lostAt = Int64.min / 2
  private var forgotAt = Int64.min / 2
  /// The end of the time in which two runs may alternate, because Redis lost data or its clock jumped ahead.
  private var alternatesUntil: Int64 = 0
  /// When a server's clock was last stepped.
  private(set) var redisSteppedAt = Int64.min / 2
  /// Redis's clock before it was stepped, in ms: slots up to then may begin again.
  private var latestTime = Int64.min
  private(set) var postgresSteppedAt = Int64.min / 2
  /// The completed slots that Redis has not lost.
  private var completedSlots: [Int64]
  /// Intervals of true time in which everything works and has worked for long enough.
  private(set) var quiet: [(begin: Int64, end: Int64)] = []

  private struct Token {
    let sweeper: Int
    let takenAt: Int64
    /// In ms of Redis's clock.
    var expiry: Int64
    var isReleased = false
  }

  init(_ world: World, _ scenario: Scenario) {
    self.world = world
    self.scenario = scenario
    highestEpoch = scenario.intervals.map { _ in 0 }
    isEpochLost = scenario.intervals.map { _ in false }
    writers = scenario.intervals.map { _ in [] }
    successes = scenario.intervals.map { _ in [:] }
    triggeredSlots = scenario.intervals.map { _ in [] }
    grants = scenario.intervals.map { _ in [:] }
    triggeredRuns = scenario.intervals.map { _ in [] }
    triggers = scenario.intervals.map { _ in [:] }
    tables = scenario.intervals.map { _ in ModelledTable() }
    completedSlots = scenario.intervals.map { _ in .min }
  }

  func violated(_ text: String) {
    world.note("VIOLATED: \(text)")
    if violations.count < 10 { violations.append(Violation(time: world.now, text: text)) }
  }

  /// The maximum age of a sample of PostgreSQL's clock, in µs.
  private let sampleLimit = BatchGuard.sampleLimit.nanoseconds / 1_000

  private var lease: Int64 { scenario.leaseMilliseconds * 1_000 }

  // MARK: Locks

  func asked() {
    if world.now >= Scenario.learned { takes += 1 }
  }

  /// Redis granted a take. `isAwaited`: the sender still awaits the answer, or knows that the outcome is unknown.
  func granted(_ run: Run, _ sweeper: Int, mode: TakeMode, isAwaited: Bool) {
    if pausedSweepers.contains(sweeper) { violated("sweeper \(sweeper) began a run while it was paused") }
    tokens[run.token] = Token(sweeper: sweeper, takenAt: world.now, expiry: redisTime + scenario.leaseMilliseconds)
    grants[sweeper][run.epoch] = (run.token, run.slot)
    if !isAwaited { violated("a ghost has the lock of sweeper \(sweeper): its sender settled that token before") }
    if world.now - lostAt < lease - 5_000, redisSteppedAt < lostAt {
      violated("the lock of sweeper \(sweeper) was taken within a lease after Redis lost its data")
    }
    if run.isForced { triggeredRuns[sweeper].insert(run.epoch) }
    if mode == .due, !run.isForced, run.slot <= completedSlots[sweeper] {
      violated("slot \(run.slot) of sweeper \(sweeper) was run again after its completion")
    }
  }

  /// A life is blocked by a lock of its own that it does not know about.
  func keptOut(_ replica: Int, _ sweeper: Int) {
    // An older Redis replica restores released locks, and for longer if its clock is stepped back.
    guard world.now - forgotAt > 120_000_000 else { return }
    violated("replica \(replica) is kept out by its own lock of sweeper \(sweeper)")
  }

  func renewed(token: String) {
    tokens[token]?.expiry = redisTime + scenario.leaseMilliseconds
  }

  func completedSlot(_ slot: Int64, _ sweeper: Int) {
    // After the clock is stepped back, the slot lies in the future and begins again.
    guard slot <= redisTime else { return }
    completedSlots[sweeper] = max(completedSlots[sweeper], slot)
  }

  // MARK: Pauses

  func paused(_ sweeper: Int) { pausedSweepers.insert(sweeper) }

  func resumed(_ sweeper: Int) { pausedSweepers.remove(sweeper) }

  func isPaused(_ sweeper: Int) -> Bool { pausedSweepers.contains(sweeper) }

  // MARK: Triggers

  /// Redis learned that a triggered run has ended: only one may run for each trigger.
  func ranTrigger(_ id: Int64, epoch: Int64, _ sweeper: Int) {
    // An older Redis replica restores a trigger, which a sweeper that runs seldom meets as long as the trigger lasts.
    let life = Int64(CoordinationScripts.triggerLifeMilliseconds) * 1_000
    let excuse = max(120_000_000, min(life, scenario.intervals[sweeper] * 2_000))
    if let earlier = triggers[sweeper][id], earlier != epoch, world.now - forgotAt > excuse {
      violated("epochs \(earlier) and \(epoch) of sweeper \(sweeper) ran for the same trigger")
    }
    triggers[sweeper][id] = epoch
  }

  // MARK: Writes

  func writeBegan(_ batch: PostgresServer.Batch) {
    if !writers[batch.sweeper].isEmpty {
      violated("epoch \(batch.epoch) writes beside another one (sweeper \(batch.sweeper))")
    }
    writers[batch.sweeper].insert(batch.epoch)
    order(batch, "begins to write")
    if !unaware.contains(token(of: batch)), batch.epoch > highestEpoch[batch.sweeper] {
      highestEpoch[batch.sweeper] = batch.epoch
      isEpochLost[batch.sweeper] = false
    }
    withinLease(batch, "begins to write")
  }

  func rolledBack(_ batch: PostgresServer.Batch) {
    writers[batch.sweeper].remove(batch.epoch)
  }

  func committed(_ batch: PostgresServer.Batch) {
    writers[batch.sweeper].remove(batch.epoch)
    order(batch, "commits")
    // Without transaction_timeout, only a successor prevents the commit of a batch whose last message is late.
    if scenario.hasTransactionTimeout || !batch.isLastMessageLate { withinLease(batch, "commits") }
    committed[token(of: batch), default: (0, 0)].batches += 1
    committed[token(of: batch), default: (0, 0)].rows += batch.rows
    for job in batch.jobs where jobs.insert(job).inserted {
      jobCounts[job.slot, default: [:]][job.target, default: 0] += 1
      if jobCounts[job.slot]![job.target]! > 1 {
        violated("target \(job.target) has more than one job of slot \(job.slot)")
      }
    }
  }

  /// The server reports that a batch is done.
  func answered(_ batch: PostgresServer.Batch) {
    answered[token(of: batch), default: 0] += 1
  }

  func exists(_ job: Job) -> Bool { jobs.contains(job) }

  func slot(of epoch: Int64, _ sweeper: Int) -> Int64 { grants[sweeper][epoch]?.slot ?? 0 }

  private func token(of batch: PostgresServer.Batch) -> String { grants[batch.sweeper][batch.epoch]?.token ?? "" }

  /// A run gave up because another run's session holds the lock.
  func gaveWay(_ epoch: Int64, to holder: Int64?, _ sweeper: Int) {
    guard let holder, holder < epoch, world.now > alternatesUntil else { return }
    violated("epoch \(epoch) gave way to the session of epoch \(holder), its predecessor (sweeper \(sweeper))")
  }

  private func order(_ batch: PostgresServer.Batch, _ what: String) {
    if unaware.contains(token(of: batch)) { return }
    guard batch.epoch < highestEpoch[batch.sweeper], world.now > alternatesUntil else { return }
    violated(
      "epoch \(batch.epoch) \(what) after epoch \(highestEpoch[batch.sweeper]) began (sweeper \(batch.sweeper))")
  }

  private func withinLease(_ batch: PostgresServer.Batch, _ what: String) {
    if unaware.contains(token(of: batch)) { return }
    guard let token = tokens[self.token(of: batch)] else { return violated("epoch \(batch.epoch) has no lease at all") }
    // Not guaranteed: stepped clocks lengthen or shorten leases.
    guard redisSteppedAt < token.takenAt, postgresSteppedAt < token.takenAt - sampleLimit else { return }
    if redisTimeNow() > token.expiry {
      violated("epoch \(batch.epoch) \(what) \(redisTimeNow() - token.expiry) ms after its lease")
    }
  }

  /// Set by the simulation: Redis's time in ms now.
  var redisTimeNow: () -> Int64 = { 0 }

  // MARK: Runs and counts

  /// A replica first reports to Redis how a run ended.
  func ended(_ ended: EndedRun, _ sweeper: Int) {
    runs += 1
    let run = ended.run
    guard ended.result.isSuccess else { return }
    if triggeredRuns[sweeper].contains(run.epoch) {
      triggeredSlots[sweeper].insert(run.slot)
    } else {
      successes[sweeper][run.slot, default: 0] += 1
    }
    let (batches, rows) = committed[run.token] ?? (0, 0)
    if batches < answered[run.token, default: 0] {
      violated("epoch \(run.epoch) succeeded with batches that were not committed")
    }
    if rows != ended.result.count.changed {
      violated("epoch \(run.epoch) succeeded with \(rows) changed rows, and told of \(ended.result.count.changed)")
    }
  }

  /// A replica's life or the simulation has ended: each slot that it attended must have been counted once.
  func counted(skipped: Int, expected: Int, _ sweeper: Int) {
    guard redisSteppedAt < 0, skipped != expected else { return }
    violated("\(expected) slots of sweeper \(sweeper) were left to others, and \(skipped) were counted")
  }

  // MARK: Faults

  func redisLostItsData() {
    lostAt = world.now
    forget()
  }

  private func forget() {
    pausedSweepers = []
    for sweeper in completedSlots.indices {
      completedSlots[sweeper] = .min
      isEpochLost[sweeper] = true
    }
    excuseLostEpochs()
  }

  /// Not guaranteed: after a loss, epochs follow the clock, which was stepped back before or is stepped back now.
  private func excuseLostEpochs() {
    for sweeper in highestEpoch.indices where isEpochLost[sweeper] && highestEpoch[sweeper] > redisTimeNow() {
      highestEpoch[sweeper] = 0
    }
  }

  /// Not guaranteed: the run cannot know how long its machine was suspended.
  func stoodStill(_ token: String) {
    unaware.insert(token)
  }

  func redisForgot() {
    lostAt = .min / 2
    forgotAt = world.now
    forget()
    alternatesUntil = max(alternatesUntil, world.now + lease)
  }

  func redisClockStepped(by microseconds: Int64) {
    redisSteppedAt = world.now
    latestTime = max(latestTime, redisTimeNow() - microseconds / 1_000)
    for sweeper in completedSlots.indices { completedSlots[sweeper] = .min }
    excuseLostEpochs()
    if microseconds > 0 { alternatesUntil = max(alternatesUntil, world.now + lease) }
  }

  func postgresClockStepped(by microseconds: Int64) {
    postgresSteppedAt = world.now
    if microseconds < 0 { alternatesUntil = max(alternatesUntil, world.now + sampleLimit - microseconds + lease) }
  }

  /// No fault occurs from `begin` to `end`.
  func isQuiet(from begin: Int64, to end: Int64) {
    quiet.append((begin, end))
  }

  /// The time after a fault until a sweeper runs as if there had been none: overdue runs done, stale locks expired.
  func recovery(of sweeper: Int) -> Int64 {
    scenario.intervals[sweeper] * 1_000 + 2 * lease + 10_000_000
  }

  /// Whether no fault occurred from `begin` to `end`, and no earlier one still had effects.
  func wasQuiet(from begin: Int64, to end: Int64, _ sweeper: Int) -> Bool {
    quiet.contains { $0.begin + recovery(of: sweeper) <= begin && end < $0.end }
  }

  /// Soon after losing its data, Redis knows the hourly sweeper again. Not guaranteed after failover to an older
  /// replica, which may lack only this sweeper's record.
  func watchRareSweeper(_ redis: RedisServer) {
    guard scenario.later != nil else { return }
    for window in quiet {
      let time = window.begin + recovery(of: 0)
      guard time < window.end else { continue }
      world.at(time) { [self] in
        if lostAt > 0, redis.sweepers[scenario.rare].record == nil {
          violated("Redis does not know sweeper \(scenario.rare)")
        }
      }
    }
  }

  // MARK: The end

  func check(_ redis: RedisServer) {
    for sweeper in scenario.intervals.indices {
      let interval = scenario.intervals[sweeper] * 1_000
      let grid = scenario.grid(sweeper)
      for window in quiet {
        let begin = window.begin + recovery(of: sweeper)
        // The clock has not been stepped since, so a slot's true time is known.
        var slot = grid.slot(after: redis.clock.reading(at: begin) / 1_000)
        while redis.clock.time(of: slot * 1_000) + interval < window.end, redisSteppedAt < window.begin {
          check(slot, sweeper)
          slot += scenario.intervals[sweeper]
        }
      }
    }
  }

  private func check(_ slot: Int64, _ sweeper: Int) {
    guard slot > latestTime else { return }
    let count = successes[sweeper][slot, default: 0]
    let isTriggered = triggeredSlots[sweeper].contains(slot)
    if count == 0, scenario.probesFirst(sweeper) { return }
    if count != 1, !(isTriggered && count == 0) {
      violated("slot \(slot) of sweeper \(sweeper) ran \(count) times while everything worked")
    }
    guard sweeper == Scenario.discovery else { return }
    for target in 0..<scenario.targets where jobCounts[slot]?[target, default: 0] != 1 {
      violated("target \(target) has no job of slot \(slot)")
    }
  }
}
