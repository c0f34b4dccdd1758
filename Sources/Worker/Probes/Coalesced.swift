// Something that is made when it is wanted, for all who want it at about the same time.
// Invariant: at most one is being made, and one of up to a second old is given again.

import Reactor

/// A value that takes a while to make: callers that arrive meanwhile get the same one.
@EventLoop
final class Coalesced<Value: Sendable> {
  /// How old a value may be to be given again.
  private static var freshFor: Duration { .seconds(1) }

  private let clock: LoopClock
  private let make: @EventLoop @Sendable () async -> Value
  private var last: (value: Value, at: MonotonicInstant)?
  private var waiting: [OneShot<Value>] = []
  private var isInFlight = false

  /// - Parameter make: has to end by a deadline of its own.
  init(clock: LoopClock, make: @escaping @EventLoop @Sendable () async -> Value) {
    self.clock = clock
    self.make = make
  }

  /// The last value if it may be given again.
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
