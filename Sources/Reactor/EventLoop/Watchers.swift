// libev's watchers as objects: one for a descriptor, one for a timer.
// Invariant: an active watcher holds a reference to itself, so libev never calls into freed memory. It may be stopped
// inside its own callback.

import CReactor

/// Calls back when a descriptor becomes readable or writable.
@EventLoop
final class IOWatcher {
  /// The events to watch for.
  struct Interest: OptionSet {
    let rawValue: Int32
    static let read = Interest(rawValue: Int32(EV_READ))
    static let write = Interest(rawValue: Int32(EV_WRITE))
  }

  private let watcher: UnsafeMutablePointer<ev_io>
  // Safe: it checks at run time that it is called on the loop's thread.
  fileprivate nonisolated(unsafe) let callback: (Interest) -> Void
  private var selfReference: Unmanaged<IOWatcher>?
  /// Whether it is served after all others that are ready.
  let isServedLast: Bool
  /// Its link in the executor's list of ready watchers.
  // Safe: used only by the executor, on the loop's thread.
  nonisolated(unsafe) var nextReady: Unmanaged<IOWatcher>?
  /// The events that it is ready for; 0 if it is not in that list.
  // Safe: used on the loop's thread.
  nonisolated(unsafe) var readyEvents: Int32 = 0
  private var descriptor: Int32 = -1
  private var interest: Interest = []

  /// - Parameter isServedLast: for a listening socket: what the connections do in this turn decides which of them make
  ///   room for a new one.
  init(isServedLast: Bool = false, callback: @escaping @EventLoop (Interest) -> Void) {
    self.isServedLast = isServedLast
    self.callback = EventLoop.callable(callback)
    watcher = .allocate(capacity: 1)
    creactor_io_init(watcher, descriptorIsReady, -1, 0)
  }

  isolated deinit {
    watcher.deallocate()
  }

  /// Watches `descriptor` for `interest` from now on; an empty interest stops. Cheap if nothing changes.
  func watch(_ descriptor: Int32, for interest: Interest) {
    guard descriptor != self.descriptor || interest != self.interest else { return }
    let isSame = descriptor == self.descriptor && !self.interest.isEmpty
    if !self.interest.isEmpty { ev_io_stop(EventLoop.loop, watcher) }
    // What it was ready for may no longer hold. As in libev, the next poll reports it again.
    if readyEvents != 0 { EventLoop.shared.executor.removeReady(self) }
    self.descriptor = descriptor
    self.interest = interest
    if interest.isEmpty {
      release()
    } else {
      if isSame {
        creactor_io_modify(watcher, interest.rawValue)
      } else {
        creactor_io_set(watcher, descriptor, interest.rawValue)
      }
      retain()
      ev_io_start(EventLoop.loop, watcher)
    }
  }

  /// Stops watching. Must be called before the descriptor is closed.
  func stop() {
    watch(-1, for: [])
  }

  /// Calls back for what it is ready for. Only the executor does this, after it has taken the watcher off its list.
  nonisolated func callBack() {
    let events = readyEvents
    readyEvents = 0
    callback(Interest(rawValue: events))
  }

  private func retain() {
    guard selfReference == nil else { return }
    let reference = Unmanaged.passRetained(self)
    selfReference = reference
    watcher.pointee.data = reference.toOpaque()
    EventLoop.shared.executor.watchedDescriptors += 1
  }

  private func release() {
    guard let reference = selfReference else { return }
    selfReference = nil
    EventLoop.shared.executor.watchedDescriptors -= 1
    watcher.pointee.data = nil
    reference.release()
  }
}

/// libev's callback. Not a closure in the initializer: its isolation would be checked at each call, and again by
/// `callback`.
private func descriptorIsReady(_ loop: OpaquePointer?, _ watcher: UnsafeMutablePointer<ev_io>?, _ events: Int32) {
  guard let data = watcher?.pointee.data else { preconditionFailure("libev called a watcher that is stopped") }
  EventLoop.shared.executor.addReady(Unmanaged<IOWatcher>.fromOpaque(data), for: events)
}

/// Calls back once, at an instant of its clock.
@EventLoop
final class TimerWatcher {
  let clock: LoopClock
  private let watcher: UnsafeMutablePointer<ev_timer>
  private let callback: @EventLoop () -> Void
  private var selfReference: Unmanaged<TimerWatcher>?
  private var deadline = MonotonicInstant(nanoseconds: 0)
  /// Its number among the timers of a simulated clock; 0 if it is not set there.
  private(set) var simulatedNumber: UInt64 = 0

  init(_ clock: LoopClock, callback: @escaping @EventLoop () -> Void) {
    self.clock = clock
    self.callback = callback
    watcher = .allocate(capacity: 1)
    creactor_timer_init(
      watcher,
      { _, watcher, _ in
        guard let data = watcher?.pointee.data else { preconditionFailure("libev called a timer that is stopped") }
        let owner = Unmanaged<TimerWatcher>.fromOpaque(data)
        EventLoop.assumeIsolated { owner.takeUnretainedValue().reached() }
      }, 0)
  }

  isolated deinit {
    watcher.deallocate()
  }

  /// Fires at `deadline`, or in the loop's next turn if that has passed. Replaces an earlier start.
  func start(at deadline: MonotonicInstant) {
    stop()
    self.deadline = deadline
    let reference = Unmanaged.passRetained(self)
    selfReference = reference
    watcher.pointee.data = reference.toOpaque()
    arm()
  }

  func stop() {
    guard let reference = selfReference else { return }
    selfReference = nil
    if simulatedNumber != 0 {
      clock.simulated?.stop(simulatedNumber)
      simulatedNumber = 0
    } else {
      ev_timer_stop(EventLoop.loop, watcher)
    }
    watcher.pointee.data = nil
    reference.release()
  }

  private func arm() {
    if let simulated = clock.simulated, simulated.passesWhenIdle || simulated.now < deadline {
      simulatedNumber = simulated.start(self, at: deadline)
      return
    }
    // libev counts from the start of the current turn; without the update a timer would fire early.
    ev_now_update(EventLoop.loop)
    watcher.pointee.at = max(0, clock.now.duration(to: deadline).seconds)
    ev_timer_start(EventLoop.loop, watcher)
  }

  /// Called when its instant has come, or almost.
  func reached() {
    // Rounding can wake the loop slightly early; the callback never runs before its instant.
    if clock.now < deadline {
      arm()
    } else {
      fire()
    }
  }

  private func fire() {
    guard let reference = selfReference else { return }
    selfReference = nil
    simulatedNumber = 0
    watcher.pointee.data = nil
    callback()
    reference.release()
  }
}
