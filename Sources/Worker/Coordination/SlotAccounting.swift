// Which of a sweeper's slots a replica attended, as a pure state machine: from Redis's answers it derives what to count
// and do. Invariant: an attended slot is counted once. Part of SweeperStateMachine.

/// How a replica accounts for the slots of one sweeper:
///
///     boot ─▶ learning ──────── idle ───────▶ waiting ◀───────────────┐
///                │                             │   ▲                  │
///                │                 timer fired │   │ idle, paused:    │
///                │                             ▼   │ count skipped    │ count success
///                │     ┌── held: wait ────── asking                   │ or failure
///                │     └───────────────────▶   │                      │
///                └───────── taken ─────────────┴──────▶ running ──────┘
///
/// `learning` is the first take after boot: it returns the time of the next slot, and counts only if it leads to a run.
/// A held slot stays open until its outcome is known: skipped if another replica ran it, this replica's own result if
/// it ran after the other one's lock was gone, or a failure if until the slot's end the lock had no expiry or Redis
/// lost its data again and again.
package struct SlotAccounting: Sendable {
  /// The next action. Waits are in ms from now.
  package enum Action: Equatable {
    case run(Run)
    case wait(milliseconds: Int64)
    /// The take arrived too late (the clocks disagreed): ask again at once.
    case askAgain
  }

  /// How often a lock without expiry is checked: somebody may have deleted it.
  package static let stuckPollMilliseconds: Int64 = 60_000

  package let grid: SlotGrid
  /// A slot that was attended but not counted yet.
  private var open: Int64?
  /// Whether, at the last take in the open slot, the obstacle to a run could not end by itself.
  private var isStuck = false
  /// The slot in which the first take after boot had no answer.
  private var firstUnanswered: Int64?
  /// The newest counted slot.
  private var counted = Int64.min
  private var isLearning = true
  private var isLate = false

  package init(grid: SlotGrid) {
    self.grid = grid
  }

  /// Redis answered at `now` (ms of its clock).
  ///
  /// - Parameter settlesForever: whether a new record settles for longer than one loss of Redis's data explains.
  package mutating func answered(
    _ answer: TakeAnswer, at now: Int64, settlesForever: Bool = false
  ) -> (counts: [SlotOutcome], action: Action) {
    noteTime(now)
    let wasLate = isLate
    isLate = answer == .late && !wasLate
    defer { if answer != .late { isLearning = false } }
    switch answer {
    case .taken(let run):
      let counts = closeOpen(before: run.slot)
      open = nil
      counted = max(counted, run.slot)
      return (counts, .run(run))
    case .held(let slot, let remaining):
      let counts = attend(slot)
      return (counts, .wait(milliseconds: max(1, min(remaining, grid.slot(after: now) - now))))
    case .stuck(let slot):
      let counts = attend(slot)
      isStuck = open == slot
      return (counts, .wait(milliseconds: max(1, min(Self.stuckPollMilliseconds, grid.slot(after: now) - now))))
    case .settling(let slot, let notBefore):
      let counts = attend(slot)
      isStuck = settlesForever && open == slot
      return (counts, .wait(milliseconds: max(1, notBefore - now)))
    case .idle(let slot, let due):
      let counts = attend(slot) + closeOpen(before: .max)
      return (counts, .wait(milliseconds: max(1, due - now)))
    case .paused(let slot, _):
      return (pause(slot), .wait(milliseconds: max(1, grid.slot(after: now) - now)))
    case .late:
      return ([], wasLate ? .wait(milliseconds: 1_000) : .askAgain)
    }
  }

  /// Nothing was due at `now` (ms of Redis's clock, estimated), so Redis was not asked.
  package mutating func foundNothing(at now: Int64) -> [SlotOutcome] {
    noteTime(now)
    let slot = grid.slot(at: now)
    let counts = closeOpen(before: slot)
    guard !isLearning, slot > counted else { return counts }
    open = nil
    counted = slot
    return counts + [.success]
  }

  /// Redis did not answer. `estimate` is its time in ms; if nil, nothing is counted.
  package mutating func unanswered(estimate: Int64?) -> [SlotOutcome] {
    guard let estimate else { return [] }
    let slot = grid.slot(at: estimate)
    if isLearning {
      // The slot under way at boot is not counted; those that begin while Redis is silent are.
      let first = firstUnanswered ?? slot
      firstUnanswered = first
      guard slot > first else { return [] }
    }
    let counts = closeOpen(before: slot)
    guard slot > counted else { return counts }
    open = nil
    counted = slot
    return counts + [.failure]
  }

  /// The replica drains: an open slot ends here.
  package mutating func drained() -> [SlotOutcome] {
    isStuck = false
    return closeOpen(before: .max)
  }

  /// If the clock steps back far, slots that were counted begin again and count again.
  private mutating func noteTime(_ now: Int64) {
    if counted > grid.slot(after: now) { counted = grid.slot(at: now) - grid.intervalMilliseconds }
  }

  private mutating func attend(_ slot: Int64) -> [SlotOutcome] {
    guard !isLearning, slot > counted else { return [] }
    let counts = closeOpen(before: slot)
    open = slot
    isStuck = false
    return counts
  }

  /// A slot in which the sweeper is paused, even if the slot was held before.
  private mutating func pause(_ slot: Int64) -> [SlotOutcome] {
    let counts = closeOpen(before: slot)
    guard !isLearning, slot > counted else { return counts }
    (open, counted, isStuck) = (nil, slot, false)
    return counts + [.paused]
  }

  private mutating func closeOpen(before slot: Int64) -> [SlotOutcome] {
    guard let attended = open, attended < slot else { return [] }
    open = nil
    counted = max(counted, attended)
    return [isStuck ? .failure : .skippedLock]
  }
}
