// Where a server listens, as an operator writes it. Touches no network: usable while a configuration is checked.

import CReactor

/// A host and port to listen on: `127.0.0.1:8091`, `:8091` (every interface), `[::1]:0` (any free port) or
/// `localhost:80`.
public struct ListenAddress: Equatable, Sendable, CustomStringConvertible {
  enum Host: Equatable {
    /// IPv6 and IPv4 on one socket, or IPv4 alone where the host has no IPv6.
    case any
    case ipv4([UInt8])
    case ipv6([UInt8])
  }

  let host: Host
  /// 0 asks for any free port.
  public let port: UInt16
  /// As it was written.
  public let description: String

  /// - Throws: `ListenError.malformed`, saying what is expected.
  public init(_ text: String) throws(ListenError) {
    let bytes = Array(text.utf8)
    guard let colon = bytes.lastIndex(of: ASCII.colon), let port = Self.port(bytes[(colon + 1)...]) else {
      throw .malformed(text)
    }
    guard let host = Self.host(bytes[..<colon]) else { throw .malformed(text) }
    self.host = host
    self.port = port
    description = text
  }

  private static func port(_ digits: ArraySlice<UInt8>) -> UInt16? {
    guard !digits.isEmpty, digits.count <= 5 else { return nil }
    var port = 0
    for digit in digits {
      guard ASCII.isDigit(digit) else { return nil }
      port = port * 10 + Int(digit - ASCII.zero)
    }
    return UInt16(exactly: port)
  }

  /// Numbers only: a name would have to be resolved, and may change. `localhost` is 127.0.0.1.
  private static func host(_ bytes: ArraySlice<UInt8>) -> Host? {
    if bytes.isEmpty { return .any }
    let isBracketed = bytes.first == UInt8(ascii: "[") && bytes.last == UInt8(ascii: "]")
    let text = String(decoding: isBracketed ? bytes.dropFirst().dropLast() : bytes, as: UTF8.self)
    if text == "localhost", !isBracketed { return .ipv4([127, 0, 0, 1]) }
    guard !bytes.contains(0) else { return nil }
    var address = [UInt8](repeating: 0, count: isBracketed ? 16 : 4)
    guard inet_pton(isBracketed ? AF_INET6 : AF_INET, text, &address) == 1 else { return nil }
    return isBracketed ? .ipv6(address) : .ipv4(address)
  }
}

/// Why a server cannot listen, in words for an operator.
public enum ListenError: Error, Equatable, CustomStringConvertible {
  case malformed(String)
  case addressInUse(String)
  case addressNotOurs(String)
  case notPermitted(String)
  /// Anything else, with the kernel's error number.
  case system(String, number: Int32)

  public var description: String {
    switch self {
    case .malformed(let text):
      "cannot listen on \"\(text)\": expected HOST:PORT with an IP address, such as 127.0.0.1:8091, [::1]:8091 or :8091"
    case .addressInUse(let text): "cannot listen on \(text): another process listens there already"
    case .addressNotOurs(let text): "cannot listen on \(text): no interface of this host has that address"
    case .notPermitted(let text): "cannot listen on \(text): not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)"
    case .system(let text, let number): "cannot listen on \(text): \(String(cString: strerror(number)))"
    }
  }
}
