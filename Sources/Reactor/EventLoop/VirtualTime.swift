// Time that no kernel counts: it stands still until a test turns it, or it passes when the loop has nothing to do.
// Invariant: timers fire in the order of their instants, and those of one instant in the order in which they were
// started: a run on one loop is the same each time. Used by LoopClock and TimerWatcher.

/// The instants and the timers of clocks that are not the kernel's.
@EventLoop
public final class VirtualTime {
  /// The wall clock's time when the monotonic clock shows nothing: a day in 2023.
  private static let wallSeconds: Int64 = 1_700_000_000

  private struct Entry {
    let instant: MonotonicInstant
    let number: UInt64

    func isBefore(_ other: Entry) -> Bool {
      instant == other.instant ? number < other.number : instant < other.instant
    }
  }

  /// True time: a clock may deviate from it.
  public private(set) var now = MonotonicInstant(nanoseconds: 1_000_000_000)
  /// How many tasks sleep.
  var sleeperCount = 0
  nonisolated let passesWhenIdle: Bool
  /// A binary heap. What was stopped stays in it until its instant.
  private var heap: [Entry] = []
  private var bodies: [UInt64: @EventLoop () -> Void] = [:]
  private var lastNumber: UInt64 = 0

  /// Time that passes when the loop has nothing to do: see `LoopClock.virtual()`.
  public nonisolated convenience init() {
    self.init(passesWhenIdle: true)
  }

  /// - Parameter passesWhenIdle: whether it jumps to the next timer when the loop has nothing to do.
  nonisolated init(passesWhenIdle: Bool) {
    self.passesWhenIdle = passesWhenIdle
  }

  /// A clock that shows this time, more or less.
  ///
  /// - Parameters:
  ///   - partsPerMillion: by how much it runs too fast.
  ///   - offset: what it is ahead by.
  public func clock(partsPerMillion: Int64 = 0, offset: Duration = .zero) -> LoopClock {
    LoopClock(SimulatedClock(self, partsPerMillion: partsPerMillion, offset: offset.nanoseconds))
  }

  /// Calls `body` at `instant`, or as soon as nothing else is to be done where that has passed.
  public func at(_ instant: MonotonicInstant, _ body: @escaping @EventLoop () -> Void) {
    _ = start(at: instant, body)
  }

  /// Forgets all that has not happened.
  public func clear() {
    heap = []
    bodies = [:]
    tellLoop()
  }

  var wall: WallClockTime {
    let (seconds, nanoseconds) = now.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    return WallClockTime(seconds: Self.wallSeconds + seconds, nanoseconds: nanoseconds)
  }

  var nextTimer: MonotonicInstant? {
    dropStopped()
    return heap.first?.instant
  }

  /// The number that is returned stops it.
  func start(at instant: MonotonicInstant, _ body: @escaping @EventLoop () -> Void) -> UInt64 {
    lastNumber += 1
    bodies[lastNumber] = body
    guard instant < .never else { return lastNumber }
    push(Entry(instant: instant, number: lastNumber))
    tellLoop()
    return lastNumber
  }

  func stop(_ number: UInt64) {
    guard bodies.removeValue(forKey: number) != nil else { return }
    if heap.count > 64, heap.count > 4 * bodies.count { compact() }
    tellLoop()
  }

  /// Turns the time forward, and fires what is due then.
  func advance(by duration: Duration) {
    now = now.advanced(by: duration)
    fireDue()
  }

  /// Goes on to the next timer, since nothing else will happen before it. Called by the loop.
  func jump() {
    dropStopped()
    guard let next = heap.first else { return }
    now = max(now, next.instant)
    fireDue()
  }

  private func fireDue() {
    while true {
      dropStopped()
      guard let next = heap.first, next.instant <= now else { break }
      pop()
      let body = bodies.removeValue(forKey: next.number)
      body?()
    }
    tellLoop()
  }

  /// The loop goes on by itself for as long as a timer will fire.
  private func tellLoop() {
    guard passesWhenIdle else { return }
    let executor = EventLoop.shared.executor
    precondition(executor.virtualTime == nil || executor.virtualTime === self, "one virtual clock runs at a time")
    executor.virtualTime = nextTimer == nil ? nil : self
  }

  // MARK: The heap

  private func dropStopped() {
    while let next = heap.first, bodies[next.number] == nil { pop() }
  }

  private func compact() {
    let kept = heap.filter { bodies[$0.number] != nil }
    heap.removeAll(keepingCapacity: true)
    for entry in kept { push(entry) }
  }

  private func push(_ entry: Entry) {
    heap.append(entry)
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard heap[child].isBefore(heap[parent]) else { return }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  private func pop() {
    let last = heap.removeLast()
    guard !heap.isEmpty else { return }
    heap[0] = last
    var parent = 0
    while true {
      let left = 2 * parent + 1
      var least = parent
      if left < heap.count, heap[left].isBefore(heap[least]) { least = left }
      if left + 1 < heap.count, heap[left + 1].isBefore(heap[least]) { least = left + 1 }
      if least == parent { return }
      heap.swapAt(parent, least)
      parent = least
    }
  }
}

/// A clock in simulated time. It may run a little wrong, be set, and stand still as for a stopped process.
@EventLoop
final class SimulatedClock {
  let time: VirtualTime
  private nonisolated let partsPerMillion: Int64
  private var offset: Int64
  /// While it is held, what is due waits here, in its order.
  private var due: [(number: UInt64, timer: TimerWatcher)] = []
  private var isHeld = false

  nonisolated init(_ time: VirtualTime, partsPerMillion: Int64 = 0, offset: Int64 = 0) {
    self.time = time
    self.partsPerMillion = partsPerMillion
    self.offset = offset
  }

  nonisolated var passesWhenIdle: Bool { time.passesWhenIdle }

  var now: MonotonicInstant {
    let nanoseconds = time.now.nanoseconds
    return MonotonicInstant(nanoseconds: nanoseconds + drift(nanoseconds) + offset)
  }

  private func drift(_ nanoseconds: Int64) -> Int64 {
    partsPerMillion == 0 ? 0 : nanoseconds / 1_000_000 * partsPerMillion
  }

  /// Has `timer` fire at `deadline`. The number that is returned stops it.
  func start(_ timer: TimerWatcher, at deadline: MonotonicInstant) -> UInt64 {
    time.start(at: instant(of: deadline)) { [self] in reached(timer) }
  }

  func stop(_ number: UInt64) {
    time.stop(number)
    if let index = due.firstIndex(where: { $0.number == number }) { due.remove(at: index) }
  }

  /// Stops it, as SIGSTOP stops a process: time goes on, and what is due comes when it is released.
  func hold() {
    isHeld = true
  }

  /// Lets it go on; `lost` is what it did not count of the time since it was held.
  func release(losing lost: Duration = .zero) {
    isHeld = false
    offset -= lost.nanoseconds
    let waiting = due
    due = []
    // One that was stopped meanwhile, or started anew, has another number.
    for entry in waiting where entry.timer.simulatedNumber == entry.number { entry.timer.reached() }
  }

  private func reached(_ timer: TimerWatcher) {
    if isHeld { due.append((timer.simulatedNumber, timer)) } else { timer.reached() }
  }

  /// True time at which this clock shows `deadline`, or a moment later.
  private func instant(of deadline: MonotonicInstant) -> MonotonicInstant {
    let (shown, isBeyond) = deadline.nanoseconds.subtractingReportingOverflow(offset)
    guard deadline < .never, !isBeyond else { return .never }
    if partsPerMillion == 0 { return MonotonicInstant(nanoseconds: shown) }
    let (whole, rest) = shown.quotientAndRemainder(dividingBy: 1_000_000 + partsPerMillion)
    let time = whole * 1_000_000 + rest * 1_000_000 / (1_000_000 + partsPerMillion)
    return MonotonicInstant(nanoseconds: time + abs(partsPerMillion) + 1)
  }
}
