// Which redirects are followed. Pure. Invariant: a request is sent unchanged and only to its original host, never with
// less encryption. Used by TransferClient, which resolves and connects again for each hop.

/// Follows the redirects of one request.
struct Redirects {
  /// The maximum number of hops: http to https, a trailing slash, and one more.
  static let limit = 3

  private var followed = 0

  /// Follows an answer's redirect to `target`.
  ///
  /// - Parameter target: nil if the answer has none.
  /// - Throws: `TransferError.redirected` if it is not followed.
  mutating func follow(
    status: Int, from origin: TransferLibrary.Address, to target: TransferLibrary.Address?
  ) throws(TransferError) {
    guard status == 307 || status == 308 else { throw .redirected(status: status, .otherMethod) }
    guard let target else { throw .redirected(status: status, .noTarget) }
    guard target.host.lowercased() == origin.host.lowercased() else { throw .redirected(status: status, .otherHost) }
    guard target.scheme == "https" || target.scheme == origin.scheme else {
      throw .redirected(status: status, target.scheme == "http" ? .unencrypted : .otherProtocol)
    }
    guard followed < Self.limit else { throw .redirected(status: status, .tooMany) }
    followed += 1
  }

  /// Whether a status is a redirect (RFC 9110, 15.4); 304 and the unused ones are not.
  static func isRedirect(_ status: Int) -> Bool {
    [301, 302, 303, 307, 308].contains(status)
  }
}
