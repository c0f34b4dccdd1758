// The shutdown of the process: first no new work, then the current batch is cancelled, then everything. A pure struct
// for the phases, and the object by which all parts observe them. Invariant: phases only advance.

import Reactor

/// The phases of a shutdown. It begins with a signal, or when there is nothing left to do.
///
///     running ── begin ──▶ draining ── the grace, less the reserve ──▶ cancelling ── the reserve ──▶ over
struct ShutdownPhases: Equatable, Sendable {
  enum Phase: Int, Comparable, Sendable {
    case running
    /// No new work; the current batch finishes.
    case draining
    /// The current batch is cancelled; the rest of the time is for releasing locks.
    case cancelling
    /// What still runs is cancelled.
    case over

    static func < (left: Phase, right: Phase) -> Bool { left.rawValue < right.rawValue }
  }

  /// The part of the grace that is reserved for releasing locks.
  static let releaseReserve = Duration.seconds(2)
  /// The least time for notifications after the sweeps have ended.
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

  /// When the current phase ends by itself; nil before the shutdown begins and when it is over.
  var phaseEnd: MonotonicInstant? {
    guard let begunAt else { return nil }
    switch phase {
    case .running, .over: return nil
    case .draining: return begunAt.advanced(by: grace - min(Self.releaseReserve, grace / 2))
    case .cancelling: return begunAt.advanced(by: grace)
    }
  }

  /// Advances to the phase at this instant.
  mutating func advance(to now: MonotonicInstant) {
    while let end = phaseEnd, now >= end { phase = phase == .draining ? .cancelling : .over }
  }

  /// Deadline for the whole shutdown. It leaves time for one attempt per sink even if a batch took long.
  func deadline(at now: MonotonicInstant) -> MonotonicInstant {
    max((begunAt ?? now).advanced(by: grace), now.advanced(by: Self.leastNotificationTime))
  }
}

/// The shutdown of one process, as its parts see it.
@EventLoop
final class Shutdown {
  /// Opens when no new work may begin.
  let draining = Latch()
  /// Opens when the current batch has to be cancelled.
  let cancelling = Latch()
  /// Whether a signal requested it.
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

  /// Deadline for the remaining work, such as notifications.
  var deadline: MonotonicInstant { phases.deadline(at: clock.now) }

  /// Makes `wakeUp` fire when no new work may begin.
  func add(_ wakeUp: WakeUp) { wakeUps.append(wakeUp) }

  /// A signal requests the shutdown.
  func request() {
    isRequested = true
    begin()
  }

  /// Begins the shutdown: a signal requested it, or there is nothing left to do.
  func begin() {
    phases.begin(at: clock.now)
    draining.open()
    for wakeUp in wakeUps { wakeUp.fire() }
  }

  /// Waits for the shutdown to begin, goes through its phases, and returns when it is over.
  ///
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  func run() async throws {
    try await clock.sleep(until: .never, orUntil: draining)
    while let end = phases.phaseEnd {
      try await clock.sleep(until: end)
      phases.advance(to: clock.now)
      if phases.phase >= .cancelling { cancelling.open() }
    }
  }
}
