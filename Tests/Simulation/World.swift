// What everything in a virtual run shares: the time, the seed's random numbers, the trace.
// Invariant: the same seed gives the same order of events, and nothing reads a real clock.

import Reactor

/// True time, which nothing in the simulation can read: every clock deviates from it.
@EventLoop
final class World {
  let time = VirtualTime()
  /// Shows true time.
  let clock: LoopClock
  private let beginning: MonotonicInstant
  var random: SeededRandom
  /// Receives a line for each event, if set.
  private let trace: ((String) -> Void)?
  private(set) var eventCount = 0

  init(seed: UInt64, trace: ((String) -> Void)?) {
    random = SeededRandom(seed: seed)
    self.trace = trace
    clock = time.clock()
    beginning = time.now
  }

  /// In µs since the simulation's beginning.
  var now: Int64 { beginning.duration(to: time.now).nanoseconds / 1_000 }

  var isTraced: Bool { trace != nil }

  /// Runs `body` after `delay` µs.
  func after(_ delay: Int64, _ body: @escaping @EventLoop () -> Void) {
    at(now + max(0, delay), body)
  }

  func at(_ time: Int64, _ body: @escaping @EventLoop () -> Void) {
    self.time.at(instant(max(time, now))) { [self] in
      eventCount += 1
      body()
    }
  }

  /// Runs everything that is due by `end`.
  func run(until end: Int64) async {
    do {
      try await clock.sleep(until: instant(end))
    } catch {
      preconditionFailure("nobody cancels the simulation")
    }
  }

  private func instant(_ time: Int64) -> MonotonicInstant {
    beginning.advanced(by: .microseconds(time))
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

  var jitter: Double { Double.random(in: 0..<1, using: &random) }

  func oneIn(_ count: Int) -> Bool { Int.random(in: 0..<count, using: &random) == 0 }

  func any(_ range: ClosedRange<Int64>) -> Int64 { Int64.random(in: range, using: &random) }

  func any<Element>(of elements: [Element]) -> Element { elements[Int.random(in: 0..<elements.count, using: &random)] }
}

/// A clock that drifts and can be stepped, in µs.
struct DriftingClock {
  let partsPerMillion: Int64
  var offset: Int64

  func reading(at time: Int64) -> Int64 {
    time + time * partsPerMillion / 1_000_000 + offset
  }

  /// The true time at which it shows `reading`, rounded up.
  func time(of reading: Int64) -> Int64 {
    (reading - offset) * 1_000_000 / (1_000_000 + partsPerMillion) + 1
  }
}
