// Simulated time: it stands still until a test advances it, or jumps ahead when the loop has nothing to do. Invariant:
// timers fire in the order of their instants, and those of one instant in the order in which they were started, so a
// run on one loop is the same each time. Used by LoopClock and TimerWatcher.

/// The time and the timers of simulated clocks.
@EventLoop
public final class VirtualTime {
  /// The wall clock's time at the monotonic clock's zero: a day in 2023.
  private static let wallSeconds: Int64 = 1_700_000_000

  /// A timer that has not fired. Its place in the list is a part of its number, so that it is found without a search.
  private struct Timer {
    var number: UInt64 = 0
    var body: (@EventLoop () -> Void)?
  }

  /// So many bits of a number are the timer's place; the others count the timers, and so are in their order.
  private static let placeBits: UInt64 = 24

  private struct Entry {
    let instant: MonotonicInstant
    let number: UInt64

    func isBefore(_ other: Entry) -> Bool {
      instant == other.instant ? number < other.number : instant < other.instant
    }
  }

  /// True time: a clock may deviate from it.
  public private(set) var now = MonotonicInstant(nanoseconds: 1_000_000_000)
  /// The number of sleeping tasks.
  var sleeperCount = 0
  nonisolated let passesWhenIdle: Bool
  /// A binary heap. A stopped timer stays in it until its instant.
  private var heap: [Entry] = []
  private var timers: [Timer] = []
  private var freePlaces: [Int] = []
  private var startedCount: UInt64 = 0

  /// Time that passes when the loop has nothing to do: see `LoopClock.virtual()`.
  public nonisolated convenience init() {
    self.init(passesWhenIdle: true)
  }

  /// - Parameter passesWhenIdle: whether it jumps to the next timer when the loop has nothing to do.
  nonisolated init(passesWhenIdle: Bool) {
    self.passesWhenIdle = passesWhenIdle
  }

  /// A clock that shows this time, with a deviation.
  ///
  /// - Parameters:
  ///   - partsPerMillion: how much faster it runs.
  ///   - offset: how far it is ahead.
  public func clock(partsPerMillion: Int64 = 0, offset: Duration = .zero) -> LoopClock {
    LoopClock(SimulatedClock(self, partsPerMillion: partsPerMillion, offset: offset.nanoseconds))
  }

  /// Calls `body` at `instant`; if that has passed, as soon as the loop has nothing else to do.
  public func at(_ instant: MonotonicInstant, _ body: @escaping @EventLoop () -> Void) {
    _ = start(at: instant, body)
  }

  /// Drops all timers that have not fired.
  public func clear() {
    heap = []
    timers = []
    freePlaces = []
    updateLoop()
  }

  var wall: WallClockTime {
    let (seconds, nanoseconds) = now.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    return WallClockTime(seconds: Self.wallSeconds + seconds, nanoseconds: nanoseconds)
  }

  var nextTimer: MonotonicInstant? {
    dropStopped()
    return heap.first?.instant
  }

  /// Starts a timer, and returns the number that stops it.
  func start(at instant: MonotonicInstant, _ body: @escaping @EventLoop () -> Void) -> UInt64 {
    let number = add(body)
    guard instant < .never else { return number }
    push(Entry(instant: instant, number: number))
    updateLoop()
    return number
  }

  func stop(_ number: UInt64) {
    guard remove(number) != nil else { return }
    if heap.count > 64, heap.count > 4 * (timers.count - freePlaces.count) { compact() }
    updateLoop()
  }

  /// Advances the time and fires the timers that are due by then.
  func advance(by duration: Duration) {
    now = now.advanced(by: duration)
    fireDue()
  }

  /// Jumps to the next timer, because nothing else will happen before it. Called by the loop.
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
      let body = remove(next.number)
      body?()
    }
    updateLoop()
  }

  /// The loop continues without the kernel as long as a timer is set.
  private func updateLoop() {
    guard passesWhenIdle else { return }
    let executor = EventLoop.shared.executor
    precondition(executor.virtualTime == nil || executor.virtualTime === self, "one virtual clock runs at a time")
    executor.virtualTime = nextTimer == nil ? nil : self
  }

  // MARK: The timers

  private func add(_ body: @escaping @EventLoop () -> Void) -> UInt64 {
    let place = freePlaces.popLast() ?? timers.count
    if place == timers.count { timers.append(Timer()) }
    precondition(place < 1 << Self.placeBits, "too many timers")
    startedCount += 1
    let number = startedCount << Self.placeBits | UInt64(place)
    timers[place] = Timer(number: number, body: body)
    return number
  }

  private static func place(of number: UInt64) -> Int { Int(number & (1 << placeBits - 1)) }

  private func isSet(_ number: UInt64) -> Bool {
    let place = Self.place(of: number)
    return number > 0 && place < timers.count && timers[place].number == number
  }

  private func remove(_ number: UInt64) -> (@EventLoop () -> Void)? {
    guard isSet(number) else { return nil }
    let place = Self.place(of: number)
    defer { timers[place] = Timer() }
    freePlaces.append(place)
    return timers[place].body
  }

  // MARK: The heap

  private func dropStopped() {
    while let next = heap.first, !isSet(next.number) { pop() }
  }

  private func compact() {
    let kept = heap.filter { isSet($0.number) }
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

/// A clock in simulated time. It may drift, be set, and be held as in a stopped process.
@EventLoop
final class SimulatedClock {
  let time: VirtualTime
  private nonisolated let partsPerMillion: Int64
  private var offset: Int64
  /// Timers that became due while the clock is held, in order.
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

  /// Starts `timer`, and returns the number that stops it.
  func start(_ timer: TimerWatcher, at deadline: MonotonicInstant) -> UInt64 {
    time.start(at: instant(of: deadline)) { [self] in reached(timer) }
  }

  func stop(_ number: UInt64) {
    time.stop(number)
    if let index = due.firstIndex(where: { $0.number == number }) { due.remove(at: index) }
  }

  /// Stops the clock's timers, as SIGSTOP stops a process. Time goes on; what becomes due fires at `release`.
  func hold() {
    isHeld = true
  }

  /// Fires what became due. `lost` is the time since `hold` that the clock did not count.
  func release(losing lost: Duration = .zero) {
    isHeld = false
    offset -= lost.nanoseconds
    let waiting = due
    due = []
    // A timer that was stopped or started again meanwhile has another number.
    for entry in waiting where entry.timer.simulatedNumber == entry.number { entry.timer.reached() }
  }

  private func reached(_ timer: TimerWatcher) {
    if isHeld { due.append((timer.simulatedNumber, timer)) } else { timer.reached() }
  }

  /// The true time at which this clock shows `deadline`, or a moment later.
  private func instant(of deadline: MonotonicInstant) -> MonotonicInstant {
    let (shown, isBeyond) = deadline.nanoseconds.subtractingReportingOverflow(offset)
    guard deadline < .never, !isBeyond else { return .never }
    if partsPerMillion == 0 { return MonotonicInstant(nanoseconds: shown) }
    let (whole, rest) = shown.quotientAndRemainder(dividingBy: 1_000_000 + partsPerMillion)
    let time = whole * 1_000_000 + rest * 1_000_000 / (1_000_000 + partsPerMillion)
    return MonotonicInstant(nanoseconds: time + abs(partsPerMillion) + 1)
  }
}
