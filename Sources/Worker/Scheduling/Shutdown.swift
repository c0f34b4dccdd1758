// How the process ends: no new work, then no waiting for the batch at hand, then at once. A pure struct for the phases,
// and what hands them on to all parts. Invariant: a phase never goes back.

import Reactor

/// The phases of a shutdown. It begins with a signal, or when there is nothing left to do.
///
///     running ── begin ──▶ draining ── the grace, less the reserve ──▶ cancelling ── the reserve ──▶ over
struct ShutdownPhases: Equatable, Sendable {
  enum Phase: Int, Comparable, Sendable {
    case running
    /// Nothing new begins; the batch at hand finishes.
    case draining
    /// The batch at hand is cancelled, while there is time to give the locks back.
    case cancelling
    /// What still runs is ended.
    case over

    static func < (left: Phase, right: Phase) -> Bool { left.rawValue < right.rawValue }
  }

  /// Of the grace, what is kept for giving the locks back.
  static let releaseReserve = Duration.seconds(2)
  /// How long notifications have in any case, once the sweeps have ended.
  static let leastNotificationTime = Duration.milliseconds(500)

  let grace: Duration
  private(set) var phase = Phase.running
  private var begunAt: MonotonicInstant?

  init(grace: Duration) {
    self.grace = grace
  }

  mutating func begin(at now: MonotonicInstant) {
    guard phase == .running else { return }
    phase = .draining
    begunAt = now
  }

  /// When the present phase ends by itself; nil before the beginning and after the end.
  var phaseEnd: MonotonicInstant? {
    guard let begunAt else { return nil }
    switch phase {
    case .running, .over: return nil
    case .draining: return begunAt.advanced(by: grace - min(Self.releaseReserve, grace / 2))
    case .cancelling: return begunAt.advanced(by: grace)
    }
  }

  /// Goes on to the phase that the time asks for.
  mutating func pass(to now: MonotonicInstant) {
    while let end = phaseEnd, now >= end { phase = phase == .draining ? .cancelling : .over }
  }

  /// Deadline for the whole shutdown: at least for one try of each sink that answers, also where a batch took long.
  func deadline(at now: MonotonicInstant) -> MonotonicInstant {
    max((begunAt ?? now).advanced(by: grace), now.advanced(by: Self.leastNotificationTime))
  }
}

/// The shutdown of one process, as its parts see it.
@EventLoop
final class Shutdown {
  /// Opens when nothing new is to begin.
  let draining = Latch()
  /// Opens when the batch at hand is to be cancelled.
  let cancelling = Latch()
  /// Whether a signal asked for it.
  private(set) var isRequested = false
  private var wakeUps: [WakeUp] = []
  private var phases: ShutdownPhases
  private let clock: LoopClock

  init(grace: Duration, clock: LoopClock) {
    phases = ShutdownPhases(grace: grace)
    self.clock = clock
  }

  var isDraining: Bool { phases.phase >= .draining }
  var isOver: Bool { phases.phase == .over }

  /// Deadline for what is still to be done, notifications for instance.
  var deadline: MonotonicInstant { phases.deadline(at: clock.now) }

  /// Has `wakeUp` fire when nothing new is to begin.
  func add(_ wakeUp: WakeUp) { wakeUps.append(wakeUp) }

  /// A signal asks to end.
  func request() {
    isRequested = true
    begin()
  }

  /// There is nothing left to do, or a signal asked to end.
  func begin() {
    phases.begin(at: clock.now)
    draining.open()
    for wakeUp in wakeUps { wakeUp.fire() }
  }

  /// Waits for the beginning, goes through the phases, and returns when it is over.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  func run() async throws {
    try await clock.sleep(until: .never, orUntil: draining)
    while let end = phases.phaseEnd {
      try await clock.sleep(until: end)
      phases.pass(to: clock.now)
      if phases.phase >= .cancelling { cancelling.open() }
    }
  }
}
