// One connection: reads, parses, answers in place, and writes. It has no task.
// Invariant: a peer can make it hold at most one request, one read of pipelined requests, and their answers. It knows
// no server: each event returns what has changed, and HTTPServer acts on that.

import CReactor

@EventLoop
final class HTTPConnection {
  /// What an event has changed, for the server.
  enum Change {
    case nothing
    /// It waits in another state, or anew in the same one.
    case state
    /// It waits for the handler's later answer, `pending`.
    case owesAnswer
    /// The descriptor is closed.
    case closed
  }

  /// How much the kernel may keep buffering for a closed connection, in bytes.
  static let orphanByteLimit = 4 * 1024

  // Links of the server's lists.
  var next: HTTPConnection?
  // Safe: the lists own the previous connection and clear this link when it leaves.
  unowned(unsafe) var previous: HTTPConnection?
  /// The list that it is in.
  var list = HTTPConnectionState.closed
  var since = MonotonicInstant(nanoseconds: 0)

  let descriptor: Int32
  private let responder: HTTPResponder
  private var machine = HTTPConnectionStateMachine()
  private var watcher: IOWatcher?
  private var parser: HTTPRequestParser
  private var kept = ByteBuffer()
  private var unwritten = ByteBuffer()
  /// The later answer that it waits for.
  private(set) var pending: HTTPPendingAnswer?
  /// Whether it is answering the bytes of a read. Only a handler can see that; its server must not close it meanwhile.
  private(set) var isAtWork = false

  /// The memory of this process that belongs to this connection, apart from its objects.
  var bufferByteCount: Int { kept.capacity + unwritten.capacity }
  var state: HTTPConnectionState { machine.state }

  init(_ descriptor: Int32, _ responder: HTTPResponder) {
    self.descriptor = descriptor
    self.responder = responder
    parser = responder.makeParser()
  }

  /// Waits for the first request. `onEvent` is called when the descriptor is ready; it calls `advance`.
  func start(_ onEvent: @escaping @EventLoop (IOWatcher.Interest) -> Void) {
    let watcher = IOWatcher(callback: onEvent)
    self.watcher = watcher
    watcher.watch(descriptor, for: .read)
  }

  // MARK: Events

  /// The descriptor is ready for what the state waits for.
  func advance() -> Change {
    switch machine.state {
    case .idle, .receiving: return read()
    case .writing: return writeRest()
    case .lingering, .flushing: return discard()
    case .answering, .closed: preconditionFailure("a descriptor that is not watched has no events")
    }
  }

  /// The time limit of the state has passed.
  func timeOut() -> Change {
    perform(machine.limitReached())
  }

  /// The handler's later answer, for which `.owesAnswer` asked.
  func answer(_ response: HTTPResponse) -> Change {
    machine.answered()
    guard let pending = pending.take() else { preconditionFailure("an answer that no request waits for") }
    let keepsAlive = responder.append(response, as: pending.form)
    return perform(write(then: keepsAlive ? .parse : kept.isEmpty ? .close : .linger))
  }

  /// Closes at once and drops unwritten bytes.
  func close() -> Change {
    machine.closed()
    // Also ends the cycle of the watcher's callback.
    watcher?.stop()
    watcher = nil
    if isMuchUnread { dropAtClose() }
    _ = CReactor.close(descriptor)
    kept.release()
    unwritten.release()
    return .closed
  }

  private func perform(_ first: HTTPConnectionStateMachine.Action) -> Change {
    var action = first
    while true {
      switch action {
      case .parse: action = parseKept()
      case .end(let mayClose):
        kept.release()
        action = machine.end(mayClose: mayClose, isMuchUnread: isMuchUnread)
      case .refuse:
        responder.refuse(.requestTimeout)
        action = write(then: .linger)
      case .keepWaiting: return .nothing
      case .wait: return wait(.state)
      case .handOver: return wait(.owesAnswer)
      case .shutDown:
        shutdown(descriptor, Int32(SHUT_WR))
        return wait(.state)
      case .close: return close()
      }
    }
  }

  private func wait(_ change: Change) -> Change {
    watcher?.watch(descriptor, for: machine.state.interest)
    return change
  }

  // MARK: Reading

  private func read() -> Change {
    let input = responder.input
    let keptCount = kept.count
    let received = creactor_receive(descriptor, putKept(into: input) + keptCount, input.count - keptCount)
    if received > 0 {
      return perform(takeRequests(UnsafeBufferPointer(rebasing: input[..<(keptCount + received)])))
    }
    return isTryAgain(received) ? .nothing : close()
  }

  /// Whether the call would block. 0 is the peer's end, other errors are the connection's.
  private func isTryAgain(_ answer: Int) -> Bool {
    answer == -Int(EAGAIN) || answer == -Int(EINTR)
  }

  private func putKept(into input: UnsafeMutableBufferPointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
    let start = input.baseAddress!
    if let from = kept.bytes.baseAddress { memcpy(start, from, kept.count) }
    return start
  }

  private func parseKept() -> HTTPConnectionStateMachine.Action {
    let input = responder.input
    let count = kept.count
    return takeRequests(UnsafeBufferPointer(start: putKept(into: input), count: count))
  }

  /// Answers the requests in `bytes`, which belong to the responder, and keeps an incomplete rest.
  private func takeRequests(_ bytes: UnsafeBufferPointer<UInt8>) -> HTTPConnectionStateMachine.Action {
    isAtWork = true
    defer { isAtWork = false }
    var start = 0
    while true {
      let rest = UnsafeBufferPointer(rebasing: bytes[start...])
      switch parser.next(rest.span) {
      case .needsMore:
        keep(rest)
        return write(then: .receive, completedAny: start > 0)
      case .wantsContinue:
        responder.appendContinue()
        keep(rest)
        return write(then: .receive, completedAny: start > 0)
      case .refused(let status):
        responder.refuse(status)
        keep(UnsafeBufferPointer(start: nil, count: 0))
        return write(then: .linger)
      case .request(let head):
        start += head.byteCount
        let isLast = start == bytes.count
        switch responder.answer(HTTPRequest(head, in: rest), head) {
        case .kept: break
        case .ended:
          keep(UnsafeBufferPointer(start: nil, count: 0))
          return write(then: isLast ? .close : .linger)
        case .later(let pending):
          self.pending = pending
          keep(UnsafeBufferPointer(rebasing: bytes[start...]))
          return write(then: .answer)
        }
        if responder.output.count >= HTTPResponder.outputByteLimit, !isLast {
          // Enough for now; the rest is answered after this has been written.
          keep(UnsafeBufferPointer(rebasing: bytes[start...]))
          return write(then: .parse)
        }
      }
    }
  }

  private func keep(_ bytes: UnsafeBufferPointer<UInt8>) {
    // `bytes` belong to the responder; they are never the kept ones.
    if bytes.isEmpty { return kept.release() }
    kept.removeAll()
    kept.append(bytes)
  }

  /// Reads and discards until the peer closes or the limit passes (RFC 9112, 9.6).
  private func discard() -> Change {
    let input = responder.input
    let received = creactor_receive(descriptor, input.baseAddress, input.count)
    return received > 0 || isTryAgain(received) ? .nothing : close()
  }

  // MARK: Writing

  /// Writes the responder's output buffer, then continues with `next`.
  private func write(
    then next: HTTPConnectionStateMachine.Next, completedAny: Bool = true
  ) -> HTTPConnectionStateMachine.Action {
    let count = responder.output.count
    let written = count == 0 ? 0 : send(responder.output.bytes)
    if written >= 0, written < count {
      unwritten.append(UnsafeBufferPointer(rebasing: responder.output.bytes[written...]))
    }
    responder.discardOutput()
    return machine.wrote(
      written < 0 ? .failed : written < count ? .part : .all, then: next, isPartKept: !kept.isEmpty,
      completedAny: completedAny, isDraining: responder.isDraining)
  }

  private func writeRest() -> Change {
    let written = send(unwritten.bytes)
    if written >= 0 { unwritten.removeFirst(written) }
    let isAll = unwritten.isEmpty
    if isAll { unwritten.release() }
    return perform(
      machine.wroteRest(
        written < 0 ? .failed : isAll ? .all : .part, isPartKept: !kept.isEmpty, isDraining: responder.isDraining))
  }

  /// Bytes written; 0 if the peer's window is full, negative if the connection is broken.
  private func send(_ bytes: UnsafeBufferPointer<UInt8>) -> Int {
    let written = creactor_send(descriptor, bytes.baseAddress, bytes.count)
    return isTryAgain(written) ? 0 : written
  }

  // MARK: The end

  /// Whether the kernel buffers much for a peer that does not read. After a plain close it would keep these bytes for
  /// minutes, beyond the bound on connections.
  private var isMuchUnread: Bool {
    creactor_unacknowledged(descriptor) > Self.orphanByteLimit
  }

  /// Makes the next close a reset, which drops what the peer has not read.
  private func dropAtClose() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
  }
}

extension HTTPConnectionState {
  /// What the descriptor is watched for.
  fileprivate var interest: IOWatcher.Interest {
    switch self {
    case .idle, .receiving, .lingering, .flushing: .read
    case .writing: .write
    case .answering, .closed: []
    }
  }
}
