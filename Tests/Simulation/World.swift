// Virtual time: what happens when, in an order that the seed determines. Everything in the simulation happens in it.
// Invariant: the same seed gives the same order of events, and nothing reads a real clock.

/// True time, which nobody in the simulation can read: every clock deviates from it.
final class World {
  /// In µs since the simulation's beginning.
  private(set) var now: Int64 = 0
  var random: SeededRandom
  /// A line for each thing that happens, where somebody reads it.
  private let trace: ((String) -> Void)?
  /// Plain numbers, which are cheap to move; what is to be done lies in `bodies`.
  private var heap: [Scheduled] = []
  private var bodies: [(() -> Void)?] = []
  private var freeBodies: [Int] = []
  private var sequence: UInt64 = 0
  private(set) var eventCount = 0

  private struct Scheduled {
    let time: Int64
    let sequence: UInt64
    let body: Int

    func isBefore(_ other: Scheduled) -> Bool {
      time == other.time ? sequence < other.sequence : time < other.time
    }
  }

  init(seed: UInt64, trace: ((String) -> Void)?) {
    random = SeededRandom(seed: seed)
    self.trace = trace
  }

  /// Runs `body` after so many µs.
  func after(_ delay: Int64, _ body: @escaping () -> Void) {
    at(now + max(0, delay), body)
  }

  func at(_ time: Int64, _ body: @escaping () -> Void) {
    sequence += 1
    let place: Int
    if let free = freeBodies.popLast() {
      place = free
      bodies[free] = body
    } else {
      place = bodies.count
      bodies.append(body)
    }
    heap.append(Scheduled(time: max(time, now), sequence: sequence, body: place))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard heap[child].isBefore(heap[parent]) else { return }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  /// Lets everything happen that is due until `end`.
  func run(until end: Int64) {
    while let first = heap.first, first.time <= end {
      let last = heap.removeLast()
      if !heap.isEmpty {
        heap[0] = last
        sink()
      }
      now = first.time
      eventCount += 1
      let body = bodies[first.body].take()
      freeBodies.append(first.body)
      body?()
    }
    now = end
  }

  /// Forgets what has not happened.
  func stop() {
    heap = []
    bodies = []
  }

  private func sink() {
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

  func note(_ text: @autoclosure () -> String) {
    trace?("\(Self.seconds(now))  \(text())")
  }

  static func seconds(_ microseconds: Int64) -> String {
    let (whole, rest) = microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    let fraction = String(rest)
    return "\(whole)." + String(repeating: "0", count: 6 - fraction.utf8.count) + fraction
  }

  // MARK: Random

  var chance: Double { Double.random(in: 0..<1, using: &random) }

  func oneIn(_ count: Int) -> Bool { Int.random(in: 0..<count, using: &random) == 0 }

  func any(_ range: ClosedRange<Int64>) -> Int64 { Int64.random(in: range, using: &random) }

  func any<Element>(of elements: [Element]) -> Element { elements[Int.random(in: 0..<elements.count, using: &random)] }
}

/// A clock that runs a little wrong and may be stepped, in µs.
struct DriftingClock {
  let partsPerMillion: Int64
  var offset: Int64

  func reading(at time: Int64) -> Int64 {
    time + time * partsPerMillion / 1_000_000 + offset
  }

  /// True time at which it shows `reading`, rounded up.
  func time(of reading: Int64) -> Int64 {
    (reading - offset) * 1_000_000 / (1_000_000 + partsPerMillion) + 1
  }
}
