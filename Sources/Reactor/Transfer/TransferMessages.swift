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
    /// `clientName` is what EHLO says: a name with a dot or an address literal. Nil: the path of the URL.
    case mail(
      from: String, to: [String], message: [UInt8], encryption: MailEncryption, clientName: String? = nil)
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
  /// The recipients of a mail that the server refused, while it took others.
  public var refusedRecipients: [RefusedRecipient] = []

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

/// What a mail server replied to one command, in numbers.
public struct MailReply: Sendable, Equatable {
  /// SMTP's: 2yz and 3yz are consent, 4yz passes, 5yz stays.
  public var status: Int
  /// RFC 3463's, such as 5.7.1, where the server says one.
  public var enhancedStatus: String?

  public init(status: Int, enhancedStatus: String? = nil) {
    self.status = status
    self.enhancedStatus = enhancedStatus
  }

  var isRefusal: Bool { status >= 400 }

  /// Such as "status 550 5.7.1".
  public var text: String { "status \(status)" + (enhancedStatus.map { " \($0)" } ?? "") }
}

/// One of several recipients of a mail, who does not get it.
public struct RefusedRecipient: Sendable, Equatable {
  public var address: String
  public var reply: MailReply
}

/// Why a redirect is not followed.
public enum RedirectRefusal: String, Sendable {
  /// A 301, 302 or 303: clients make a GET without a body of a POST.
  case otherMethod = "a redirect that does not keep the request (only 307 and 308 do)"
  case noTarget = "a redirect to nowhere"
  /// What was meant for one host is sent to no other one.
  case otherHost = "a redirect to another host"
  case unencrypted = "a redirect from https to http"
  case otherProtocol = "a redirect to another protocol"
  case tooMany = "too many redirects"
}

/// How far a mail got.
public enum MailStep: String, Sendable {
  /// EHLO or HELO, by which the client names itself.
  case hello = "the client's name (EHLO)"
  case login = "the login"
  case sender = "the sender"
  case recipients = "every recipient"
  case message = "the message"
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
  /// The server redirects with this status, and the redirect cannot be followed: why.
  case redirected(status: Int, RedirectRefusal)
  /// A mail server refused the mail at this step.
  case mailRefused(at: MailStep, MailReply)
  /// A mail server offers none of the ways to log in that were to be tried.
  case noCommonLogin(tried: String)

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
    case .redirected(let status, let refusal): "status \(status): \(refusal.rawValue)"
    case .mailRefused(let step, let reply): "the mail server refused \(step.rawValue) (\(reply.text))"
    case .noCommonLogin(let tried):
      "the mail server offers no login with \(tried) (;AUTH=… behind the user in the URL names another way)"
    }
  }
}
