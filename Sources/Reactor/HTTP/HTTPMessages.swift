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
public final class HTTPResponse: Sendable {
  public let status: HTTPStatus
  public let body: [UInt8]
  let head: HTTPResponseHead

  /// - Parameters:
  ///   - contentType: left out where the body is empty.
  ///   - headers: besides Date, Content-Type, Content-Length and Connection, which the server writes.
  public init(
    status: HTTPStatus = .ok, contentType: String = "text/plain; charset=utf-8", body: [UInt8] = [],
    headers: [HTTPField] = []
  ) {
    self.status = status
    self.body = body
    let type = body.isEmpty ? [] : [HTTPField("Content-Type", contentType)]
    head = HTTPResponseHead(status, fields: type + headers, bodyByteCount: body.count)
  }

  /// A response with `text` as its body.
  public convenience init(
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
}

/// A response of status 200 whose body is written anew at each request, straight to where it is sent from: kept like
/// an `HTTPResponse`, it allocates as little.
@EventLoop
public final class HTTPLiveResponse {
  private let fields: [HTTPField]
  /// With room for as many digits as the last body's length had, which mostly is as many as the next one's has.
  private(set) var head: HTTPResponseHead
  private(set) var lengthDigits = 1
  let byteLimit: @EventLoop () -> Int
  let write: @EventLoop (UnsafeMutableRawBufferPointer) -> Int

  /// - Parameters:
  ///   - byteLimit: the most bytes that the next body can have.
  ///   - write: writes the body from the start of memory that has room for it, and returns how many bytes it has.
  public init(
    contentType: String, byteLimit: @escaping @EventLoop () -> Int,
    write: @escaping @EventLoop (UnsafeMutableRawBufferPointer) -> Int
  ) {
    fields = [HTTPField("Content-Type", contentType)]
    head = HTTPResponseHead(.ok, fields: fields, bodyByteCount: 0)
    self.byteLimit = byteLimit
    self.write = write
  }

  func lengthWas(_ length: Int) {
    let digits = ASCII.digitCount(of: length)
    guard digits != lengthDigits else { return }
    lengthDigits = digits
    head = HTTPResponseHead(.ok, fields: fields, bodyByteCount: length)
  }
}

/// A status line and fields, up to where a connection's own fields begin.
struct HTTPResponseHead: Sendable {
  private(set) var bytes: [UInt8] = []
  /// Where the 29 bytes of the date go at each sending.
  let dateOffset: Int
  /// Where the length ends.
  let lengthEnd: Int

  init(_ status: HTTPStatus, fields: [HTTPField], bodyByteCount: Int) {
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
    for field in fields { Self.append(field, to: &head) }
    // RFC 9110, 8.6: never with 204.
    if status != .noContent {
      head.append(contentsOf: "Content-Length: ".utf8)
      Self.append(bodyByteCount, to: &head)
      head.append(contentsOf: "\r\n".utf8)
    }
    lengthEnd = head.count - 2
    bytes = head
  }

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
  /// At once, with a body that is written for this request.
  case live(HTTPLiveResponse)
  /// After waiting for something. The connection reads nothing until then, so answers keep their order. Cancelled when
  /// the server stops; it must then end.
  case later(@EventLoop @Sendable () async -> HTTPResponse)
}
