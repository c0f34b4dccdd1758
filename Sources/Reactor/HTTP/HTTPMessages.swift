// What a handler receives and returns: the request, the response, and the choice to answer now or later.
// Invariant: a response is rendered once, when it is made; sending it only copies bytes.

/// A request, valid during the handler's call.
///
/// It refers to the connection's bytes, so it cannot be copied or kept: extract what you need.
public struct HTTPRequest: ~Copyable {
  private let bytes: UnsafeBufferPointer<UInt8>
  private let head: HTTPRequestHead

  init(_ head: HTTPRequestHead, in bytes: UnsafeBufferPointer<UInt8>) {
    self.head = head
    self.bytes = bytes
  }

  public var method: HTTPMethod { head.method }

  /// Whether only the head of the answer is wanted. The server omits the body; a handler may skip making it.
  public var isHead: Bool { head.method == .head }

  /// Whether the target's path, without its query and without percent-decoding, is exactly `path`.
  public func hasPath(_ path: StaticString) -> Bool {
    if head.path.isEmpty { return path.utf8CodeUnitCount == 1 && path.utf8Start[0] == ASCII.slash }
    return ASCII.equal(bytes.span, head.path, path)
  }

  /// The target's path, as `hasPath` compares it. Allocates if it is longer than 15 bytes.
  public var path: String {
    head.path.isEmpty ? "/" : String(decoding: bytes[head.path], as: UTF8.self)
  }

  /// What follows the question mark, without percent-decoding; empty if there is none.
  public var query: String {
    String(decoding: bytes[head.query], as: UTF8.self)
  }
}

/// A header field of a response.
public struct HTTPField: Sendable {
  public let name: String
  public let value: String

  /// Bytes that are not allowed in a field become spaces, so no field can start another.
  public init(_ name: String, _ value: String) {
    self.name = name
    self.value = value
  }
}

/// A response, rendered when it is made. Keep constant responses: sending one allocates nothing.
public final class HTTPResponse: Sendable {
  public let status: HTTPStatus
  public let body: [UInt8]
  let head: HTTPResponseHead

  /// - Parameters:
  ///   - contentType: omitted if the body is empty.
  ///   - headers: in addition to Date, Content-Type, Content-Length and Connection, which the server writes.
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

  /// 404, for an unknown path.
  public static let notFound = HTTPResponse(status: .notFound, text: "not found\n")

  /// 405, for every method but GET and HEAD (RFC 9110, 15.5.6: with Allow).
  static let methodNotAllowed = HTTPResponse(
    status: .methodNotAllowed, text: "method not allowed\n", headers: [HTTPField("Allow", "GET, HEAD")])
}

/// A 200 response whose body is written for each request, directly into the output buffer. Kept like an `HTTPResponse`,
/// it allocates as little.
@EventLoop
public final class HTTPLiveResponse {
  private let fields: [HTTPField]
  /// With room for as many digits as the last body's length had; the next one mostly has as many.
  private(set) var head: HTTPResponseHead
  private(set) var lengthDigits = 1
  let byteLimit: @EventLoop () -> Int
  let write: @EventLoop (UnsafeMutableRawBufferPointer) -> Int

  /// - Parameters:
  ///   - byteLimit: the maximum length of the next body.
  ///   - write: writes the body to memory that has room for it, and returns its length.
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

/// A status line and fields, up to the connection's own fields.
struct HTTPResponseHead: Sendable {
  private(set) var bytes: [UInt8] = []
  /// Offset of the date's 29 bytes, written at each sending.
  let dateOffset: Int
  /// Offset of the end of the length.
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
  /// At once, with a body written for this request.
  case live(HTTPLiveResponse)
  /// After a wait. The connection reads nothing until then, so answers keep their order. The closure is cancelled when
  /// the server stops, and must then end.
  case later(@EventLoop @Sendable () async -> HTTPResponse)
}
