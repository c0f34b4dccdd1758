// Which redirects are followed. Pure. Invariant: a request goes, as it is, only to the host that it was meant for, and
// never less encrypted. Used by TransferClient, which resolves and connects for each hop anew.

/// Follows the redirects of one request.
struct Redirects {
  /// Hops at most: http to https, a slash at the end, and one more.
  static let limit = 3

  private var followed = 0

  /// Takes an answer's redirect to `target` in.
  ///
  /// - Parameter target: nil where the answer names none.
  /// - Throws: `TransferError.redirected` where it is not followed.
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

  /// Whether a status asks the client to go elsewhere (RFC 9110, 15.4); 304 and the unused ones do not.
  static func isRedirect(_ status: Int) -> Bool {
    [301, 302, 303, 307, 308].contains(status)
  }
}
