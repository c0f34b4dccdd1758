// What `check` reports about a server's certificate, accepted or refused. Pure.

import Reactor

/// A certificate that was accepted or not verified.
enum CertificateCheck {
  /// An earlier expiry is a warning.
  private static let expiryDays = 14

  static func findings(of peer: TLSPeer) -> [CheckFinding] {
    let text =
      "\(peer.protocolVersion), \(peer.commonName.map { "certificate of \($0)" } ?? "certificate without a name")"
    if peer.daysToExpiry < 0 { return [.fault("\(text): it expired \(days(-peer.daysToExpiry)) ago: renew it")] }
    if peer.daysToExpiry >= expiryDays { return [.ok("\(text), valid for \(days(peer.daysToExpiry))")] }
    return [.warning("\(text): it expires in \(days(peer.daysToExpiry)): renew it")]
  }

  private static func days(_ count: Int) -> String { "\(count) day\(count == 1 ? "" : "s")" }
}

/// What to do about a refused certificate.
enum CertificateHint {
  static func added(to reason: String) -> String {
    guard reason.hasPrefix("certificate refused") else { return reason }
    if reason.hasSuffix("expired") { return reason + ": renew the server's certificate" }
    if reason.hasSuffix("mismatch") { return reason + ": use a host name in the URL that the certificate bears" }
    return reason + ": check the server's certificate chain and the trusted authorities"
  }
}
