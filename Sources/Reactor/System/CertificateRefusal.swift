// Why a peer's certificate was refused, in OpenSSL's words. Invariant: they name no host. Used where a connection
// failed: by Redis' and by PostgreSQL's.

import CReactor

enum CertificateRefusal {
  /// "certificate refused: certificate has expired" for instance; nil where it was not the certificate.
  static func reason(of session: OpaquePointer) -> String? {
    reason(of: SSL_get_verify_result(session))
  }

  /// The same of a result that was kept.
  static func reason(of result: Int) -> String? {
    guard result != Int(X509_V_OK), let text = X509_verify_cert_error_string(result) else { return nil }
    return "certificate refused: \(String(cString: text))"
  }
}
