// Sorts a name's addresses into the order in which to try them, by those rules of RFC 6724, section 6, that need no
// interface information. Invariant: no address is added or lost. Asks the kernel for routes; otherwise pure. Used by
// NameResolver.

import CReactor

/// The order of destination addresses.
enum AddressOrder {
  /// An address, and the source address that the kernel would use to reach it: nil without a route.
  struct Destination {
    let text: String
    let source: [UInt8]?
  }

  /// Sorts `addresses` into the order in which to try them: those with a route first.
  static func sorted(_ addresses: [String]) -> [String] {
    guard addresses.count > 1 else { return addresses }
    return sorted(addresses.map { Destination(text: $0, source: source(for: $0)) })
  }

  static func sorted(_ destinations: [Destination]) -> [String] {
    var ranked = destinations.enumerated().map { (rank: rank($1), index: $0, text: $1.text) }
    ranked.sort { $0.rank == $1.rank ? $0.index < $1.index : $0.rank.lexicographicallyPrecedes($1.rank) }
    return ranked.map(\.text)
  }

  /// The sort key, lowest first. Rule 1: has a route; rule 2: same scope as the source; rule 5: same label; rule 6:
  /// higher precedence. Ties keep the resolver's order (rule 10).
  private static func rank(_ destination: Destination) -> [Int] {
    guard let source = destination.source, let bytes = NameResolver.addressBytes(destination.text) else { return [1] }
    let (address, from) = (mapped(bytes), mapped(source))
    return [
      0, scope(address) == scope(from) ? 0 : 1, policy(address).label == policy(from).label ? 0 : 1,
      -policy(address).precedence,
    ]
  }

  /// RFC 6724, section 2.1, the default policy table.
  private static func policy(_ address: [UInt8]) -> (precedence: Int, label: Int) {
    if address == [UInt8](repeating: 0, count: 15) + [1] { return (50, 0) }
    if isMapped(address) { return (35, 4) }
    switch (address[0], address[1], address[2], address[3]) {
    case (0x20, 0x02, _, _): return (30, 2)
    case (0x20, 0x01, 0, 0): return (5, 5)
    case (0xfc...0xfd, _, _, _): return (3, 13)
    case (0xfe, 0xc0...0xff, _, _): return (1, 11)
    case (0x3f, 0xfe, _, _): return (1, 12)
    case (0, 0, 0, 0) where address[4..<12].allSatisfy { $0 == 0 }: return (1, 3)
    default: return (40, 1)
    }
  }

  /// The scope of an address: link-local (including loopback), site-local or global (RFC 6724, sections 3.1, 3.2).
  private static func scope(_ address: [UInt8]) -> Int {
    if isMapped(address) {
      return address[12] == 127 || (address[12] == 169 && address[13] == 254) ? 0x2 : 0xe
    }
    if address.dropLast().allSatisfy({ $0 == 0 }) { return 0x2 }
    guard address[0] == 0xfe else { return address[0] == 0xff ? Int(address[1] & 0xf) : 0xe }
    return address[1] & 0xc0 == 0x80 ? 0x2 : address[1] & 0xc0 == 0xc0 ? 0x5 : 0xe
  }

  private static func mapped(_ bytes: [UInt8]) -> [UInt8] {
    bytes.count == 16 ? bytes : [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + bytes
  }

  private static func isMapped(_ address: [UInt8]) -> Bool {
    address[..<10].allSatisfy { $0 == 0 } && address[10] == 0xff && address[11] == 0xff
  }

  /// The source address that the kernel would use. Connecting a datagram socket sends nothing.
  static func source(for text: String) -> [UInt8]? {
    guard let bytes = NameResolver.addressBytes(text) else { return nil }
    let address = bytes.count == 4 ? SocketAddress(ipv4: bytes, port: 53) : SocketAddress(ipv6: bytes, port: 53)
    let descriptor = creactor_datagram_socket(address.family)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    guard address.with({ creactor_connect(descriptor, $0, $1) }) == 0 else { return nil }
    var name = sockaddr_in6()
    var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
    let answer = withUnsafeMutablePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
    }
    guard answer == 0 else { return nil }
    if bytes.count == 16 { return withUnsafeBytes(of: name.sin6_addr) { Array($0) } }
    // The IPv4 address is at the offset of IPv6's flow label.
    return withUnsafeBytes(of: name.sin6_flowinfo) { Array($0) }
  }
}
