// What the connections of a server may use of it: the handler, and the buffers for a read and for its answers.
// Invariant: one connection at a time uses the buffers, and an answer allocates nothing once they have grown. Made by
// HTTPServer, used by HTTPConnection.

import CReactor

@EventLoop
final class HTTPResponder {
  /// Bytes of answers gathered before they are written; one more answer may be added.
  static let outputByteLimit = 32 * 1024
  /// Room for a read after the largest incomplete request.
  private static let readByteCount = 8 * 1024

  private let limits: HTTPServerLimits
  private let clock: LoopClock
  private let handler: HTTPServer.Handler
  private var date = HTTPDateCache()

  /// Answers by the first digit of their status; index 0 is unused.
  private(set) var responsesByClass: [UInt64] = [0, 0, 0, 0, 0, 0]
  /// Whether each answer is its connection's last one.
  var isDraining = false
  /// Empty before `allocateInput` and after `releaseBuffers`.
  private(set) var input = UnsafeMutableBufferPointer<UInt8>(start: nil, count: 0)
  private(set) var output = ByteBuffer()

  init(limits: HTTPServerLimits, clock: LoopClock, handler: @escaping HTTPServer.Handler) {
    self.limits = limits
    self.clock = clock
    self.handler = handler
  }

  isolated deinit {
    input.deallocate()
  }

  func makeParser() -> HTTPRequestParser {
    HTTPRequestParser(headByteLimit: limits.headerByteLimit, bodyByteLimit: limits.bodyByteLimit)
  }

  // MARK: Buffers

  func allocateInput() {
    guard input.baseAddress == nil else { return }
    input = .allocate(capacity: makeParser().byteLimit + Self.readByteCount)
  }

  /// Frees the memory of both buffers: a server without a connection holds none.
  func releaseBuffers() {
    input.deallocate()
    input = UnsafeMutableBufferPointer(start: nil, count: 0)
    output.release()
  }

  /// Empties `output`, and frees the memory of a large answer.
  func discardOutput() {
    output.removeAll(keepingUpTo: Self.outputByteLimit)
  }

  // MARK: Answers

  /// The result of a request.
  enum Outcome {
    /// Answered; the connection continues.
    case kept
    /// Answered; the connection ends.
    case ended
    case later(HTTPPendingAnswer)
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
    case .later(let make): return .later(HTTPPendingAnswer(form: form, make: make))
    }
  }

  /// Writes the error answer to an unacceptable request to `output`. The connection then ends.
  func refuse(_ status: HTTPStatus) {
    let form = HTTPAnswerForm(isHead: false, minorVersion: 1, keepsAlive: false)
    _ = append(HTTPResponse(status: status, text: "\(status.reason)\n"), as: form)
  }

  /// Writes the interim answer that a client waits for before it sends a body (RFC 9110, 15.2.1).
  func appendContinue() {
    output.append("HTTP/1.1 100 Continue\r\n\r\n")
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
    responsesByClass[status.rawValue / 100] += 1
  }
}
