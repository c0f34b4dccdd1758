// What the header fields say about a request's framing and connection: a pure struct, part of the parser.
// Invariant: a length is accepted only if it can be read in one way (RFC 9112, 6.3).

struct HTTPFieldRules {
  /// The client waits for "100 Continue".
  var wantsContinue = false

  private var hostCount = 0
  private var contentLength: Int?
  private var hasTransferEncoding = false
  private var codingIsChunkedAlone = false
  private var codingEndsChunked = false
  private var asksClose = false
  private var asksKeepAlive = false
  private var hasUnknownExpectation = false

  /// Parses one field line (RFC 9112, 5): `name ":" OWS value OWS`. Obs-fold and space around the name are refused.
  mutating func take(_ line: Range<Int>, of bytes: Span<UInt8>, limit: Int) -> HTTPStatus? {
    var colon = line.lowerBound
    while colon < line.upperBound, ASCII.isToken(bytes[colon]) { colon += 1 }
    guard colon > line.lowerBound, colon < line.upperBound, bytes[colon] == ASCII.colon else { return .badRequest }
    let name = line.lowerBound..<colon
    let value = ASCII.trimmed(bytes, (colon + 1)..<line.upperBound)
    for index in value where !ASCII.isFieldValue(bytes[index]) { return .badRequest }

    switch name.count {
    case 4 where ASCII.equalIgnoringCase(bytes, name, "host"):
      return takeHost(value, of: bytes)
    case 6 where ASCII.equalIgnoringCase(bytes, name, "expect"):
      let isContinue = ASCII.equalIgnoringCase(bytes, value, "100-continue")
      wantsContinue = isContinue
      hasUnknownExpectation = hasUnknownExpectation || !isContinue
    case 10 where ASCII.equalIgnoringCase(bytes, name, "connection"):
      takeConnection(value, of: bytes)
    case 14 where ASCII.equalIgnoringCase(bytes, name, "content-length"):
      return takeContentLength(value, of: bytes, limit: limit)
    case 17 where ASCII.equalIgnoringCase(bytes, name, "transfer-encoding"):
      takeTransferEncoding(value, of: bytes)
    default: break
    }
    return nil
  }

  /// Called at the end of the fields: decides what they mean together and writes it to `head`.
  mutating func conclude(_ head: inout HTTPRequestHead, limit: Int) -> HTTPStatus? {
    // RFC 9112, 3.2: a 1.1 request without Host is refused, and so is any request with two.
    guard hostCount == 1 || (hostCount == 0 && head.minorVersion == 0) else { return .badRequest }
    if hasTransferEncoding {
      // RFC 9112, 6.1 and 6.3: with a length beside it, in a 1.0 request, or if it does not end in chunked, the end of
      // the body is ambiguous. Chunked alone is not, but it is refused too: 411, and the connection ends.
      guard head.minorVersion == 1, contentLength == nil, codingEndsChunked else { return .badRequest }
      return codingIsChunkedAlone ? .lengthRequired : .notImplemented
    }
    let length = contentLength ?? 0
    guard length <= limit else { return .contentTooLarge }
    // RFC 9110, 10.1.1: an expectation in a 1.0 request is ignored.
    if head.minorVersion == 0 {
      wantsContinue = false
    } else if hasUnknownExpectation {
      return .expectationFailed
    }
    head.bodyByteCount = length
    // RFC 9112, 9.3.
    head.keepsAlive = !asksClose && (head.minorVersion == 1 || asksKeepAlive)
    return nil
  }

  private mutating func takeHost(_ value: Range<Int>, of bytes: Span<UInt8>) -> HTTPStatus? {
    hostCount += 1
    for index in value where !ASCII.isHost(bytes[index]) { return .badRequest }
    return hostCount > 1 ? .badRequest : nil
  }

  /// RFC 9112, 6.3: digits only, and once. A number beyond the limit stays beyond it, whatever its length.
  private mutating func takeContentLength(_ value: Range<Int>, of bytes: Span<UInt8>, limit: Int) -> HTTPStatus? {
    guard contentLength == nil, !value.isEmpty else { return .badRequest }
    var length = 0
    for index in value {
      guard ASCII.isDigit(bytes[index]) else { return .badRequest }
      length = min(length * 10 + Int(bytes[index] - ASCII.zero), limit + 1)
    }
    contentLength = length
    return nil
  }

  private mutating func takeTransferEncoding(_ value: Range<Int>, of bytes: Span<UInt8>) {
    codingIsChunkedAlone = !hasTransferEncoding && ASCII.equalIgnoringCase(bytes, value, "chunked")
    hasTransferEncoding = true
    codingEndsChunked = false
    var rest = value
    while let element = ASCII.nextElement(bytes, &rest) {
      codingEndsChunked = ASCII.equalIgnoringCase(bytes, element, "chunked")
    }
  }

  private mutating func takeConnection(_ value: Range<Int>, of bytes: Span<UInt8>) {
    var rest = value
    while let element = ASCII.nextElement(bytes, &rest) {
      if ASCII.equalIgnoringCase(bytes, element, "close") { asksClose = true }
      if ASCII.equalIgnoringCase(bytes, element, "keep-alive") { asksKeepAlive = true }
    }
  }
}
