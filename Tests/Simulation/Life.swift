// One worker process: the worker's own SweepService on modelled servers, and an observer's record of it.
// Invariant: it never influences the service; it records what was asked, answered and counted.

import Coordination
import Logging
import Reactor
import Worker
import _StringProcessing

@EventLoop
final class Life {
  /// How long beyond its grace a process may take to end: the last attempt of each notification.
  private static let lateness: Int64 = 1_500_000

  let replica: Replica
  let number: Int
  let clock: LoopClock
  private(set) var isAlive = true
  private var isHeld = false
  /// Whether it was stopped or suspended while shutting down, which extends its grace.
  private var wasHeldWhileDraining = false
  private var isDraining = false
  private var inbox: [@EventLoop () -> Void] = []
  private let ending = Latch()
  private(set) var pool: ModelledPool!
  private var service: SweepService!
  private(set) var sender: ModelledSender!
  private var observations: [Observation]
  /// Every token that it generated.
  private(set) var tokens: Set<String> = []
  /// Redis's clock as of the last answer to this process.
  private var redisClock: ClockSample?

  init(_ replica: Replica, number: Int, clock: LoopClock) {
    self.replica = replica
    self.number = number
    self.clock = clock
    observations = replica.scenario.intervals.map { _ in Observation() }
    pool = ModelledPool(self, replica.postgres)
    sender = ModelledSender(self)
    let world = replica.world
    let name = "replica \(replica.number)"
    service = SweepService(
      replica.scenario.settings, sweepers: replica.scenario.sweepers, redis: ModelledRedis(self, replica.redis),
      pool: pool, sender: sender, clock: clock,
      random: Random(from: SeededRandom(seed: world.random.next())), replica: name, registry: MetricsRegistry(),
      logger: Logger(label: name) { _ in WatchedLog(life: self, level: world.isTraced ? .debug : .info) })
  }

  private var world: World { replica.world }
  private var judge: Judge { replica.judge }

  func note(_ text: @autoclosure () -> String) {
    replica.note(text())
  }

  // MARK: Its course

  /// Runs until it exits, is killed, or is cancelled.
  func run() async {
    guard isAlive else { return }
    let (service, ending, clock) = (service!, ending, world.clock)
    let hasEnded = await withTaskGroup(of: Bool.self) { group in
      group.addTask {
        await service.run()
        return true
      }
      group.addTask {
        do {
          try await clock.sleep(until: .never, orUntil: ending)
        } catch {
          // The simulation or the service has ended.
        }
        return false
      }
      let first = await group.next() ?? false
      group.cancelAll()
      return first
    }
    if isAlive {
      // Only a process that exits by itself has complete counts.
      closeBooks()
      if hasEnded { sender.check() }
      end(hasEnded ? "has ended" : "is still alive")
    }
    self.service = nil
    inbox = []
  }

  /// The process is gone.
  func end(_ how: String) {
    guard isAlive else { return }
    note(how)
    isAlive = false
    pool.died()
    inbox = []
    ending.open()
  }

  func drain() {
    guard !isDraining else { return }
    note("drains")
    isDraining = true
    receive { [self] in service.requestShutdown() }
    world.after(Scenario.grace + Self.lateness) { [self] in
      guard isAlive, !wasHeldWhileDraining else { return }
      judge.violated("replica \(replica.number) did not end within its grace")
    }
  }

  /// - Returns: false if it is already held.
  func hold() -> Bool {
    guard !isHeld else { return false }
    isHeld = true
    wasHeldWhileDraining = true
    clock.hold()
    return true
  }

  func release(losing lost: Duration) {
    isHeld = false
    wasHeldWhileDraining = isDraining
    // Received messages and due timers can run in either order.
    let isInboxFirst = world.oneIn(2)
    if !isInboxFirst { clock.release(losing: lost) }
    let arrived = inbox
    inbox = []
    for body in arrived { receive(body) }
    if isInboxFirst { clock.release(losing: lost) }
  }

  /// Runs `body` as part of this process: later if it is held, never after its end.
  func receive(_ body: @escaping @EventLoop () -> Void) {
    guard isAlive else { return }
    if isHeld { inbox.append(body) } else { body() }
  }
}

// MARK: - What is seen of it

extension Life {
  /// What is known about one of its sweepers.
  private struct Observation {
    /// A take that awaits its answer, or whose outcome is unknown.
    var openToken: String?
    var runToken: String?
    /// Whether the run has a deadline on PostgreSQL's clock.
    var hasSample = false
    var isAsking = false
    var books = SlotBooks()
    var failedRuns: UInt64 = 0
    var drainedRuns: UInt64 = 0
    /// Failures counted without a run.
    var silentFailures: UInt64 = 0
  }

  /// Whether the sender of a take still awaits its answer, or knows that the outcome is unknown.
  func awaits(_ token: String, _ sweeper: Int) -> Bool {
    !isAlive || observations[sweeper].openToken == token
  }

  /// A loop calls a script in Redis.
  func calls(_ call: ScheduleModel.Call, _ sweeper: Int) {
    observations[sweeper].isAsking = true
    switch call {
    case .take(let ask):
      observations[sweeper].openToken = ask.token
      tokens.insert(ask.token)
      judge.asked()
    case .complete(let ended, _, _, _):
      guard ended.run.token == observations[sweeper].runToken else { return }
      observations[sweeper].runToken = nil
      if ended.result.failure != nil { observations[sweeper].failedRuns += 1 }
      judge.ended(ended, sweeper)
      sender.changed(ended.result.count.changed)
    case .renew, .release, .trigger, .leave: break
    }
  }

  func answered(_ call: ScheduleModel.Call, _ answer: ScheduleModel.Answer, _ sweeper: Int) {
    observations[sweeper].isAsking = false
    switch (call, answer) {
    case (.take(let ask), .take(let answer, _)):
      note("sweeper \(sweeper): \(answer)")
      observations[sweeper].openToken = nil
      observations[sweeper].books.answered(answer)
      if case .taken(let run) = answer {
        observations[sweeper].runToken = ask.token
        observations[sweeper].hasSample = false
        observations[sweeper].books.ran(run.slot)
      }
    case (.release, _): observations[sweeper].openToken = nil
    default: break
    }
  }

  func failed(_ call: ScheduleModel.Call, _ sweeper: Int, isUnknown: Bool) {
    observations[sweeper].isAsking = false
    if case .take = call, !isUnknown { observations[sweeper].openToken = nil }
  }

  /// Redis returned its time.
  func noteRedisClock(_ milliseconds: Int64) {
    redisClock = ClockSample(reading: milliseconds, arrivedAt: clock.now, unitsPerSecond: 1_000)
  }

  /// Redis did not answer: the loops count this in the slot that they assume.
  func wasNotAnswered() {
    note("Redis does not answer")
    let wall = clock.wallTime
    let time = redisClock?.estimate(at: clock.now) ?? wall.seconds * 1_000 + wall.nanoseconds / 1_000_000
    world.after(0) { [self] in
      guard isAlive, service != nil else { return }
      for sweeper in observations.indices { readFailures(sweeper, at: time) }
    }
  }

  private func readFailures(_ sweeper: Int, at time: Int64) {
    let silent = service.count(.failure, sweeper: sweeper) - observations[sweeper].failedRuns
    guard silent > observations[sweeper].silentFailures else { return }
    observations[sweeper].silentFailures = silent
    observations[sweeper].books.failed(replica.scenario.grid(sweeper).slot(at: time))
  }

  /// This sweeper sends a batch with a deadline on PostgreSQL's clock.
  func sendsBatch(_ sweeper: Int) {
    observations[sweeper].hasSample = true
  }

  /// The machine is suspended.
  func standsStill() {
    for observation in observations {
      if let token = observation.openToken { judge.stoodStill(token) }
      if let token = observation.runToken, !observation.hasSample { judge.stoodStill(token) }
    }
  }

  /// Each attended slot must have been counted once, except for requests that the end interrupted.
  private func closeBooks() {
    // A slot in which Redis and PostgreSQL were asked is no longer left to others.
    for (sweeper, observation) in observations.enumerated()
    where !observation.isAsking && !replica.scenario.probesFirst(sweeper) {
      let skipped = service.count(.skippedLock, sweeper: sweeper) - observation.drainedRuns
      judge.counted(skipped: Int(skipped), expected: observation.books.expected, sweeper)
    }
  }

  /// The service writes a log line.
  fileprivate func logged(_ message: String, _ metadata: Logger.Metadata) {
    guard isAlive else { return }
    if world.isTraced {
      let fields = metadata.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: " ")
      note("\(message) \(fields)")
    }
    if message == "a notification was dropped" { sender.dropped += 1 }
    guard case .string(let task)? = metadata["task"], let sweeper = replica.scenario.sweeper(named: task) else {
      return
    }
    switch message {
    case "run returned: the worker drains": observations[sweeper].drainedRuns += 1
    case "scheduler: task failed":
      guard let epoch = metadata["epoch"].flatMap({ Int64($0.description) }),
        let error = metadata["error"]?.description,
        error.contains("advisory lock")
      else { return }
      judge.gaveWay(epoch, to: replica.postgres.holder(of: sweeper), sweeper)
    default: break
    }
  }
}

/// The log of a modelled process, read only by the simulation.
private struct WatchedLog: LogHandler {
  let life: Life
  var logLevel: Logger.Level
  var metadata: Logger.Metadata = [:]

  init(life: Life, level: Logger.Level) {
    self.life = life
    logLevel = level
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let fields = event.metadata.map { metadata.merging($0) { $1 } } ?? metadata
    let (life, message) = (life, "\(event.message)")
    EventLoop.assumeIsolated { life.logged(message, fields) }
  }
}

/// The slots that a life attended, and the expected counts.
struct SlotBooks {
  private enum Entry { case open, left, ran, failed, paused }

  private var entries: [Int64: Entry] = [:]
  private var isLearning = true

  /// How many slots ended up left to others.
  var expected: Int {
    entries.values.count { $0 == .open || $0 == .left }
  }

  mutating func answered(_ answer: TakeAnswer) {
    switch answer {
    case .late: return
    case .taken: break
    case .held(let slot, _), .stuck(let slot), .settling(let slot, _): if !isLearning { enter(slot, .open) }
    case .paused(let slot, _):
      for (open, entry) in entries where entry == .open && open < slot { entries[open] = .left }
      if !isLearning { enter(slot, .paused) }
    case .idle(let slot, _):
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
    case .left, .ran, .failed, .paused: break
    }
  }
}
