// One run of a replica: renews the worker's own Lease and sends batches as BatchGuard says, as SweepRunner and
// GuardedSession do on the loop. Invariant: when it has ended it sends nothing more.

import Coordination
import Reactor

final class ReplicaRun {
  private unowned let part: SweeperPart
  private let grant: RunGrant
  private var lease: Lease
  private var ranges = PageRanges()
  private var entry = BatchGuard()
  private let tablePages: Int
  private var batches = 0
  private var isOver = false
  /// Whether the deadline of the lease's first grant was told on PostgreSQL's clock.
  private(set) var hasSample = false
  private var hasFailedOnLock = false
  private var waitNumber = 0
  /// When the answer that is waited for comes too late. A run without an answer by then has lost its lease, too.
  private var answerDeadline: MonotonicInstant?

  init(_ part: SweeperPart, _ grant: RunGrant) {
    self.part = part
    self.grant = grant
    let scenario = part.replica.scenario
    // Without the margin, and more: the run believes in a lease that Redis has let go.
    let more: Int64 = part.replica.mutation == .negativeMargin ? 4_000 : 0
    lease = Lease(duration: .milliseconds(scenario.leaseMilliseconds + more), takenAt: grant.takenAt)
    tablePages = part.sweeper == Scenario.discovery ? 0 : Int(part.replica.world.any(0...Int64(scenario.tablePages)))
  }

  var token: String { grant.token }

  private var replica: Replica { part.replica }
  private var postgres: PostgresServer { part.replica.postgres }

  func begin() {
    keep()
    connect()
  }

  /// The process is gone: the server sees its end, or goes on without knowing.
  func died() {
    isOver = true
  }

  func end(_ outcome: RunReport.Outcome, _ why: String = "") {
    guard !isOver else { return }
    isOver = true
    if outcome != .success, let session = part.session {
      // The pool cancels what is under way, and closes the connection where that does not help.
      part.session = nil
      part.sample = nil
      let postgres = postgres
      replica.deliver(\.postgresPath) { postgres.receive { postgres.end(session) } }
    }
    part.ended(grant, outcome, batches: batches, why: why)
  }

  // MARK: The lease

  private func keep() {
    guard !isOver else { return }
    switch lease.action(at: replica.now) {
    case .wait(let until): replica.wake(at: until) { [weak self] in self?.keep() }
    case .stop: end(.failure, "the lease was lost")
    case .renew: renew()
    }
  }

  private func renew() {
    guard replica.mutation != .renewalOff else {
      lease.unanswered(at: replica.now)
      return keep()
    }
    let sentAt = replica.now
    let deadline = min(lease.stopAt, sentAt.advanced(by: .seconds(2)))
    let (sweeper, judge, token) = (part.sweeper, replica.judge, grant.token)
    let lifetime = replica.scenario.leaseMilliseconds
    let notAfter = part.notAfter(deadline)
    replica.link.ask(
      by: deadline,
      { redis in
        redis.with(sweeper) { model, now in
          let isRenewed = model.renew(token: token, lease: lifetime, notAfter: notAfter, at: now)
          judge.redisTime = now
          if isRenewed { judge.renewed(token: token) }
          return isRenewed
        }
      },
      { [weak self] reply in
        guard let self, !isOver else { return }
        switch reply {
        case .answer(true): lease.renewed(sentAt: sentAt)
        case .answer(false): lease.refused()
        case .notSent, .unknown: lease.unanswered(at: replica.now)
        }
        keep()
      })
  }

  // MARK: The work

  private func connect() {
    if let session = part.session, postgres.isOpen(session) { return next() }
    guard postgres.condition != .away else {
      // Refused at once; the present step is not the run's place to end.
      return replica.wake(at: replica.now.advanced(by: .milliseconds(1))) { [weak self] in
        self?.end(.failure, "PostgreSQL is away")
      }
    }
    exchange(
      { [postgres] answer in answer(postgres.connect()) },
      then: { [weak self] session in
        self?.part.session = session
        self?.part.sample = nil
        self?.next()
      })
  }

  /// Asks PostgreSQL, and gives up when the lease's time is over.
  private func exchange<Answer>(
    _ request: @escaping (@escaping (Answer) -> Void) -> Void, then done: @escaping (Answer) -> Void
  ) {
    waitNumber += 1
    let number = waitNumber
    let hadDeadline = answerDeadline != nil
    answerDeadline = lease.stopAt
    if !hadDeadline { awaitDeadline() }
    replica.ask(request) { [weak self] answer in
      guard let self, !isOver, number == waitNumber else { return }
      waitNumber += 1
      done(answer)
    }
  }

  /// One timer for all exchanges, of which each has a later deadline than the one before.
  private func awaitDeadline() {
    guard let deadline = answerDeadline else { return }
    replica.wake(at: deadline) { [weak self] in
      guard let self, !isOver else { return }
      if answerDeadline == deadline { end(.failure, "PostgreSQL does not answer") } else { awaitDeadline() }
    }
  }

  private func next() {
    guard !isOver else { return }
    switch entry.next(at: replica.now, lease: &lease, sample: part.sample, isDraining: replica.isDraining) {
    case .sample:
      exchange(
        { [postgres] answer in answer(postgres.time) },
        then: { [weak self] time in
          self?.noteClock(time)
          self?.next()
        })
    case .send(let deadline):
      hasSample = true
      send(deadline)
    case .evict:
      let (sweeper, epoch) = (part.sweeper, grant.ticket.epoch)
      exchange(
        { [postgres] answer in answer(postgres.evict(sweeper, before: epoch)) },
        then: { [weak self] in
          self?.entry.evicted()
          self?.next()
        })
    case .pause(let duration):
      replica.wake(at: replica.now.advanced(by: duration)) { [weak self] in
        self?.entry.paused()
        self?.next()
      }
    case .stop(.drained): end(.drained)
    case .stop(.leaseLost): end(.failure, "the lease was lost")
    case .stop(.superseded):
      replica.judge.gaveWay(grant.ticket.epoch, to: postgres.holder(of: part.sweeper), part.sweeper)
      end(.failure, "superseded")
    case .stop(.foreignWorker), .stop(.preparedTransaction):
      preconditionFailure("the modelled fleet has one Redis, one namespace and no prepared transactions")
    }
  }

  private func noteClock(_ time: Int64) {
    part.sample = ClockSample(reading: time, arrivedAt: replica.now, unitsPerSecond: 1_000_000)
  }

  private func send(_ deadline: Int64) {
    guard let range = ranges.next, let session = part.session else { return end(.success) }
    let pages = max(0, min(range.upperBound, tablePages) - range.lowerBound)
    let length = 200 + Int64(pages) * replica.scenario.microsecondsPerPage
    var cut: (message: Int, length: Int64)?
    if let freeze = replica.freezeAtNextBatch {
      replica.freezeAtNextBatch = nil
      let message = Int(replica.world.any(0...3))
      if message > 0 { cut = (message, freeze + replica.world.any(0...2_000)) }
      replica.pause(freeze)
    }
    let batch = PostgresServer.Batch(
      sweeper: part.sweeper, grant: grant, deadline: deadline, writeLength: length, cut: cut, jobs: jobs())
    // Where it froze before it could send anything, this is done when it goes on.
    let transmit = { [weak self] in
      guard let self, !isOver else { return }
      exchange(
        { [postgres] answer in postgres.execute(batch, in: session, answer: answer) },
        then: { [weak self] answer in self?.answered(answer, range, .microseconds(length)) })
    }
    cut == nil ? replica.mine(transmit)() : transmit()
  }

  private func jobs() -> [Judge.Job] {
    guard part.sweeper == Scenario.discovery else { return [] }
    return (0..<replica.scenario.targets).map { target in
      let id = replica.mutation == .randomIDs ? replica.world.random.next() : 0
      return Judge.Job(target: target, slot: grant.ticket.slot, id: id)
    }
  }

  private func answered(_ answer: PostgresServer.Answer, _ range: Range<Int>, _ length: Duration) {
    switch answer {
    case .done(let clock, let hasVerdict):
      noteClock(clock)
      guard hasVerdict || replica.mutation == .verdictIgnored else {
        entry.contended()
        return next()
      }
      batches += 1
      entry = BatchGuard()
      hasFailedOnLock = false
      ranges.swept(range, in: length)
      if ranges.tablePages == nil { ranges.measured(pages: tablePages) }
      ranges.next == nil ? end(.success) : next()
    case .tooLate: end(.failure, "the deadline has passed")
    case .lockTimeout:
      // Once more with the locked rows left out; a lock on the whole table ends that, too.
      if hasFailedOnLock { return end(.failure, "a lock was waited for in vain") }
      hasFailedOnLock = true
      next()
    case .cancelled: end(.failure, "the statement was cancelled")
    case .gone: end(.failure, "the session is gone")
    }
  }
}
