// An HTTP server for probes and metrics: listens, accepts, passes requests to one handler, and bounds everything.
// Invariant: no task per connection, no allocation per request, no wake-up without a connection. Made by the worker.

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

  /// Bytes of answers gathered before they are written; one more answer may be added.
  static let outputByteLimit = 32 * 1024
  /// How much the kernel may keep buffering for a closed connection.
  static let orphanByteLimit = 4 * 1024
  /// Room for a read after the largest incomplete request.
  private static let readByteCount = 8 * 1024

  private let limits: HTTPServerLimits
  private let clock: LoopClock
  private let handler: Handler
  let connections: HTTPConnectionLists
  private let owed = HTTPInbox<(HTTPConnection, HTTPPendingAnswer)>()
  private let lastClosed = OneShot<Void>()
  private var listener: ListeningSocket?
  private var acceptWatcher: IOWatcher?
  private var isAcceptPaused = false
  private var acceptPausedUntil: MonotonicInstant?
  private var timer: TimerWatcher?
  private(set) var timerDeadline: MonotonicInstant?
  private var date = HTTPDateCache()
  private var counters = HTTPServerStatistics()

  /// Whether it accepts nothing new and closes each connection after its pending answers.
  private(set) var isDraining = false
  /// Shared buffers for reading and for answers, used by one connection at a time; freed while there is no connection.
  private(set) var input = UnsafeMutableBufferPointer<UInt8>(start: nil, count: 0)
  var output = ByteBuffer()

  public init(
    limits: HTTPServerLimits = HTTPServerLimits(), clock: LoopClock, handler: @escaping Handler
  ) {
    self.limits = limits
    self.clock = clock
    self.handler = handler
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
    return copy
  }

  /// Serves until the task is cancelled or `drain(within:)` has ended, then closes everything.
  ///
  /// Pending answers are its structured children: cancelled with it, and what they then return is still sent if the
  /// peer accepts it at once.
  public func run() async {
    precondition(listener != nil || isDraining, "listen(on:) comes before run()")
    acceptWatcher = IOWatcher { [weak self] _ in self?.accept() }
    resumeAccepting()
    await withDiscardingTaskGroup { group in
      while let (connection, pending) = await owed.next() {
        group.addTask { await self.fulfil(pending, of: connection) }
      }
      group.cancelAll()
      stopAccepting()
    }
    for state in HTTPConnectionState.allCases {
      while let connection = connections.first(state) { connection.close() }
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
    isDraining = true
    acceptWatcher?.stop()
    acceptWatcher = nil
    listener = nil
    var idle: [HTTPConnection] = []
    var next = connections.first(.idle)
    while let connection = next {
      if !connection.isAtWork { idle.append(connection) }
      next = connection.next
    }
    for connection in idle { connection.close() }
  }

  private func fulfil(_ pending: HTTPPendingAnswer, of connection: HTTPConnection) async {
    connection.answer(await pending.make(), to: pending)
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
      if input.baseAddress == nil {
        input = .allocate(capacity: makeParser().byteLimit + Self.readByteCount)
      }
      let connection = HTTPConnection(accepted, server: self)
      let now = clock.now
      connections.insert(connection, .idle, at: now)
      arm(for: now.advanced(by: limits.idleTimeout))
      connection.start()
    } else if [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(-accepted), !evictOldest() {
      // The connection stays in the backlog and the listener readable, so watching it would spin.
      pauseAccepting(until: clock.now.advanced(by: limits.acceptPause))
    }
  }

  /// Closes the connection that has waited longest for its peer, idle ones first. Requests and answers normally arrive
  /// in one piece, so a connection that is between two pieces when there is no room is slow or hostile.
  private func evictOldest() -> Bool {
    for state in [HTTPConnectionState.idle, .lingering, .flushing, .receiving, .writing] {
      guard let oldest = connections.first(state) else { continue }
      counters.evictedConnections += 1
      oldest.close()
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
      connection.timeOut()
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

  // MARK: What connections ask for

  func makeParser() -> HTTPRequestParser {
    HTTPRequestParser(headByteLimit: limits.headerByteLimit, bodyByteLimit: limits.bodyByteLimit)
  }

  /// The result of a request.
  enum Outcome {
    /// Answered; the connection continues.
    case kept
    /// Answered; the connection ends.
    case ended
    case owed(HTTPPendingAnswer)
  }

  /// Answers a request into `output`.
  func answer(_ request: borrowing HTTPRequest, _ head: HTTPRequestHead) -> Outcome {
    let form = HTTPAnswerForm(isHead: request.isHead, minorVersion: head.minorVersion, keepsAlive: head.keepsAlive)
    guard request.method != .other else {
      return append(.methodNotAllowed, as: form) ? .kept : .ended
    }
    switch handler(request) {
    case .now(let response): return append(response, as: form) ? .kept : .ended
    case .live(let response): return append(response, as: form) ? .kept : .ended
    case .later(let make): return .owed(HTTPPendingAnswer(form: form, make: make))
    }
  }

  func owes(_ pending: HTTPPendingAnswer, to connection: HTTPConnection) {
    guard !owed.isFinished else { return connection.close() }
    owed.put((connection, pending))
  }

  /// Writes the error answer to an unacceptable request to `output`. The connection then ends.
  func refuse(_ status: HTTPStatus) {
    let form = HTTPAnswerForm(isHead: false, minorVersion: 1, keepsAlive: false)
    _ = append(HTTPResponse(status: status, text: "\(status.reason)\n"), as: form)
  }

  /// Writes `response` to `output`; returns whether the connection continues.
  func append(_ response: HTTPResponse, as form: HTTPAnswerForm) -> Bool {
    let keepsAlive = form.keepsAlive && !isDraining && !response.status.closesConnection
    append(response.head, response.status, as: form, keepsAlive: keepsAlive, body: form.isHead ? [] : response.body)
    return keepsAlive
  }

  /// The same with a body that is written now, even if only its length is wanted.
  private func append(_ response: HTTPLiveResponse, as form: HTTPAnswerForm) -> Bool {
    let keepsAlive = form.keepsAlive && !isDraining
    let start = output.count
    append(response.head, .ok, as: form, keepsAlive: keepsAlive, body: [])
    let length = output.append(upTo: response.byteLimit(), response.write)
    if form.isHead { output.removeLast(length) }
    let lengthEnd = start + response.head.lengthEnd
    output.replace((lengthEnd - response.lengthDigits)..<lengthEnd, withDigitsOf: length)
    response.lengthWas(length)
    return keepsAlive
  }

  private func append(
    _ head: HTTPResponseHead, _ status: HTTPStatus, as form: HTTPAnswerForm, keepsAlive: Bool, body: [UInt8]
  ) {
    let end: StaticString =
      !keepsAlive
      ? "Connection: close\r\n\r\n" : form.minorVersion == 0 ? "Connection: keep-alive\r\n\r\n" : "\r\n"
    // In one call, because each access to `output` is checked at run time.
    output.append(head, dated: date.text(at: clock.turnBegan, on: clock), endingWith: end, body: body)
    counters.responsesByClass[status.rawValue / 100] += 1
  }

  /// Empties `output`, and frees the memory of a large answer.
  func discardOutput() {
    output.removeAll(keepingUpTo: Self.outputByteLimit)
  }

  func move(_ connection: HTTPConnection, to state: HTTPConnectionState) {
    let now = clock.turnBegan
    connections.move(connection, to: state, at: now)
    if let limit = connections.limit(state) { arm(for: now.advanced(by: limit)) }
    if isAcceptPaused, state == .idle { resumeAccepting() }
  }

  func closed(_ connection: HTTPConnection) {
    connections.remove(connection)
    if isAcceptPaused { resumeAccepting() }
    guard connections.count == 0 else { return }
    disarm()
    input.deallocate()
    input = UnsafeMutableBufferPointer(start: nil, count: 0)
    output.release()
    if isDraining { lastClosed.fire(()) }
  }
}
