// One caller that waits for a connection of the pool. Invariant: it gets one result, and wakes only for that or to open
// a connection. Made by PostgresPool for each request.

/// A connection for a caller, and whether it has just been opened.
typealias PostgresPoolGrant = (connectionID: PostgresPoolState.ConnectionID, isNew: Bool)

/// A connection to open.
struct PostgresPoolOrder: Sendable {
  let connectionID: PostgresPoolState.ConnectionID
  let purpose: PostgresConnection.Purpose
}

/// One request's caller.
@EventLoop
final class PostgresPoolWaiter {
  private(set) var result: Result<PostgresPoolGrant, any Error>?
  /// The connection that the caller has to open itself.
  var order: PostgresPoolOrder?
  private var wakeUp: OneShot<Void>?
  private var timer: TimerWatcher?

  /// Returns when there is a result or a connection to open.
  func wait() async {
    guard result == nil, order == nil else { return }
    // Made only for a caller that waits: one that is served at once costs no allocation for it.
    let wakeUp = OneShot<Void>()
    self.wakeUp = wakeUp
    _ = await wakeUp.waitThroughCancellation()
  }

  func expire(at deadline: MonotonicInstant, on clock: LoopClock, _ callback: @escaping @EventLoop () -> Void) {
    guard result == nil else { return }
    let timer = TimerWatcher(clock, callback: callback)
    timer.start(at: deadline)
    self.timer = timer
  }

  func resume(toOpen order: PostgresPoolOrder) {
    self.order = order
    wakeUp?.fire(())
  }

  func end(_ result: Result<PostgresPoolGrant, any Error>) {
    guard self.result == nil else { return }
    self.result = result
    timer?.stop()
    timer = nil
    wakeUp?.fire(())
  }
}
