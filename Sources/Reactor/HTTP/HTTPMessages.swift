// What a handler sees and what it answers: the request, the response, and the choice to answer now or later.
// Invariant: a response is rendered once, when it is made; sending it copies bytes and nothing else.

/// A request, for the time of the handler's call.
///
/// It shows the connection's own bytes, so it cannot be copied or kept: take out of it what is needed.
public struct HTTPRequest: ~Copyable {
  private let bytes: UnsafeBufferPointer<UInt8>
  private let head: HTTPRequestHead

  init(_ head: HTTPRequestHead, in bytes: UnsafeBufferPointer<UInt8>) {
    self.head = head
    self.bytes = bytes
  }

  public var method: HTTPMethod { head.method }

  /// Whether only the head of the answer is wanted. The server leaves the body out; a handler may skip making it.
  public var isHead: Bool { head.method == .head }

  /// Whether the target's path, without its query and with percent-encoding left alone, is exactly `path`.
  public func hasPath(_ path: StaticString) -> Bool {
    if head.path.isEmpty { return path.utf8CodeUnitCount == 1 && path.utf8Start[0] == ASCII.slash }
    return ASCII.equal(bytes.span, head.path, path)
  }

  /// The target's path, as `hasPath` compares it. Allocates where it is longer than 15 bytes.
  public var path: String {
    head.path.isEmpty ? "/" : String(decoding: bytes[head.path], as: UTF8.self)
  }

  /// What follows the question mark, percent-encoding left alone; empty without one.
  public var query: String {
    String(decoding: bytes[head.query], as: UTF8.self)
  }
}

/// A header field of a response.
public struct HTTPField: Sendable {
  public let name: String
  public let value: String

  /// Bytes that may not stand in either become spaces: no field can begin another one.
  public init(_ name: String, _ value: String) {
    self.name = name
    self.value = value
  }
}

/// A response, rendered when it is made: keep those that stay the same, and sending one allocates nothing.
public struct HTTPResponse: Sendable {
  public let status: HTTPStatus
  public let body: [UInt8]

  /// The status line and the fields up to where a connection's own begin.
  let head: [UInt8]
  /// Where in `head` the 29 bytes of the date go at each sending.
  let dateOffset: Int

  /// - Parameters:
  ///   - contentType: left out where the body is empty.
  ///   - headers: besides Date, Content-Type, Content-Length and Connection, which the server writes.
  public init(
    status: HTTPStatus = .ok, contentType: String = "text/plain; charset=utf-8", body: [UInt8] = [],
    headers: [HTTPField] = []
  ) {
    self.status = status
    self.body = body
    var head: [UInt8] = []
    head.reserveCapacity(192)
    head.append(contentsOf: "HTTP/1.1 ".utf8)
    Self.append(status.rawValue, to: &head)
    head.append(ASCII.space)
    status.reason.withUTF8Buffer { head.append(contentsOf: $0) }
    head.append(contentsOf: "\r\nDate: ".utf8)
    dateOffset = head.count
    head.append(contentsOf: repeatElement(ASCII.space, count: HTTPDate.byteCount))
    head.append(contentsOf: "\r\n".utf8)
    if !body.isEmpty { Self.append(HTTPField("Content-Type", contentType), to: &head) }
    for field in headers { Self.append(field, to: &head) }
    // RFC 9110, 8.6: never with 204.
    if status != .noContent {
      head.append(contentsOf: "Content-Length: ".utf8)
      Self.append(body.count, to: &head)
      head.append(contentsOf: "\r\n".utf8)
    }
    self.head = head
  }

  /// A response with `text` as its body.
  public init(
    status: HTTPStatus = .ok, contentType: String = "text/plain; charset=utf-8", text: String,
    headers: [HTTPField] = []
  ) {
    self.init(status: status, contentType: contentType, body: Array(text.utf8), headers: headers)
  }

  /// 404, for a path that nothing is at.
  public static let notFound = HTTPResponse(status: .notFound, text: "not found\n")

  /// 405, for every method but the two that are served (RFC 9110, 15.5.6: with Allow).
  static let methodNotAllowed = HTTPResponse(
    status: .methodNotAllowed, text: "method not allowed\n", headers: [HTTPField("Allow", "GET, HEAD")])

  private static func append(_ field: HTTPField, to head: inout [UInt8]) {
    for byte in field.name.utf8 { head.append(ASCII.isToken(byte) ? byte : ASCII.space) }
    head.append(contentsOf: ": ".utf8)
    for byte in field.value.utf8 { head.append(ASCII.isFieldValue(byte) ? byte : ASCII.space) }
    head.append(contentsOf: "\r\n".utf8)
  }

  private static func append(_ number: Int, to head: inout [UInt8]) {
    if number >= 10 { append(number / 10, to: &head) }
    head.append(ASCII.zero + UInt8(number % 10))
  }
}

/// How a handler answers.
public enum HTTPReply {
  /// At once.
  case now(HTTPResponse)
  /// After waiting for something. The connection reads nothing until then, so answers keep their order. Cancelled when
  /// the server stops; it must then end.
  case later(@EventLoop @Sendable () async -> HTTPResponse)
}
