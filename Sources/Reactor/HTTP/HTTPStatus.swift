// The statuses that the server sends. Pure, imports nothing. Used by the parser, the responses and the counters.

/// A response's status code.
public enum HTTPStatus: Int, Sendable, CaseIterable {
  case ok = 200
  case noContent = 204
  case badRequest = 400
  case notFound = 404
  case methodNotAllowed = 405
  case requestTimeout = 408
  case lengthRequired = 411
  case contentTooLarge = 413
  case uriTooLong = 414
  case expectationFailed = 417
  case tooManyRequests = 429
  case headerFieldsTooLarge = 431
  case internalServerError = 500
  case notImplemented = 501
  case serviceUnavailable = 503
  case versionNotSupported = 505

  /// The reason phrase of RFC 9110, section 15.
  public var reason: StaticString {
    switch self {
    case .ok: "OK"
    case .noContent: "No Content"
    case .badRequest: "Bad Request"
    case .notFound: "Not Found"
    case .methodNotAllowed: "Method Not Allowed"
    case .requestTimeout: "Request Timeout"
    case .lengthRequired: "Length Required"
    case .contentTooLarge: "Content Too Large"
    case .uriTooLong: "URI Too Long"
    case .expectationFailed: "Expectation Failed"
    case .tooManyRequests: "Too Many Requests"
    case .headerFieldsTooLarge: "Request Header Fields Too Large"
    case .internalServerError: "Internal Server Error"
    case .notImplemented: "Not Implemented"
    case .serviceUnavailable: "Service Unavailable"
    case .versionNotSupported: "HTTP Version Not Supported"
    }
  }

  /// Whether this answer ends the connection: after a client error the framing may be wrong too.
  var closesConnection: Bool {
    switch self {
    case .ok, .noContent, .internalServerError, .serviceUnavailable, .tooManyRequests: false
    default: true
    }
  }
}
