// TLS sessions for rediss:// connections. Invariant: a session verifies the certificate's chain and its name, so
// nothing is sent to another server than the one that was asked for. Used by RedisConnection.

import CReactor

/// Makes a session for each connection. The system's certificate authorities are read once (SSL_CERT_FILE overrides
/// them).
@EventLoop
final class RedisTLS {
  /// Whether this build's hiredis can do TLS.
  nonisolated static var isAvailable: Bool { creactor_redis_has_tls() == 1 }

  private let context: OpaquePointer

  init?() {
    guard let context = SSL_CTX_new(TLS_client_method()) else { return nil }
    self.context = context
    guard SSL_CTX_set_default_verify_paths(context) == 1 else { return nil }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
  }

  isolated deinit {
    SSL_CTX_free(context)
  }

  /// Starts TLS on a connection that may still be connecting. Returns the session, which hiredis owns, or why the
  /// certificate was refused: the peer may have answered already.
  ///
  /// - Parameter host: the name or address that the certificate must contain.
  func start(
    on connection: UnsafeMutablePointer<redisAsyncContext>, host: String
  ) -> (session: OpaquePointer?, refusal: String?) {
    // Errors that an earlier connection left in OpenSSL's queue would be taken for this one's.
    creactor_clear_tls_errors()
    guard let session = SSL_new(context) else { return (nil, nil) }
    guard bind(session, to: host), creactor_redis_start_tls(connection, session) == REDIS_OK else {
      defer { SSL_free(session) }
      return (nil, CertificateRefusal.reason(of: session))
    }
    return (session, nil)
  }

  private func bind(_ session: OpaquePointer, to host: String) -> Bool {
    if NameResolver.isNumericAddress(host) {
      // No server name for an address (RFC 6066, 3).
      return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), host) == 1
    }
    return SSL_set1_host(session, host) == 1 && creactor_ssl_set_server_name(session, host) == 1
  }
}
