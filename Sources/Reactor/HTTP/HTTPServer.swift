// An HTTP server for probes and metrics: listens, accepts, limits its connections' number and time, and drains.
// Invariant: no task per connection, no wake-up without a connection. It acts on what its connections return, and they
// know nothing of it. Made by the worker.

import CReactor

/// A small HTTP/1 server on the loop: GET and HEAD, keep-alive, pipelining.
///
///     let server = HTTPServer(clock: clock) { request in
///       request.hasPath("/healthz") ? .now(healthy) : .now(.notFound)
///     }
///     try server.listen(on: "127.0.0.1:8091")
///     await server.run()
///
/// Statuses 400 to 499 except 429, and 501 and 505, end the connection. Methods other than GET and HEAD get 405 without
/// a call of the handler.
@EventLoop
public final class HTTPServer {
  /// Called once per request, on the loop. It must not wait; it returns `.later` for that.
  public typealias Handler = @EventLoop (borrowing HTTPRequest) -> HTTPReply

  private let limits: HTTPServerLimits
  private let clock: LoopClock
  let responder: HTTPResponder
  let connections: HTTPConnectionLists
  private let owed = HTTPInbox<(HTTPConnection, HTTPPendingAnswer)>()
  private let lastClosed = OneShot<Void>()
  private var listener: ListeningSocket?
  private var acceptWatcher: IOWatcher?
  private var isAcceptPaused = false
  private var acceptPausedUntil: MonotonicInstant?
  private var timer: TimerWatcher?
  private(set) var timerDeadline: MonotonicInstant?
  private var counters = HTTPServerStatistics()
  /// Why a connection was last not accepted, as an errno, and when.
  private var acceptFault: (number: Int32, at: MonotonicInstant)?
  /// Called when connections cannot be accepted because the kernel or a sandbox refuses it, or for want of descriptors
  /// or memory, with the reason in words: once, until that has not happened for a minute. They are tried again after
  /// `HTTPServerLimits.acceptPause`.
  public var onAcceptFailure: (@EventLoop (String) -> Void)?

  public init(
    limits: HTTPServerLimits = HTTPServerLimits(), clock: LoopClock, handler: @escaping Handler
  ) {
    self.limits = limits
    self.clock = clock
    responder = HTTPResponder(limits: limits, clock: clock, handler: handler)
    connections = HTTPConnectionLists(limits: limits)
  }

  /// Whether `run()` accepts connections.
  var isRunning: Bool { acceptWatcher != nil }

  // MARK: Listening and serving

  /// Binds and listens; `run()` accepts the connections.
  ///
  /// - Throws: `ListenError` if the address is malformed, in use, not local, or not permitted.
  public func listen(on address: String) throws(ListenError) {
    try listen(on: ListenAddress(address))
  }

  /// Like `listen(on: String)`, with a parsed address.
  public func listen(on address: ListenAddress) throws(ListenError) {
    listener = try ListeningSocket(address)
  }

  /// The bound port, even if 0 was given; 0 while it does not listen.
  public var boundPort: UInt16 { listener?.port ?? 0 }

  public var statistics: HTTPServerStatistics {
    var copy = counters
    copy.openConnections = connections.count
    copy.responsesByClass = responder.responsesByClass
    return copy
  }

  /// Serves until the task is cancelled or `drain(within:)` has ended, then closes everything.
  ///
  /// Pending answers are its structured children: cancelled with it, and what they then return is still sent if the
  /// peer accepts it at once.
  public func run() async {
    precondition(listener != nil || responder.isDraining, "listen(on:) comes before run()")
    acceptWatcher = IOWatcher(isServedLast: true) { [weak self] _ in self?.accept() }
    resumeAccepting()
    await withDiscardingTaskGroup { group in
      while let (connection, pending) = await owed.next() {
        group.addTask { await self.fulfil(pending, of: connection) }
      }
      group.cancelAll()
      stopAccepting()
    }
    for state in HTTPConnectionState.allCases {
      while let connection = connections.first(state) { close(connection) }
    }
    // Accepting may be paused; its timer must find nothing to resume.
    disarm()
  }

  /// Accepts no new connections, closes idle ones, and lets the others get their answers. `run()` ends when the last
  /// one is closed, or after `limit`.
  public func drain(within limit: Duration) async {
    stopAccepting()
    if connections.count > 0 {
      // Nil if late or cancelled: the remaining connections are then cut off.
      _ = await lastClosed.wait(until: clock.now.advanced(by: limit), on: clock)
    }
    owed.finish()
  }

  private func stopAccepting() {
    responder.isDraining = true
    acceptWatcher?.stop()
    acceptWatcher = nil
    listener = nil
    var idle: [HTTPConnection] = []
    var next = connections.first(.idle)
    while let connection = next {
      if !connection.isAtWork { idle.append(connection) }
      next = connection.next
    }
    for connection in idle { close(connection) }
  }

  private func fulfil(_ pending: HTTPPendingAnswer, of connection: HTTPConnection) async {
    note(connection.answer(await pending.make()), of: connection)
  }

  // MARK: Accepting

  private func accept() {
    if connections.count >= limits.maximumConnections, !evictOldest() { return pauseAccepting(until: nil) }
    guard let listener else { return }
    didAccept(listener.accept())
  }

  /// - Parameter accepted: a connection's descriptor, or a negative errno.
  func didAccept(_ accepted: Int32) {
    if accepted >= 0 {
      counters.acceptedConnections += 1
      responder.allocateInput()
      let connection = HTTPConnection(accepted, responder)
      let now = clock.now
      connections.insert(connection, at: now)
      arm(for: now.advanced(by: limits.idleTimeout))
      // Strong references, so no check at each request. Closing the connection breaks the cycle, and the server closes
      // all connections.
      connection.start { _ in self.note(connection.advance(), of: connection) }
    } else if Self.shortages.contains(-accepted) ? !evictOldest() : Self.acceptFaults.contains(-accepted) {
      // The connection stays in the backlog and the listener readable, so watching it would spin.
      pauseAccepting(until: clock.now.advanced(by: limits.acceptPause))
      let now = clock.now
      let isKnown = acceptFault.map { $0.number == -accepted && $0.at.duration(to: now) < Self.quietTime } ?? false
      acceptFault = (-accepted, now)
      if !isKnown { onAcceptFailure?(String(cString: strerror(-accepted))) }
    }
  }

  /// How long a failure must be absent before it is reported again: one that comes and goes is reported once.
  private static let quietTime = Duration.seconds(60)

  /// Of descriptors or memory. Closing a connection frees some.
  private static let shortages = [EMFILE, ENFILE, ENOBUFS, ENOMEM]

  /// Not about one connection, but about the call itself: a sandbox, a kernel without it, or a socket that does not
  /// listen.
  private static let acceptFaults = [EPERM, EACCES, ENOSYS, EINVAL, ENOTSOCK, EBADF, EOPNOTSUPP, EFAULT]

  /// Closes the connection that has waited longest for its peer, idle ones first. Requests and answers normally arrive
  /// in one piece, so a connection that is between two pieces when there is no room is slow or hostile.
  private func evictOldest() -> Bool {
    for state in [HTTPConnectionState.idle, .lingering, .flushing, .receiving, .writing] {
      guard let oldest = connections.first(state) else { continue }
      counters.evictedConnections += 1
      close(oldest)
      return true
    }
    return false
  }

  private func pauseAccepting(until instant: MonotonicInstant?) {
    counters.acceptPauses += 1
    isAcceptPaused = true
    acceptPausedUntil = instant
    acceptWatcher?.stop()
    if let instant { arm(for: instant) }
  }

  private func resumeAccepting() {
    isAcceptPaused = false
    acceptPausedUntil = nil
    guard let listener else { return }
    acceptWatcher?.watch(listener.descriptor, for: .read)
  }

  // MARK: Time

  /// Closes the connections whose limit has passed.
  private func closeOverdue() {
    timerDeadline = nil
    let now = clock.now
    if let until = acceptPausedUntil, until <= now { resumeAccepting() }
    while let connection = connections.overdue(at: now) {
      counters.timedOutConnections += 1
      note(connection.timeOut(), of: connection)
    }
    if let deadline = connections.nextDeadline { arm(for: deadline) }
    if let until = acceptPausedUntil { arm(for: until) }
  }

  /// Ensures that the timer fires by `deadline`. It is not reset for each request: an earlier one finds nothing to
  /// close and is set again.
  private func arm(for deadline: MonotonicInstant) {
    if let timerDeadline, timerDeadline <= deadline { return }
    timerDeadline = deadline
    let timer = self.timer ?? TimerWatcher(clock) { [weak self] in self?.closeOverdue() }
    self.timer = timer
    timer.start(at: deadline)
  }

  private func disarm() {
    timer?.stop()
    timerDeadline = nil
  }

  // MARK: What becomes of connections

  /// Acts on what an event has changed.
  private func note(_ change: HTTPConnection.Change, of connection: HTTPConnection) {
    switch change {
    case .nothing: break
    case .state: move(connection)
    case .owesAnswer:
      move(connection)
      // Without `run` there is no task that could make it.
      guard !owed.isFinished, let pending = connection.pending else { return close(connection) }
      owed.put((connection, pending))
    case .closed: closed(connection)
    }
  }

  private func close(_ connection: HTTPConnection) {
    note(connection.close(), of: connection)
  }

  private func move(_ connection: HTTPConnection) {
    let now = clock.turnBegan
    connections.move(connection, at: now)
    if let limit = connections.limit(connection.state) { arm(for: now.advanced(by: limit)) }
    if isAcceptPaused, connection.state == .idle { resumeAccepting() }
  }

  private func closed(_ connection: HTTPConnection) {
    connections.remove(connection)
    if isAcceptPaused { resumeAccepting() }
    guard connections.count == 0 else { return }
    disarm()
    responder.releaseBuffers()
    if responder.isDraining { lastClosed.fire(()) }
  }
}
