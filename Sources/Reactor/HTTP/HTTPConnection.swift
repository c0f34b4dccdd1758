// One connection: reads, has its requests parsed and answered in place, and writes. No task belongs to it.
// Invariant: it reads only while nothing waits to be written and no answer is owed, so what a peer can make it hold is
// one request, one read's worth of pipelined ones, and the answers to those. Driven by its watcher and HTTPServer.

import CReactor

@EventLoop
final class HTTPConnection {
  /// What comes after the bytes that are being written.
  private enum Next {
    /// Wait for bytes: those kept, if any, are no whole request.
    case receive
    /// Look at the bytes kept: there may be requests in them.
    case parse
    /// Have the handler's later answer made.
    case answer(HTTPPendingAnswer)
    case linger
    case close
  }

  // The places in the server's lists.
  var next: HTTPConnection?
  // Safe: the lists clear it when the one before leaves, which they own until then.
  unowned(unsafe) var previous: HTTPConnection?
  var state = HTTPConnectionState.closed
  var since = MonotonicInstant(nanoseconds: 0)

  let descriptor: Int32
  // Strong, which costs less at each use: the server lets go of a connection when it is closed.
  private let server: HTTPServer
  private var watcher: IOWatcher?
  private var parser: HTTPRequestParser
  private var kept = ByteBuffer()
  private var unwritten = ByteBuffer()
  private var afterWriting = Next.receive
  /// Between a read and its write: the connection is in the list of the state before.
  private(set) var isAtWork = false

  /// Memory of this process that is the connection's alone, but for its objects.
  var bufferByteCount: Int { kept.capacity + unwritten.capacity }

  init(_ descriptor: Int32, server: HTTPServer) {
    self.descriptor = descriptor
    self.server = server
    parser = server.makeParser()
  }

  func start() {
    // Strong, and so without a check at each request: `close()` breaks the cycle, and the server closes them all.
    let watcher = IOWatcher { _ in self.isReady() }
    self.watcher = watcher
    watcher.watch(descriptor, for: .read)
  }

  /// Closes at once; what is unwritten is lost.
  func close() {
    guard state != .closed else { return }
    watcher?.stop()
    watcher = nil
    if holdsMuchUnacknowledged { dropAtClose() }
    _ = CReactor.close(descriptor)
    kept.release()
    unwritten.release()
    server.closed(self)
  }

  /// The state's limit has passed.
  func isOverdue() {
    guard state == .receiving else { return close() }
    server.refuse(.requestTimeout)
    write(then: .linger)
  }

  /// The handler's answer, which was asked for with `.answer`.
  func answer(_ response: HTTPResponse, to request: HTTPPendingAnswer) {
    guard state == .answering else { return }
    let keepsAlive = server.append(response, as: request.form)
    write(then: keepsAlive ? .parse : kept.isEmpty ? .close : .linger)
  }

  private func isReady() {
    switch state {
    case .idle, .receiving: read()
    case .writing: writeOn()
    case .lingering, .flushing: discard()
    case .answering, .closed: break
    }
  }

  private func read() {
    let input = server.input
    let keptCount = kept.count
    let received = creactor_receive(descriptor, putKept(into: input) + keptCount, input.count - keptCount)
    if received > 0 {
      takeRequests(UnsafeBufferPointer(rebasing: input[..<(keptCount + received)]))
    } else if !isTryAgain(received) {
      close()
    }
  }

  /// Whether the call says to come back later; 0 is the peer's end, other errors are the connection's.
  private func isTryAgain(_ answer: Int) -> Bool {
    answer == -Int(EAGAIN) || answer == -Int(EINTR)
  }

  private func putKept(into input: UnsafeMutableBufferPointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
    let start = input.baseAddress!
    if let from = kept.bytes.baseAddress { memcpy(start, from, kept.count) }
    return start
  }

  /// Answers the requests in `bytes`, which are the server's; what is left of them is kept.
  private func takeRequests(_ bytes: UnsafeBufferPointer<UInt8>) {
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
        server.output.append("HTTP/1.1 100 Continue\r\n\r\n")
        keep(rest)
        return write(then: .receive, completedAny: start > 0)
      case .refused(let status):
        server.refuse(status)
        keep(UnsafeBufferPointer(start: nil, count: 0))
        return write(then: .linger)
      case .request(let head):
        start += head.byteCount
        let isLast = start == bytes.count
        switch server.answer(HTTPRequest(head, in: rest), head) {
        case .kept: break
        case .ended:
          keep(UnsafeBufferPointer(start: nil, count: 0))
          return write(then: isLast ? .close : .linger)
        case .owed(let pending):
          keep(UnsafeBufferPointer(rebasing: bytes[start...]))
          return write(then: .answer(pending))
        }
        if server.output.count >= HTTPServer.outputByteLimit, !isLast {
          // Enough for now: the rest is answered once this is written.
          keep(UnsafeBufferPointer(rebasing: bytes[start...]))
          return write(then: .parse)
        }
      }
    }
  }

  private func keep(_ bytes: UnsafeBufferPointer<UInt8>) {
    // `bytes` are the server's, never those kept.
    if bytes.isEmpty { return kept.release() }
    kept.removeAll()
    kept.append(bytes)
  }

  /// Writes what was put into the server's output, and goes on with `then` when all of it is written.
  private func write(then next: Next, completedAny: Bool = true) {
    let written = server.output.isEmpty ? 0 : send(server.output.bytes)
    guard written >= 0 else {
      server.outputIsTaken()
      return close()
    }
    if written < server.output.count {
      unwritten.append(UnsafeBufferPointer(rebasing: server.output.bytes[written...]))
      server.outputIsTaken()
      afterWriting = next
      enter(.writing, watching: .write)
    } else {
      server.outputIsTaken()
      go(on: next, completedAny: completedAny)
    }
  }

  private func writeOn() {
    let written = send(unwritten.bytes)
    guard written >= 0 else { return close() }
    unwritten.removeFirst(written)
    guard unwritten.isEmpty else { return }
    unwritten.release()
    go(on: afterWriting, completedAny: true)
  }

  /// Bytes written, 0 where the peer's window is full, negative where the connection is broken.
  private func send(_ bytes: UnsafeBufferPointer<UInt8>) -> Int {
    let written = creactor_send(descriptor, bytes.baseAddress, bytes.count)
    return isTryAgain(written) ? 0 : written
  }

  private func go(on next: Next, completedAny: Bool) {
    switch next {
    case .receive:
      if kept.isEmpty {
        server.isDraining ? close() : enter(.idle, watching: .read)
      } else if completedAny || state != .receiving {
        enter(.receiving, watching: .read)
      }
    case .parse:
      let input = server.input
      let count = kept.count
      takeRequests(UnsafeBufferPointer(start: putKept(into: input), count: count))
    case .answer(let pending):
      enter(.answering, watching: [])
      server.owes(pending, to: self)
    case .linger:
      kept.release()
      finish()
    case .close:
      // The peer has had its last answer, but may not have read it.
      holdsMuchUnacknowledged ? finish() : close()
    }
  }

  private func enter(_ state: HTTPConnectionState, watching interest: IOWatcher.Interest) {
    server.move(self, to: state)
    watcher?.watch(descriptor, for: interest)
  }

  /// Ends the sending side, and waits for the peer to end its own.
  private func finish() {
    shutdown(descriptor, Int32(SHUT_WR))
    enter(holdsMuchUnacknowledged ? .flushing : .lingering, watching: .read)
  }

  /// Whether the kernel holds much for a peer that does not read. After a plain close it would go on holding that, for
  /// minutes and beyond the bound on connections.
  private var holdsMuchUnacknowledged: Bool {
    creactor_unacknowledged(descriptor) > HTTPServer.orphanByteLimit
  }

  /// Makes the coming close a reset: what the peer did not read is dropped at once.
  private func dropAtClose() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
  }

  /// Reads and drops until the peer ends or the limit passes (RFC 9112, 9.6).
  private func discard() {
    let input = server.input
    let received = creactor_receive(descriptor, input.baseAddress, input.count)
    if received <= 0, !isTryAgain(received) { close() }
  }
}
