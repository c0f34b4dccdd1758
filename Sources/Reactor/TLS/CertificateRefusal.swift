// Why a peer's certificate was refused, in OpenSSL's words. Invariant: the text names no host. Used for failed
// connections to Redis and PostgreSQL.

import CReactor

enum CertificateRefusal {
  /// For example "certificate refused: certificate has expired"; nil if the certificate was not the cause.
  static func reason(of session: OpaquePointer) -> String? {
    reason(of: SSL_get_verify_result(session))
  }

  /// The same for a recorded result.
  static func reason(of result: Int) -> String? {
    guard result != Int(X509_V_OK), let text = X509_verify_cert_error_string(result) else { return nil }
    return "certificate refused: \(String(cString: text))"
  }
}
