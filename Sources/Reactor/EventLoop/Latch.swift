// A latch that opens once, for example to tell all parts of a service to drain. Invariant: nothing sleeps on an open
// latch.

/// Opens once and wakes every task that sleeps until then (`LoopClock.sleep(until:orUntil:)`).
@EventLoop
public final class Latch {
  public private(set) var isOpen = false
  private var sleepers: [ObjectIdentifier: Sleeper] = [:]

  public init() {}

  public func open() {
    isOpen = true
    let waiting = sleepers.values
    sleepers.removeAll()
    for sleeper in waiting { sleeper.wake() }
  }

  func add(_ sleeper: Sleeper) {
    if isOpen {
      sleeper.wake()
    } else {
      sleepers[ObjectIdentifier(sleeper)] = sleeper
    }
  }

  func remove(_ sleeper: Sleeper) {
    sleepers[ObjectIdentifier(sleeper)] = nil
  }
}
