// What the configurations of PostgreSQL and Redis have in common: a login that can be replaced while a process runs.
// Invariant: a login is sent only to the servers that it was configured for.

/// Where a server is, and the login for it.
public protocol ServerConfiguration: Equatable {
  /// The same servers with the login of `other`; nil if `other` leads to other servers, whose login it is.
  func withNewLogin(from other: Self) -> Self?
}
