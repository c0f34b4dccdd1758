// A latch that opens once, for example to tell all parts of a service to drain. Invariants: nothing sleeps on an open
// latch; the first to sleep is the first to wake.

/// Opens once and wakes every task that sleeps until then (`LoopClock.sleep(until:orUntil:)`).
@EventLoop
public final class Latch {
  public private(set) var isOpen = false
  private var sleepers: [OneShot<Void>] = []

  public init() {}

  public func open() {
    isOpen = true
    let waiting = sleepers
    sleepers.removeAll()
    for sleeper in waiting { sleeper.fire(()) }
  }

  func add(_ sleeper: OneShot<Void>) {
    if isOpen {
      sleeper.fire(())
    } else {
      sleepers.append(sleeper)
    }
  }

  func remove(_ sleeper: OneShot<Void>) {
    guard let index = sleepers.firstIndex(where: { $0 === sleeper }) else { return }
    sleepers.remove(at: index)
  }
}
