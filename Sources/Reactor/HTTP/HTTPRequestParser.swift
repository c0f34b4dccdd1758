// The incremental request parser: a pure struct over a connection's bytes. It imports nothing and owns no memory.
// Invariant: the outcome depends only on the bytes, not on how they were split, and it never asks to keep more than
// `byteLimit` bytes. Called by HTTPConnection and by the fuzzer.

/// The method. Only GET and HEAD are served; others are answered 405.
public enum HTTPMethod: Sendable {
  case get, head, other
}

/// A whole request, as offsets into the bytes that it was parsed from.
struct HTTPRequestHead: Equatable {
  var method = HTTPMethod.other
  /// The target's path, not percent-decoded; empty for `http://host` without one, which means "/".
  var path = 0..<0
  /// What follows the question mark; empty if there is none.
  var query = 0..<0
  var minorVersion: UInt8 = 1
  /// Whether the client wants to keep the connection after the answer.
  var keepsAlive = true
  /// Offset of the body: the length of the request line, the fields and the empty line.
  var headByteCount = 0
  var bodyByteCount = 0

  /// The total length of the request.
  var byteCount: Int { headByteCount + bodyByteCount }
}

/// Parses one request after the other.
///
///     requestLine ──▶ fields ──▶ body ──▶ .request, and again
///          └────────────┴──▶ .refused, for ever
///
/// The rules are those of RFC 9112. If it leaves a choice, the stricter one is taken, because differences between
/// recipients are how requests are smuggled: a bare LF, a bare CR, obs-fold, space before the colon, repeated lengths,
/// and a length with a transfer coding are all refused.
struct HTTPRequestParser {
  enum Step: Equatable {
    /// The request is not complete; call again with the same bytes and more.
    case needsMore
    /// Like `needsMore`, and the client waits for "100 Continue" before it sends the body. Returned once per request.
    case wantsContinue
    /// A request at the beginning of the bytes; call again with those after it.
    case request(HTTPRequestHead)
    /// Not a request that this server accepts; the parser cannot be used further.
    case refused(HTTPStatus)
  }

  private enum Phase {
    case requestLine, fields, body
  }

  private let headByteLimit: Int
  private let bodyByteLimit: Int
  private var phase = Phase.requestLine
  private var lineStart = 0
  private var scannedByteCount = 0
  private var head = HTTPRequestHead()
  private var fields = HTTPFieldRules()
  private var refusal: HTTPStatus?

  /// - Parameters:
  ///   - headByteLimit: for the request line and the fields together; a longer line is 414, longer fields are 431.
  ///   - bodyByteLimit: for a body, which is read and discarded; a longer one is 413.
  init(headByteLimit: Int, bodyByteLimit: Int) {
    self.headByteLimit = headByteLimit
    self.bodyByteLimit = bodyByteLimit
  }

  /// The maximum number of bytes for which `next` can return `.needsMore`.
  var byteLimit: Int { headByteLimit + bodyByteLimit }

  /// Parses `bytes`: everything after the last request.
  mutating func next(_ bytes: Span<UInt8>) -> Step {
    if let refusal { return .refused(refusal) }
    if let status = takeLines(bytes) {
      refusal = status
      return .refused(status)
    }
    guard phase == .body else { return .needsMore }
    guard bytes.count >= head.byteCount else {
      // RFC 9110, 10.1.1: no interim answer if part of the body has already arrived.
      guard fields.wantsContinue, bytes.count == head.headByteCount else { return .needsMore }
      fields.wantsContinue = false
      return .wantsContinue
    }
    let complete = head
    phase = .requestLine
    lineStart = 0
    scannedByteCount = 0
    head = HTTPRequestHead()
    fields = HTTPFieldRules()
    return .request(complete)
  }

  /// Parses the complete lines of the head.
  private mutating func takeLines(_ bytes: Span<UInt8>) -> HTTPStatus? {
    while phase != .body {
      // Bytes that cannot be a request, such as a TLS handshake, are refused at once.
      if phase == .requestLine, lineStart < bytes.count,
        !ASCII.isToken(bytes[lineStart]), bytes[lineStart] != ASCII.carriageReturn
      {
        return .badRequest
      }
      guard let newline = newline(in: bytes) else {
        return bytes.count > headByteLimit ? tooLong : nil
      }
      guard newline < headByteLimit else { return tooLong }
      // RFC 9112, 2.2 allows a bare LF as a line terminator; it is refused here.
      guard newline > lineStart, bytes[newline - 1] == ASCII.carriageReturn else { return .badRequest }
      let line = lineStart..<(newline - 1)
      lineStart = newline + 1
      if let status = take(line, of: bytes) { return status }
    }
    return nil
  }

  private var tooLong: HTTPStatus {
    phase == .requestLine ? .uriTooLong : .headerFieldsTooLarge
  }

  /// The next LF. No byte is searched twice.
  private mutating func newline(in bytes: Span<UInt8>) -> Int? {
    var index = scannedByteCount
    while index < bytes.count {
      if bytes[index] == ASCII.lineFeed {
        scannedByteCount = index + 1
        return index
      }
      index += 1
    }
    scannedByteCount = index
    return nil
  }

  private mutating func take(_ line: Range<Int>, of bytes: Span<UInt8>) -> HTTPStatus? {
    switch phase {
    case .requestLine:
      // RFC 9112, 2.2: empty lines before the request line are skipped.
      guard !line.isEmpty else { return nil }
      phase = .fields
      return takeRequestLine(line, of: bytes)
    case .fields:
      guard line.isEmpty else { return fields.take(line, of: bytes, limit: bodyByteLimit) }
      head.headByteCount = lineStart
      phase = .body
      return fields.conclude(&head, limit: bodyByteLimit)
    case .body: preconditionFailure("a body has no lines")
    }
  }

  /// RFC 9112, 3: `method SP request-target SP HTTP-version`, with exactly one space in both places.
  private mutating func takeRequestLine(_ line: Range<Int>, of bytes: Span<UInt8>) -> HTTPStatus? {
    var index = line.lowerBound
    while index < line.upperBound, ASCII.isToken(bytes[index]) { index += 1 }
    let method = line.lowerBound..<index
    guard !method.isEmpty, index < line.upperBound, bytes[index] == ASCII.space else { return .badRequest }

    let targetStart = index + 1
    index = targetStart
    while index < line.upperBound, ASCII.isTarget(bytes[index]) { index += 1 }
    let target = targetStart..<index
    guard !target.isEmpty, index < line.upperBound, bytes[index] == ASCII.space else { return .badRequest }

    // RFC 9112, 2.3: the name is case-sensitive.
    let version = (index + 1)..<line.upperBound
    guard version.count == 8, ASCII.equal(bytes, version.lowerBound..<(version.lowerBound + 5), "HTTP/"),
      ASCII.isDigit(bytes[version.lowerBound + 5]), bytes[version.lowerBound + 6] == ASCII.dot,
      ASCII.isDigit(bytes[version.lowerBound + 7])
    else { return .badRequest }
    let minor = bytes[version.lowerBound + 7] - ASCII.zero
    guard bytes[version.lowerBound + 5] == ASCII.zero + 1, minor <= 1 else { return .versionNotSupported }
    head.minorVersion = minor
    head.keepsAlive = minor == 1

    // RFC 9110, 9.1: methods are case-sensitive.
    head.method =
      ASCII.equal(bytes, method, "GET") ? .get : ASCII.equal(bytes, method, "HEAD") ? .head : .other
    // The other forms of a target belong to methods that are always answered 405.
    return head.method == .other || takeTarget(target, of: bytes) ? nil : .badRequest
  }

  /// RFC 9112, 3.2: the origin form, or the absolute form, whose authority is ignored. `false` for others.
  private mutating func takeTarget(_ target: Range<Int>, of bytes: Span<UInt8>) -> Bool {
    var pathStart = target.lowerBound
    if bytes[pathStart] != ASCII.slash {
      guard let authority = authorityStart(target, of: bytes) else { return false }
      pathStart = authority
      while pathStart < target.upperBound, ASCII.isHost(bytes[pathStart]) { pathStart += 1 }
      guard pathStart > authority else { return false }
    }
    var pathEnd = pathStart
    while pathEnd < target.upperBound, bytes[pathEnd] != ASCII.questionMark { pathEnd += 1 }
    guard pathEnd == pathStart || bytes[pathStart] == ASCII.slash else { return false }
    head.path = pathStart..<pathEnd
    head.query = min(pathEnd + 1, target.upperBound)..<target.upperBound
    return true
  }

  private func authorityStart(_ target: Range<Int>, of bytes: Span<UInt8>) -> Int? {
    for scheme in 0...1 {
      let prefix: StaticString = scheme == 0 ? "http://" : "https://"
      let end = target.lowerBound + prefix.utf8CodeUnitCount
      if end <= target.upperBound, ASCII.equalIgnoringCase(bytes, target.lowerBound..<end, prefix) { return end }
    }
    return nil
  }
}
