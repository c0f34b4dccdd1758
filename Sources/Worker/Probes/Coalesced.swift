// A value made on demand and shared by all concurrent callers.
// Invariant: at most one is being made, and a value up to a second old is reused.

import Reactor

/// A value that is slow to make: callers that arrive meanwhile get the same one.
@EventLoop
final class Coalesced<Value: Sendable> {
  /// The maximum age of a reused value.
  private static var freshFor: Duration { .seconds(1) }

  private let clock: LoopClock
  private let make: @EventLoop @Sendable () async -> Value
  private var last: (value: Value, at: MonotonicInstant)?
  private var waiting: [OneShot<Value>] = []
  private var isInFlight = false

  /// - Parameter make: must end by its own deadline.
  init(clock: LoopClock, make: @escaping @EventLoop @Sendable () async -> Value) {
    self.clock = clock
    self.make = make
  }

  /// The last value if it can be reused.
  var fresh: Value? {
    guard let last, last.at.duration(to: clock.now) < Self.freshFor else { return nil }
    return last.value
  }

  func value() async -> Value {
    if let fresh { return fresh }
    if isInFlight {
      let result = OneShot<Value>()
      waiting.append(result)
      // A cancelled caller stays until the value is made, which its deadline bounds.
      guard let value = await result.waitThroughCancellation() else { preconditionFailure("the value has been made") }
      return value
    }
    isInFlight = true
    let made = await make()
    isInFlight = false
    last = (made, clock.now)
    let waiters = waiting
    waiting = []
    for waiter in waiters { waiter.fire(made) }
    return made
  }
}
