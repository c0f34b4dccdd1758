// One connection: reads, parses, answers in place, and writes. It has no task.
// Invariant: it reads only while nothing waits to be written and no answer is pending. So a peer can make it hold at
// most one request, one read of pipelined requests, and their answers. Driven by its watcher and HTTPServer.

import CReactor

@EventLoop
final class HTTPConnection {
  /// What to do after the current bytes are written.
  private enum Next {
    /// Wait for bytes: the kept ones are not a whole request.
    case receive
    /// Parse the kept bytes, which may contain requests.
    case parse
    /// Run the handler's later answer.
    case answer(HTTPPendingAnswer)
    case linger
    case close
  }

  // Links of the server's lists.
  var next: HTTPConnection?
  // Safe: the lists own the previous connection and clear this link when it leaves.
  unowned(unsafe) var previous: HTTPConnection?
  var state = HTTPConnectionState.closed
  var since = MonotonicInstant(nanoseconds: 0)

  let descriptor: Int32
  // Strong, because each use is cheaper. The server releases a connection when it is closed.
  private let server: HTTPServer
  private var watcher: IOWatcher?
  private var parser: HTTPRequestParser
  private var kept = ByteBuffer()
  private var unwritten = ByteBuffer()
  private var afterWriting = Next.receive
  /// Between a read and its write the connection stays in the list of its previous state.
  private(set) var isAtWork = false

  /// The memory of this process that belongs to this connection, apart from its objects.
  var bufferByteCount: Int { kept.capacity + unwritten.capacity }

  init(_ descriptor: Int32, server: HTTPServer) {
    self.descriptor = descriptor
    self.server = server
    parser = server.makeParser()
  }

  func start() {
    // Strong, so no check at each request. `close()` breaks the cycle, and the server closes all connections.
    let watcher = IOWatcher { _ in self.continueIO() }
    self.watcher = watcher
    watcher.watch(descriptor, for: .read)
  }

  /// Closes at once and drops unwritten bytes.
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

  /// The time limit of the state has passed.
  func timeOut() {
    guard state == .receiving else { return close() }
    server.refuse(.requestTimeout)
    write(then: .linger)
  }

  /// The handler's answer, which `.answer` asked for.
  func answer(_ response: HTTPResponse, to request: HTTPPendingAnswer) {
    guard state == .answering else { return }
    let keepsAlive = server.append(response, as: request.form)
    write(then: keepsAlive ? .parse : kept.isEmpty ? .close : .linger)
  }

  private func continueIO() {
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

  /// Whether the call would block. 0 is the peer's end, other errors are the connection's.
  private func isTryAgain(_ answer: Int) -> Bool {
    answer == -Int(EAGAIN) || answer == -Int(EINTR)
  }

  private func putKept(into input: UnsafeMutableBufferPointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
    let start = input.baseAddress!
    if let from = kept.bytes.baseAddress { memcpy(start, from, kept.count) }
    return start
  }

  /// Answers the requests in `bytes`, which belong to the server, and keeps an incomplete rest.
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
          // Enough for now; the rest is answered after this has been written.
          keep(UnsafeBufferPointer(rebasing: bytes[start...]))
          return write(then: .parse)
        }
      }
    }
  }

  private func keep(_ bytes: UnsafeBufferPointer<UInt8>) {
    // `bytes` belong to the server; they are never the kept ones.
    if bytes.isEmpty { return kept.release() }
    kept.removeAll()
    kept.append(bytes)
  }

  /// Writes the server's output buffer, then continues with `then`.
  private func write(then next: Next, completedAny: Bool = true) {
    let written = server.output.isEmpty ? 0 : send(server.output.bytes)
    guard written >= 0 else {
      server.discardOutput()
      return close()
    }
    if written < server.output.count {
      unwritten.append(UnsafeBufferPointer(rebasing: server.output.bytes[written...]))
      server.discardOutput()
      afterWriting = next
      enter(.writing, watching: .write)
    } else {
      server.discardOutput()
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

  /// Bytes written; 0 if the peer's window is full, negative if the connection is broken.
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
      // The peer was sent its last answer, but may not have read it.
      holdsMuchUnacknowledged ? finish() : close()
    }
  }

  private func enter(_ state: HTTPConnectionState, watching interest: IOWatcher.Interest) {
    server.move(self, to: state)
    watcher?.watch(descriptor, for: interest)
  }

  /// Shuts down the sending side and waits for the peer to close.
  private func finish() {
    shutdown(descriptor, Int32(SHUT_WR))
    enter(holdsMuchUnacknowledged ? .flushing : .lingering, watching: .read)
  }

  /// Whether the kernel buffers much for a peer that does not read. After a plain close it would keep these bytes for
  /// minutes, beyond the bound on connections.
  private var holdsMuchUnacknowledged: Bool {
    creactor_unacknowledged(descriptor) > HTTPServer.orphanByteLimit
  }

  /// Makes the next close a reset, which drops what the peer has not read.
  private func dropAtClose() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
  }

  /// Reads and discards until the peer closes or the limit passes (RFC 9112, 9.6).
  private func discard() {
    let input = server.input
    let received = creactor_receive(descriptor, input.baseAddress, input.count)
    if received <= 0, !isTryAgain(received) { close() }
  }
}
