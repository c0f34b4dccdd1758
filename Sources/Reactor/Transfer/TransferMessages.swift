// A request to another server and its result: values only. Invariant: an error's text contains no URL, host, credential
// or text of the peer. Carried by TransferClient.

/// A request to another server.
public struct TransferRequest: Sendable, Equatable {
  /// The content, by protocol.
  public enum Content: Sendable, Equatable {
    /// A POST over http or https, with additional header lines such as "Content-Type: application/json". A line that is
    /// not exactly one header field is refused.
    case post(headers: [String], body: [UInt8])
    /// A mail over smtp or smtps: the envelope's addresses, and the message with CRLF line ends. Control characters and
    /// angle brackets in an address are refused, as are bare CRs and LFs in the message. `clientName` is sent in EHLO:
    /// a name with a dot or an address literal. Nil: the path of the URL.
    case mail(
      from: String, to: [String], message: [UInt8], encryption: MailEncryption, clientName: String? = nil)
  }

  /// The encryption for a mail server at an smtp URL. An smtps URL is encrypted from the first byte.
  public enum MailEncryption: String, Sendable, CaseIterable {
    /// STARTTLS is required; otherwise nothing is sent.
    case required
    /// STARTTLS if the server offers it.
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

/// The server's answer.
public struct TransferAnswer: Sendable, Equatable {
  /// The HTTP or SMTP status code.
  public var status: Int
  /// How long the server asks to wait before the next request.
  public var retryAfter: Duration?
  /// The body, up to `TransferClient.bodyLimit`; the rest is not read.
  public var body: [UInt8]
  /// Whether HTTP/2 was used.
  public var isHTTP2: Bool
  /// Connections opened for it: 0 if one was reused.
  public var connections: Int
  /// The recipients that the server refused while it accepted others.
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

/// A mail server's reply to one command, in numbers.
public struct MailReply: Sendable, Equatable {
  /// The SMTP code: 2yz and 3yz accept, 4yz is temporary, 5yz permanent.
  public var status: Int
  /// The enhanced status code of RFC 3463, such as 5.7.1, if the server sent one.
  public var enhancedStatus: String?

  public init(status: Int, enhancedStatus: String? = nil) {
    self.status = status
    self.enhancedStatus = enhancedStatus
  }

  var isRefusal: Bool { status >= 400 }

  /// Such as "status 550 5.7.1".
  public var text: String { "status \(status)" + (enhancedStatus.map { " \($0)" } ?? "") }
}

/// A recipient that does not get the mail although others do.
public struct RefusedRecipient: Sendable, Equatable {
  public var address: String
  public var reply: MailReply
}

/// Why a redirect is not followed.
public enum RedirectRefusal: String, Sendable {
  /// A 301, 302 or 303: clients turn a POST into a GET without a body.
  case otherMethod = "a redirect that does not keep the request (only 307 and 308 do)"
  case noTarget = "a redirect to nowhere"
  /// A request is not sent to another host.
  case otherHost = "a redirect to another host"
  case unencrypted = "a redirect from https to http"
  case otherProtocol = "a redirect to another protocol"
  case tooMany = "too many redirects"
}

/// The step at which a mail failed.
public enum MailStep: String, Sendable {
  /// EHLO or HELO, in which the client names itself.
  case hello = "the client's name (EHLO)"
  case login = "the login"
  case sender = "the sender"
  case recipients = "every recipient"
  case message = "the message"
}

/// Why a request has no answer.
public enum TransferError: Error, Sendable, Equatable {
  /// The URL is invalid, or its scheme is not supported.
  case malformedURL
  /// A part of the request would leave its line or command: which one, without its text.
  case malformedRequest(String)
  /// The proxy's address from the environment is invalid.
  case malformedProxy
  case unresolved(NameResolutionError)
  /// Nothing arrived before the deadline: the server, or something in between, hangs.
  case timedOut
  /// libcurl failed: its code and text, and the server's last status, 0 if there was none.
  case failed(code: Int32, reason: String, status: Int)
  /// The server redirects with this status, and the redirect is not followed: why.
  case redirected(status: Int, RedirectRefusal)
  /// A mail server refused the mail at this step.
  case mailRefused(at: MailStep, MailReply)
  /// The mail server offers none of the login mechanisms to try.
  case noCommonLogin(tried: String)

  /// The reason, in words that may leave the process.
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
