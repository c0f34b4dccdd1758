// The listen address as an operator writes it. Parsing touches no network, so it can be used to validate a
// configuration. A host name is resolved later, on the loop.

import CReactor

/// A host and port to listen on: `127.0.0.1:8091`, `:8091` (every interface), `[::1]:0` (any free port),
/// `localhost:80`, or a host name that is resolved before listening. As in Go, `0.0.0.0` and `[::]` mean every
/// interface in both families.
public struct ListenAddress: Equatable, Sendable, CustomStringConvertible {
  enum Host: Equatable {
    /// IPv6 and IPv4 on one socket, or only IPv4 if the host has no IPv6.
    case any
    case ipv4([UInt8])
    case ipv6([UInt8])
    /// To be resolved.
    case name(String)
  }

  let host: Host
  /// 0 asks for any free port.
  public let port: UInt16
  /// As it was written.
  public let description: String

  /// - Throws: `ListenError.malformed` with the expected form.
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

  private init(_ address: ListenAddress, host: Host) {
    self.host = host
    port = address.port
    description = address.description
  }

  /// Resolves a host name, preferring IPv4 like Go's listener.
  ///
  /// - Parameter deadline: on `clock`.
  /// - Throws: `ListenError.unresolved`.
  @EventLoop
  public func resolved(
    by deadline: MonotonicInstant, on clock: LoopClock
  ) async throws(ListenError) -> ListenAddress {
    guard case .name(let name) = host else { return self }
    let addresses: [String]
    do {
      addresses = try await NameResolver.addresses(of: name, by: deadline, on: clock)
    } catch {
      throw .unresolved(description, reason: (error as? NameResolutionError)?.publicReason ?? "cancelled")
    }
    let bytes = addresses.compactMap { NameResolver.addressBytes($0) }
    guard let best = bytes.first(where: { $0.count == 4 }) ?? bytes.first else {
      throw .unresolved(description, reason: NameResolutionError.notFound.publicReason)
    }
    return ListenAddress(self, host: best.count == 4 ? .ipv4(best) : .ipv6(best))
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

  /// `localhost` is 127.0.0.1, whatever a hosts file says.
  private static func host(_ bytes: ArraySlice<UInt8>) -> Host? {
    if bytes.isEmpty { return .any }
    let isBracketed = bytes.first == UInt8(ascii: "[") && bytes.last == UInt8(ascii: "]")
    let text = String(decoding: isBracketed ? bytes.dropFirst().dropLast() : bytes, as: UTF8.self)
    if text == "localhost", !isBracketed { return .ipv4([127, 0, 0, 1]) }
    guard !bytes.contains(0) else { return nil }
    var address = [UInt8](repeating: 0, count: isBracketed ? 16 : 4)
    if inet_pton(isBracketed ? AF_INET6 : AF_INET, text, &address) == 1 {
      return isBracketed ? .ipv6(address) : .ipv4(address)
    }
    return !isBracketed && isName(bytes) ? .name(text) : nil
  }

  /// Letters, digits, hyphens and underscores between dots, and a letter in the last label; without it the name would
  /// be an invalid address, such as 256.0.0.1.
  private static func isName(_ bytes: ArraySlice<UInt8>) -> Bool {
    var label: [UInt8] = []
    var last: [UInt8] = []
    // A name may end with the root's dot.
    for byte in (bytes.last == ASCII.dot ? bytes.dropLast() : bytes) + [ASCII.dot] {
      if byte == ASCII.dot {
        guard !label.isEmpty else { return false }
        (last, label) = (label, [])
        continue
      }
      guard isLetter(byte) || ASCII.isDigit(byte) || byte == 0x2d || byte == 0x5f else { return false }
      label.append(byte)
    }
    return bytes.count <= 253 && last.contains(where: isLetter)
  }

  private static func isLetter(_ byte: UInt8) -> Bool {
    (byte | 0x20) &- 0x61 < 26
  }
}

/// Why a server cannot listen, in words for an operator.
public enum ListenError: Error, Equatable, CustomStringConvertible {
  case malformed(String)
  case addressInUse(String)
  case addressNotOurs(String)
  case notPermitted(String)
  case unresolved(String, reason: String)
  /// Any other failure, with the kernel's error number.
  case system(String, number: Int32)

  public var description: String {
    switch self {
    case .malformed(let text):
      "cannot listen on \"\(text)\": expected HOST:PORT, such as 127.0.0.1:8091, [::1]:8091 or :8091"
    case .addressInUse(let text): "cannot listen on \(text): another process listens there already"
    case .addressNotOurs(let text): "cannot listen on \(text): no interface of this host has that address"
    case .notPermitted(let text): "cannot listen on \(text): not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)"
    case .unresolved(let text, let reason): "cannot listen on \(text): \(reason)"
    case .system(let text, let number): "cannot listen on \(text): \(String(cString: strerror(number)))"
    }
  }
}
