// What a TLS session says about the peer: the protocol, the certificate's name and how long it is valid. Invariant:
// it only reads; whether the certificate was accepted is the session's own decision. Used by PostgresConnection.

import CReactor

/// The peer of a TLS session.
public struct TLSPeer: Sendable, Equatable {
  /// As OpenSSL writes it: `TLSv1.3`.
  public let protocolVersion: String
  /// Whether the session verified the certificate's chain; if not, anyone could have answered.
  public let isVerified: Bool
  /// The common name of the certificate's subject, if it has one.
  public let commonName: String?
  /// Whether the certificate is valid for the host (RFC 6125).
  public let bearsName: Bool
  /// Whole days until the certificate expires; negative once it has.
  public let daysToExpiry: Int

  /// - Parameters:
  ///   - session: an `SSL *` whose handshake is complete.
  ///   - host: the requested name or address; nil if there is none.
  /// Nil if the peer presented no certificate.
  init?(_ session: OpaquePointer, host: String?, at now: WallClockTime) {
    guard let certificate = SSL_get1_peer_certificate(session) else { return nil }
    defer { X509_free(certificate) }
    protocolVersion = SSL_get_version(session).map { String(cString: $0) } ?? "unknown"
    isVerified = SSL_get_verify_mode(session) != SSL_VERIFY_NONE
    commonName = Self.commonName(of: certificate)
    if let host {
      bearsName =
        NameResolver.isNumericAddress(host)
        ? X509_check_ip_asc(certificate, host, 0) == 1 : X509_check_host(certificate, host, 0, 0, nil) == 1
    } else {
      bearsName = false
    }
    var days: Int32 = 0
    var seconds: Int32 = 0
    guard let start = ASN1_TIME_set(nil, Int(now.seconds)) else { return nil }
    defer { ASN1_TIME_free(start) }
    guard ASN1_TIME_diff(&days, &seconds, start, X509_get0_notAfter(certificate)) == 1 else { return nil }
    daysToExpiry = Int(days) - (seconds < 0 ? 1 : 0)
  }

  private static func commonName(of certificate: OpaquePointer) -> String? {
    guard let subject = X509_get_subject_name(certificate) else { return nil }
    var text = [CChar](repeating: 0, count: 256)
    guard X509_NAME_get_text_by_NID(subject, NID_commonName, &text, Int32(text.count)) > 0 else { return nil }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

extension PostgresConnection {
  /// The server's side of TLS; nil without TLS.
  public func tlsPeer(at now: WallClockTime) -> TLSPeer? {
    guard let connection, let session = PQgetssl(connection) else { return nil }
    return TLSPeer(OpaquePointer(session), host: candidate.first { $0.name == "host" }?.value, at: now)
  }

  /// Whether there is a pooler in between: another session answers than the one that the protocol named.
  public var isPooled: Bool { isSetUp && identity == nil }
}

extension RedisClient {
  /// The server's side of TLS; nil without TLS or without a connection.
  public func tlsPeer(at now: WallClockTime) -> TLSPeer? {
    connection?.tlsSession.flatMap { TLSPeer($0, host: master?.host ?? configuration.host, at: now) }
  }
}

extension PostgresConfiguration {
  /// The names or addresses that are resolved and tried, in order, with their ports; without socket directories.
  public var endpoints: [(host: String, port: String)] {
    hosts.compactMap { host in
      guard !host.isLocalSocket || host.address != nil else { return nil }
      return (host.address ?? host.name ?? "", host.port)
    }
  }
}
