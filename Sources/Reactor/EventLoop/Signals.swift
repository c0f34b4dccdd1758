// Signals as events of the loop. Invariant: a handler runs in a turn of the loop, never inside the signal handler.

import CReactor

/// The signals that a service handles.
public enum ProcessSignal: Sendable, CaseIterable {
  case terminate, interrupt, hangUp
  /// A child process has ended.
  case childEnded

  var number: Int32 {
    switch self {
    case .terminate: SIGTERM
    case .interrupt: SIGINT
    case .hangUp: SIGHUP
    case .childEnded: SIGCHLD
    }
  }
}

/// Calls back for each arrival of one signal for as long as it exists.
@EventLoop
public final class SignalWatcher {
  private let watcher: UnsafeMutablePointer<ev_signal>
  private let callback: @EventLoop () -> Void

  public init(_ signal: ProcessSignal, callback: @escaping @EventLoop () -> Void) {
    self.callback = callback
    watcher = .allocate(capacity: 1)
    creactor_signal_init(
      watcher,
      { _, watcher, _ in
        guard let data = watcher?.pointee.data else { return }
        let owner = Unmanaged<SignalWatcher>.fromOpaque(data)
        EventLoop.assumeIsolated { owner.takeUnretainedValue().callback() }
      }, signal.number)
    watcher.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    ev_signal_start(EventLoop.loop, watcher)
    unblock(signal.number)
  }

  /// A blocked signal stays blocked across exec, and libev does not unblock it. A process started by a thread that
  /// blocks signals, such as Dispatch's, would never receive it.
  private func unblock(_ number: Int32) {
    var signals = sigset_t()
    sigemptyset(&signals)
    sigaddset(&signals, number)
    sigprocmask(SIG_UNBLOCK, &signals, nil)
  }

  isolated deinit {
    ev_signal_stop(EventLoop.loop, watcher)
    watcher.deallocate()
  }
}
