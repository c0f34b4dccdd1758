// The listening socket: bound, non-blocking, closed with its owner. Used only by HTTPServer.

import CReactor

final class ListeningSocket {
  let descriptor: Int32
  /// The bound port: the one given, or the one chosen by the kernel for 0.
  let port: UInt16

  /// Backlog: connections that the kernel completes while the server does not accept, capped at somaxconn.
  private static let backlog: Int32 = 256
  /// Socket buffer size: limits how many bytes a peer can make the kernel hold. The kernel doubles the value and
  /// exceeds it by one segment; by default it lets each buffer grow to megabytes.
  private static let sendBufferByteCount: Int32 = 64 * 1024
  private static let receiveBufferByteCount: Int32 = 32 * 1024

  init(_ address: ListenAddress) throws(ListenError) {
    let opened = try Self.open(address)
    descriptor = opened
    port = Self.boundPort(opened)
  }

  deinit {
    _ = close(descriptor)
  }

  /// A waiting connection, non-blocking, or a negative errno.
  func accept() -> Int32 {
    creactor_accept(descriptor)
  }

  private static func open(_ address: ListenAddress) throws(ListenError) -> Int32 {
    switch address.host {
    case .ipv4(let host) where host.contains(where: { $0 != 0 }): return try bindIPv4(host, address)
    case .ipv6(let host) where host.contains(where: { $0 != 0 }): return try bindIPv6(host, address, alsoIPv4: false)
    case .name:
      throw .unresolved(address.description, reason: "a host name must be resolved first, by resolved(by:on:)")
    case .any, .ipv4, .ipv6:
      do {
        return try bindIPv6([UInt8](repeating: 0, count: 16), address, alsoIPv4: true)
      } catch .addressNotOurs, .system(_, number: EAFNOSUPPORT) {
        return try bindIPv4([0, 0, 0, 0], address)
      }
    }
  }

  private static func bindIPv4(_ host: [UInt8], _ address: ListenAddress) throws(ListenError) -> Int32 {
    try bind(SocketAddress(ipv4: host, port: address.port), address) { _ in }
  }

  private static func bindIPv6(
    _ host: [UInt8], _ address: ListenAddress, alsoIPv4: Bool
  ) throws(ListenError) -> Int32 {
    try bind(SocketAddress(ipv6: host, port: address.port), address) { descriptor in
      var onlyIPv6: Int32 = alsoIPv4 ? 0 : 1
      setsockopt(
        descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &onlyIPv6, socklen_t(MemoryLayout<Int32>.size))
    }
  }

  private static func bind(
    _ socketAddress: SocketAddress, _ address: ListenAddress, _ prepare: (Int32) -> Void
  ) throws(ListenError) -> Int32 {
    let descriptor = creactor_socket(socketAddress.family)
    guard descriptor >= 0 else { throw fault(-descriptor, address) }
    // Lets a restart bind its port while old connections linger. Never SO_REUSEPORT, which would let two processes
    // share it.
    enable(SO_REUSEADDR, level: SOL_SOCKET, on: descriptor)
    // An answer is one write and must not be delayed. Connections inherit it on Linux.
    enable(TCP_NODELAY, level: Int32(IPPROTO_TCP), on: descriptor)
    // Set before listening: connections inherit it, and the first packet announces the window.
    set(SO_SNDBUF, level: SOL_SOCKET, sendBufferByteCount / 2, on: descriptor)
    set(SO_RCVBUF, level: SOL_SOCKET, receiveBufferByteCount / 2, on: descriptor)
    prepare(descriptor)
    var answer = socketAddress.with { creactor_bind(descriptor, $0, $1) }
    if answer == 0 { answer = creactor_listen(descriptor, backlog) }
    guard answer == 0 else {
      _ = close(descriptor)
      throw fault(-answer, address)
    }
    return descriptor
  }

  private static func fault(_ number: Int32, _ address: ListenAddress) -> ListenError {
    switch number {
    case EADDRINUSE: .addressInUse(address.description)
    case EADDRNOTAVAIL: .addressNotOurs(address.description)
    case EACCES, EPERM: .notPermitted(address.description)
    default: .system(address.description, number: number)
    }
  }

  private static func enable(_ option: Int32, level: Int32, on descriptor: Int32) {
    set(option, level: level, 1, on: descriptor)
  }

  private static func set(_ option: Int32, level: Int32, _ value: Int32, on descriptor: Int32) {
    var value = value
    setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
  }

  private static func boundPort(_ descriptor: Int32) -> UInt16 {
    var address = sockaddr_in6()
    var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
    let answer = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
    }
    // The port has the same offset in the addresses of both families.
    return answer == 0 ? UInt16(bigEndian: address.sin6_port) : 0
  }
}
