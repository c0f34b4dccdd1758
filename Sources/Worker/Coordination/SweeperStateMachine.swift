// What one replica does about one sweeper, from boot to drain, as a pure state machine: it returns the next action, and
// each action's outcome is an event. Invariants: no take is sent while an outcome is unknown; no retry precedes the
// time reported to Redis. Driven by SweeperLoop, in the simulator in virtual time.

import Reactor

/// The states of a replica in a sweeper's slots:
///
///                  idle, held, paused, settling
///            ┌───────────────────────────────────────┐
///            ▼            slot begins                │            taken
///     ┌── waiting ───────────────────────────────▶ asking ──────────────────────▶ running
///     │      ▲  ▲                                    │ no answer                     │ ended
///     │      │  └────────── confirmed ─────────┐     ▼                               ▼
///     │      │ Redis is back                   │   silent ◀──── no answer ──── settling accounts
///     │      └─────────────────────────────────┼─────┘ ── a pause ────────────▶      │
///     │ drain                                  └─────────────────────────────────────┘
///     └──▶ settling accounts, for as long as a lock of ours can last ──▶ end
///
/// Accounts are what Redis has not confirmed: the end of the last run, which is sent until it is answered, and the lock
/// of an unanswered take, which is released by its token. There is at most one of each, because no take is sent
/// while either is open.
package struct SweeperStateMachine: Sendable {
  /// The next action, and the event that ends it.
  package enum Action: Equatable, Sendable {
    /// Ask for a run: `answered` or `unanswered`.
    case take(TakeMode)
    /// Run: `ended`.
    case run(Run)
    /// Report a run's end to Redis: `confirmed` or `unanswered`.
    case complete(EndedRun)
    /// Release a lock that may be ours: `released` or `unanswered`.
    case release(token: String)
    /// Sleep until then, or until the worker drains.
    case wait(until: MonotonicInstant)
    /// Sleep until then, even if the worker drains.
    case pause(until: MonotonicInstant)
    /// Wait until Redis is available, until then, or until the worker drains: `woke`.
    case waitForRedis(until: MonotonicInstant)
    case end
  }

  /// An unanswered take: the lock may be ours. It may still be in flight over a connection that was given up, and Redis
  /// can execute it until its not-after, so an earlier release would be in vain.
  package struct LostTake: Equatable, Sendable {
    package let token: String
    package let executableUntil: MonotonicInstant

    package init(token: String, executableUntil: MonotonicInstant) {
      self.token = token
      self.executableUntil = executableUntil
    }
  }

  /// The order in which replicas ask when something becomes due. Replicas that ask during a run find the lock held and
  /// have to ask again. So one asks first, and the others when its run is usually over.
  private enum Turn {
    /// It ran last, and stays first as long as it lives and succeeds.
    case first
    case other
    /// Its run has just failed, perhaps for a local reason: another replica, if any, makes the next try.
    case last

    /// Its part of the range of delays.
    package var share: ClosedRange<Double> {
      switch self {
      case .first: 0...0
      case .other: 0.2...0.8
      case .last: 0.8...1
      }
    }
  }

  private enum Phase: Equatable, Sendable {
    case waiting(until: MonotonicInstant)
    case running(Run)
    case silent(pauseUntil: MonotonicInstant, until: MonotonicInstant)
  }

  /// After a failure: 1 s, doubling, 20% jitter, at most an hour (and never beyond the next slot).
  package static let retry = Backoff(initial: .seconds(1), cap: .seconds(3_600), jitter: 0.2)

  /// The delay before Redis is asked again after no answer, or an error while connected.
  package static let silence = Backoff(initial: .milliseconds(200), cap: .seconds(2), jitter: 0.2)

  /// When a replica that gave a run back asks again, if it does not end.
  package static let givenBackDelay = Duration.seconds(1)

  /// The maximum delay after a slot's start, so that replicas do not ask at the same moment; 1/20 of a short wait.
  package static let jitterLimit = Duration.seconds(1)

  /// How long beyond two leases to wait for a new schedule record, before `once` ends and slots become failures. It
  /// takes one lease, and a replica with a longer one may have created it.
  package static let settlingReserve = Duration.seconds(10)

  private var grid: SlotGrid
  private let leaseDuration: Duration
  private let isOnce: Bool
  /// When `once` stops waiting for a new schedule record.
  private let onceEnd: MonotonicInstant
  private var mode: TakeMode
  private var accounting: SlotAccounting
  private var phase: Phase
  private var silences = silence
  private var unconfirmed: EndedRun?
  private var lostTake: LostTake?
  /// The slot that this replica ran successfully, unless another one has run a later one since.
  private var ranSlot: Int64?
  /// When open accounts expire: a lock of ours has expired by then.
  private var accountsEnd = MonotonicInstant(nanoseconds: .min)
  /// Whether `once` ends because no schedule record allowed a run in time.
  package private(set) var timedOutSettling = false
  /// Since when Redis has had no settled record.
  private var settlingSince: MonotonicInstant?
  /// Whether that has lasted longer than one loss of Redis's data explains.
  package private(set) var settlesForever = false
  /// `once` has its outcome.
  private var isConcluded = false
  /// The sweeper's pause when last seen. A take carries it, so that it survives a loss of Redis's data; a record
  /// without it was resumed, which ends it.
  package private(set) var pause: Pause?

  /// - Parameter once: ends after attending the first slot, due or not.
  package init(grid: SlotGrid, leaseDuration: Duration, mode: TakeMode, once: Bool = false, at now: MonotonicInstant) {
    self.grid = grid
    self.leaseDuration = leaseDuration
    self.mode = mode
    isOnce = once
    onceEnd = now.advanced(by: leaseDuration * 2 + Self.settlingReserve)
    accounting = SlotAccounting(grid: grid)
    phase = .waiting(until: now)
  }

  /// Whether the last call to Redis had no answer. A successful release does not clear it: a server that is full
  /// refuses takes but accepts a release.
  package var isSilent: Bool { silences.failures > 0 }

  /// Whether a run has ended but Redis has not confirmed it.
  package var isConfirming: Bool { unconfirmed != nil }

  private var hasAccounts: Bool { unconfirmed != nil || lostTake != nil }

  /// The next action, the same until one of its events.
  package func next(at now: MonotonicInstant, isDraining: Bool) -> Action {
    if case .running(let run) = phase { return .run(run) }
    let isEnding = isDraining || (isOnce && isConcluded)
    let mustSettle = hasAccounts && !(isEnding && now >= accountsEnd)
    if case .silent(let pauseUntil, let until) = phase {
      if !isEnding { return now < pauseUntil ? .wait(until: pauseUntil) : .waitForRedis(until: until) }
      if mustSettle, now < pauseUntil { return .pause(until: pauseUntil) }
    }
    if mustSettle, let unconfirmed { return .complete(unconfirmed) }
    if mustSettle, let lostTake {
      let until = lostTake.executableUntil.advanced(by: .milliseconds(1))
      return now < until ? .pause(until: until) : .release(token: lostTake.token)
    }
    if isEnding { return .end }
    if case .waiting(let until) = phase, now < until { return .wait(until: until) }
    return .take(mode)
  }

  // MARK: Events

  /// Redis answered a take; `redisTime` is its clock in ms.
  ///
  /// - Parameter jitter: from 0 up to 1, drawn anew for each event.
  /// - Returns: what to count.
  package mutating func answered(
    _ answer: TakeAnswer, redisTime: Int64, at now: MonotonicInstant, jitter: Double
  ) -> [SlotOutcome] {
    silences.reset()
    notePause(answer)
    noteSettling(answer, at: now)
    switch answer {
    case .late, .settling:
      if isOnce, now >= onceEnd { (isConcluded, timedOutSettling) = (true, true) }
    case .held(let slot, _), .stuck(let slot):
      isConcluded = true
      if slot != ranSlot { ranSlot = nil }
    case .idle(let slot, _):
      (isConcluded, mode) = (true, .due)
      if slot != ranSlot { ranSlot = nil }
    case .taken, .paused:
      (isConcluded, mode) = (true, .due)
    }
    let (counts, action) = accounting.answered(answer, at: redisTime, settlesForever: settlesForever)
    switch action {
    case .run(let run): phase = .running(run)
    case .wait(let milliseconds): wait(milliseconds, from: now, turn, jitter)
    case .askAgain: phase = .waiting(until: now)
    }
    return counts
  }

  /// PostgreSQL said that nothing is due, so Redis was not asked. `redisTime` is its estimated clock in ms.
  ///
  /// - Returns: what to count.
  package mutating func foundNothing(redisTime: Int64, at now: MonotonicInstant, jitter: Double) -> [SlotOutcome] {
    wait(max(1, grid.slot(after: redisTime) - redisTime), from: now, turn, jitter)
    return accounting.foundNothing(at: redisTime)
  }

  private mutating func noteSettling(_ answer: TakeAnswer, at now: MonotonicInstant) {
    switch answer {
    case .late: break
    case .settling:
      let since = settlingSince ?? now
      settlingSince = since
      settlesForever = now >= since.advanced(by: leaseDuration * 2 + Self.settlingReserve)
    case .taken, .held, .stuck, .idle, .paused: (settlingSince, settlesForever) = (nil, false)
    }
  }

  private mutating func notePause(_ answer: TakeAnswer) {
    switch answer {
    case .late: break
    case .paused(_, let seen): pause = seen
    case .taken, .held, .stuck, .idle, .settling: pause = nil
    }
  }

  /// The run ended.
  package mutating func ended(_ run: EndedRun, at now: MonotonicInstant, jitter: Double) {
    var run = run
    if let failure = run.result.failure {
      let interval = Duration.milliseconds(grid.intervalMilliseconds)
      let delay = Self.retry.delay(afterFailures: run.run.failures + 1, jitter: jitter)
      run.retryDelay = failure.isPermanent ? interval : min(interval, delay)
    }
    unconfirmed = run
    accountsEnd = now.advanced(by: leaseDuration)
    phase = .waiting(until: now)
  }

  /// Redis has recorded the run's end.
  package mutating func confirmed(redisTime: Int64, at now: MonotonicInstant, jitter: Double) {
    silences.reset()
    guard let ended = unconfirmed.take() else {
      preconditionFailure("Redis confirmed the end of a run that it was not told of")
    }
    let run = ended.run
    // A slot that began during the run is due at once; a clock that stepped back makes no wait longer.
    let untilNextSlot = min(max(0, run.nextSlot - redisTime), grid.slot(after: redisTime) - redisTime)
    ranSlot = ended.result.isSuccess ? run.slot : nil
    switch ended.result {
    case .failure: wait(min(untilNextSlot, ended.retryDelay.milliseconds + 1), from: now, .last, jitter)
    case .success: wait(untilNextSlot, from: now, turn, jitter)
    // The slot is still due.
    case .drained, .off: wait(min(untilNextSlot, Self.givenBackDelay.milliseconds), from: now, .last, jitter)
    }
  }

  /// The unanswered take's lock is not ours, or no longer.
  package mutating func released() {
    lostTake = nil
  }

  /// Redis did not answer, or with an error. `redisTime` is its estimated clock in ms.
  ///
  /// - Parameter lostTake: the take, if its outcome is unknown.
  /// - Returns: what to count.
  package mutating func unanswered(
    _ lostTake: LostTake? = nil, redisTime: Int64?, at now: MonotonicInstant, jitter: Double
  ) -> [SlotOutcome] {
    isConcluded = true
    if let lostTake {
      self.lostTake = lostTake
      accountsEnd = lostTake.executableUntil.advanced(by: leaseDuration)
    }
    let untilNextSlot = redisTime.map { grid.slot(after: $0) - $0 } ?? grid.intervalMilliseconds
    phase = .silent(
      pauseUntil: now.advanced(by: silences.next(jitter: jitter)),
      until: now.advanced(by: .milliseconds(untilNextSlot)))
    return accounting.unanswered(estimate: redisTime)
  }

  /// The wait for Redis is over, however it ended.
  package mutating func redisWaitEnded(at now: MonotonicInstant, jitter: Double) {
    // All replicas see Redis come back at the same moment.
    wait(0, from: now, spreadOver: grid.intervalMilliseconds, turn, jitter)
  }

  /// Whether the slots may change: a current run, and one that Redis has not confirmed, belong to the old ones.
  package var mayChangeSlots: Bool {
    if case .running = phase { return false }
    return unconfirmed == nil
  }

  /// The sweeper has a new interval. Its slots are asked for at once; as after boot, the first take returns the time of
  /// the next one.
  ///
  /// - Returns: what to count: an open old slot ends here.
  package mutating func changed(to newGrid: SlotGrid, at now: MonotonicInstant) -> [SlotOutcome] {
    precondition(mayChangeSlots, "a run goes on in its own slot")
    guard newGrid != grid else { return [] }
    let counts = accounting.drained()
    grid = newGrid
    accounting = SlotAccounting(grid: newGrid)
    ranSlot = nil
    askNow(at: now)
    return counts
  }

  /// A run may be due now, whatever Redis last answered. A run and a wait for Redis continue.
  package mutating func askNow(at now: MonotonicInstant) {
    if case .waiting = phase { phase = .waiting(until: now) }
  }

  /// The machine has ended: an open slot ends here.
  package mutating func finished() -> [SlotOutcome] {
    accounting.drained()
  }

  private var turn: Turn { ranSlot == nil ? .other : .first }

  private mutating func wait(
    _ milliseconds: Int64, from now: MonotonicInstant, spreadOver range: Int64? = nil, _ turn: Turn, _ jitter: Double
  ) {
    let limit = min(Self.jitterLimit.milliseconds, (range ?? milliseconds) / 20)
    let share = turn.share.lowerBound + (turn.share.upperBound - turn.share.lowerBound) * jitter
    let delay = milliseconds + Int64(Double(limit) * share)
    phase = .waiting(until: now.advanced(by: .milliseconds(delay)))
  }
}
