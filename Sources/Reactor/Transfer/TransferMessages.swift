// What is asked of another server and what came of it: values only. Invariant: an error's text holds no URL, no host,
// no credential and nothing that the other side said. Made and read by who sends, carried by TransferClient.

/// Something to be handed over to another server.
public struct TransferRequest: Sendable, Equatable {
  /// What is handed over, by which protocol.
  public enum Content: Sendable, Equatable {
    /// A POST over http or https, with further header lines such as "Content-Type: application/json". A line that is
    /// not one header field is refused.
    case post(headers: [String], body: [UInt8])
    /// A mail over smtp or smtps: addresses of the envelope, and the message with CRLF at the ends of its lines.
    /// Control characters and angle brackets in an address are refused, and so are bare CRs and LFs in the message.
    case mail(from: String, to: [String], message: [UInt8], encryption: MailEncryption)
  }

  /// How a mail server at an smtp URL is spoken to. An smtps URL is encrypted from its first byte.
  public enum MailEncryption: String, Sendable, CaseIterable {
    /// STARTTLS, or nothing is sent.
    case required
    /// STARTTLS where the server offers it.
    case preferred
    case never
  }

  public var url: String
  public var content: Content

  public init(url: String, content: Content) {
    self.url = url
    self.content = content
  }
}

/// What the other server answered.
public struct TransferAnswer: Sendable, Equatable {
  /// HTTP's or SMTP's status code.
  public var status: Int
  /// How long the server asks to be left alone.
  public var retryAfter: Duration?
  /// What came, up to `TransferClient.bodyLimit`; what is beyond is not read.
  public var body: [UInt8]
  /// Whether HTTP/2 was spoken.
  public var isHTTP2: Bool
  /// Connections that were opened for it: none where one was used again.
  public var connections: Int

  public init(
    status: Int, retryAfter: Duration? = nil, body: [UInt8] = [], isHTTP2: Bool = false, connections: Int = 0
  ) {
    self.status = status
    self.retryAfter = retryAfter
    self.body = body
    self.isHTTP2 = isHTTP2
    self.connections = connections
  }
}

/// Why there is no answer.
public enum TransferError: Error, Sendable, Equatable {
  /// The URL is none, or its scheme is not one of those that are spoken.
  case malformedURL
  /// A part of the request would not stay on its line or within its command: which, without its text.
  case malformedRequest(String)
  /// The address of a proxy, from the environment, is none.
  case malformedProxy
  case unresolved(NameResolutionError)
  /// Nothing came before the deadline: the server, or what is between, hangs.
  case timedOut
  /// libcurl gave up: its code and its words for that code; the last status that the server said, 0 where it said none.
  case failed(code: Int32, reason: String, status: Int)

  /// Why, in words that may leave the process.
  public var publicReason: String {
    switch self {
    case .malformedURL: "the URL cannot be used"
    case .malformedRequest(let fault): "the request has \(fault)"
    case .malformedProxy: "the proxy's address cannot be used"
    case .unresolved(let error): error.publicReason
    case .timedOut: "timed out"
    case .failed(_, let reason, 0): reason
    case .failed(_, let reason, let status): "\(reason) (status \(status))"
    }
  }
}
