// An address and port as the kernel expects them. Used by listeners and by LocalRequest.

import CReactor

struct SocketAddress {
  let family: Int32
  private var ipv4 = sockaddr_in()
  private var ipv6 = sockaddr_in6()

  /// `host` is the four bytes of the address.
  init(ipv4 host: [UInt8], port: UInt16) {
    family = AF_INET
    ipv4.sin_family = sa_family_t(AF_INET)
    ipv4.sin_port = port.bigEndian
    withUnsafeMutableBytes(of: &ipv4.sin_addr) { $0.copyBytes(from: host) }
  }

  /// `host` is the sixteen bytes of the address.
  init(ipv6 host: [UInt8], port: UInt16) {
    family = AF_INET6
    ipv6.sin6_family = sa_family_t(AF_INET6)
    ipv6.sin6_port = port.bigEndian
    withUnsafeMutableBytes(of: &ipv6.sin6_addr) { $0.copyBytes(from: host) }
  }

  func with<Value>(_ body: (UnsafeRawPointer, socklen_t) -> Value) -> Value {
    family == AF_INET
      ? withUnsafeBytes(of: ipv4) { body($0.baseAddress!, socklen_t($0.count)) }
      : withUnsafeBytes(of: ipv6) { body($0.baseAddress!, socklen_t($0.count)) }
  }

  /// The address as text without its port; nil if it is neither IPv4 nor IPv6.
  static func hostText(_ address: UnsafePointer<sockaddr>) -> String? {
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    let raw = UnsafeRawPointer(address)
    switch Int32(address.pointee.sa_family) {
    case AF_INET:
      var host = raw.loadUnaligned(as: sockaddr_in.self).sin_addr
      guard inet_ntop(AF_INET, &host, &text, socklen_t(text.count)) != nil else { return nil }
    case AF_INET6:
      var host = raw.loadUnaligned(as: sockaddr_in6.self).sin6_addr
      guard inet_ntop(AF_INET6, &host, &text, socklen_t(text.count)) != nil else { return nil }
    default: return nil
    }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
