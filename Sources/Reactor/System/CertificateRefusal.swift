// Why a peer's certificate was refused, asked of a TLS session. Invariant: the words are OpenSSL's and name no host.
// Used where a connection failed: by Redis' and by PostgreSQL's.

import CReactor

enum CertificateRefusal {
  /// "certificate refused: certificate has expired" for instance; nil where it was not the certificate.
  static func reason(of session: OpaquePointer) -> String? {
    let result = SSL_get_verify_result(session)
    guard result != Int(X509_V_OK), let text = X509_verify_cert_error_string(result) else { return nil }
    return "certificate refused: \(String(cString: text))"
  }
}
