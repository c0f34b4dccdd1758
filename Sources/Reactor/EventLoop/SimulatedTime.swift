// Simulated time: a test advances it, or it passes while the loop has nothing to do.
// Invariant: timers fire in the order of their instants, then in the order in which they were started, so a run on one
// loop is reproducible. Used by LoopClock and TimerWatcher.

/// The current instant and the timers of a simulated clock.
@EventLoop
final class SimulatedTime {
  /// The wall clock's time at monotonic zero: a day in 2023.
  private static let wallSeconds: Int64 = 1_700_000_000

  private struct Entry {
    let deadline: MonotonicInstant
    let number: UInt64
    let timer: TimerWatcher

    func isLater(than deadline: MonotonicInstant, _ number: UInt64) -> Bool {
      self.deadline == deadline ? self.number > number : self.deadline > deadline
    }
  }

  private(set) var now = MonotonicInstant(nanoseconds: 1_000_000_000)
  /// The number of sleeping tasks.
  var sleeperCount = 0
  private let passesWhenIdle: Bool
  /// Sorted so that the next timer is the last.
  private var entries: [Entry] = []
  private var lastNumber: UInt64 = 0

  /// - Parameter passesWhenIdle: jump to the next timer when the loop has nothing to do.
  nonisolated init(passesWhenIdle: Bool) {
    self.passesWhenIdle = passesWhenIdle
  }

  var wall: WallClockTime {
    let (seconds, nanoseconds) = now.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    return WallClockTime(seconds: Self.wallSeconds + seconds, nanoseconds: nanoseconds)
  }

  var nextTimer: MonotonicInstant? { entries.last?.deadline }

  /// Schedules `timer` for `deadline`, which must be in the future. Returns the number that stops it.
  func start(_ timer: TimerWatcher, at deadline: MonotonicInstant) -> UInt64 {
    lastNumber += 1
    entries.insert(Entry(deadline: deadline, number: lastNumber, timer: timer), at: place(deadline, lastNumber))
    tellLoop()
    return lastNumber
  }

  func stop(_ number: UInt64, at deadline: MonotonicInstant) {
    let place = place(deadline, number)
    guard place < entries.count, entries[place].number == number else { return }
    entries.remove(at: place)
    tellLoop()
  }

  /// Advances the time and fires what is due.
  func advance(by duration: Duration) {
    now = now.advanced(by: duration)
    fireDue()
  }

  /// Jumps to the next timer, since nothing else will happen before it. Called by the loop.
  func jump() {
    guard let next = entries.last, next.deadline < .never else { return }
    now = next.deadline
    fireDue()
  }

  private func fireDue() {
    while let next = entries.last, next.deadline <= now {
      entries.removeLast()
      tellLoop()
      next.timer.fire()
    }
  }

  /// The index of a timer, or where it would be inserted.
  private func place(_ deadline: MonotonicInstant, _ number: UInt64) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].isLater(than: deadline, number) { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// The loop keeps running for as long as a timer is set.
  private func tellLoop() {
    guard passesWhenIdle else { return }
    let executor = EventLoop.shared.executor
    precondition(executor.virtualTime == nil || executor.virtualTime === self, "one virtual clock runs at a time")
    executor.virtualTime = (entries.last?.deadline ?? .never) < .never ? self : nil
  }
}
