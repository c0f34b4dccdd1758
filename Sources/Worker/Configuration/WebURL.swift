// Validates a URL of a known scheme as far as possible at startup. Pure; used by the settings.

/// URLs of sinks.
enum WebURL {
  /// Nil for a valid URL, otherwise what was expected. Never repeats the URL, whose path may be a secret.
  static func expectation(_ text: String, schemes: [String] = ["http", "https"]) -> String? {
    let bytes = Array(text.utf8)
    for byte in bytes where byte <= 0x20 || byte == 0x7F { return "a URL without whitespace and control characters" }
    guard let start = hostStart(bytes, schemes) else {
      return "a URL that begins with " + schemes.map { $0 + "://" }.joined(separator: " or ")
    }
    var end = start
    while end < bytes.count, !"/?#".utf8.contains(bytes[end]) { end += 1 }
    var authority = bytes[start..<end]
    if let at = authority.lastIndex(of: UInt8(ascii: "@")) { authority = authority[(at + 1)...] }
    return isHostAndPort(authority) ? nil : "a URL with a host, and a port from 1 to 65535 if any"
  }

  /// The same URL with %40 for each @ in the user and the password, which libcurl, unlike Go, requires.
  static func normal(_ text: String) -> String {
    let bytes = Array(text.utf8)
    guard let scheme = text.utf8.firstIndex(of: UInt8(ascii: ":")) else { return text }
    let start = min(text.utf8.distance(from: text.utf8.startIndex, to: scheme) + 3, bytes.count)
    let end = bytes[start...].firstIndex { "/?#".utf8.contains($0) } ?? bytes.count
    guard let last = bytes[start..<end].lastIndex(of: UInt8(ascii: "@")) else { return text }
    var normal = Array(bytes[..<start])
    for byte in bytes[start..<last] {
      if byte == UInt8(ascii: "@") { normal += "%40".utf8 } else { normal.append(byte) }
    }
    return String(decoding: normal + bytes[last...], as: UTF8.self)
  }

  /// Scheme, host and port of a valid URL: everything else can be secret.
  static func redacted(_ text: String) -> String {
    let bytes = Array(text.utf8)
    guard let colon = bytes.firstIndex(of: UInt8(ascii: ":")), colon + 3 <= bytes.count else { return "" }
    let start = colon + 3
    let end = bytes[start...].firstIndex { "/?#".utf8.contains($0) } ?? bytes.count
    let host = bytes[start..<end].lastIndex(of: UInt8(ascii: "@")).map { $0 + 1 } ?? start
    let rest = bytes[end...].elementsEqual("/".utf8) || end == bytes.count ? "" : "/…"
    return String(decoding: bytes[..<start] + bytes[host..<end], as: UTF8.self) + rest
  }

  /// Whether there is a path after the host.
  static func hasPath(_ text: String) -> Bool {
    // After the two slashes of the scheme.
    var slashes = 0
    for (index, byte) in text.utf8.enumerated() where byte == UInt8(ascii: "/") {
      slashes += 1
      if slashes == 3 { return index + 1 < text.utf8.count }
    }
    return false
  }

  private static func hostStart(_ bytes: [UInt8], _ schemes: [String]) -> Int? {
    for scheme in schemes.map({ $0 + "://" }) {
      let length = scheme.utf8.count
      // Schemes are case-insensitive: bit 5 makes a letter lower case and leaves ':' and '/' unchanged.
      if bytes.count >= length, bytes[..<length].lazy.map({ $0 | 0x20 }).elementsEqual(scheme.utf8) { return length }
    }
    return nil
  }

  private static func isHostAndPort(_ authority: ArraySlice<UInt8>) -> Bool {
    var host = authority
    var port: ArraySlice<UInt8>?
    if authority.first == UInt8(ascii: "[") {
      guard let close = authority.firstIndex(of: UInt8(ascii: "]")) else { return false }
      host = authority[(authority.startIndex + 1)..<close]
      let rest = authority[(close + 1)...]
      guard rest.isEmpty || rest.first == UInt8(ascii: ":") else { return false }
      port = rest.isEmpty ? nil : rest.dropFirst()
      guard host.allSatisfy({ isIPv6Byte($0) }) else { return false }
    } else if let colon = authority.firstIndex(of: UInt8(ascii: ":")) {
      host = authority[..<colon]
      port = authority[(colon + 1)...]
    }
    for byte in host where "<>\"\\^`{|}[]".utf8.contains(byte) { return false }
    guard !host.isEmpty else { return false }
    guard let port else { return true }
    guard !port.isEmpty, port.count <= 5 else { return false }
    var number = 0
    for byte in port {
      guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return false }
      number = number * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return (1...65_535).contains(number)
  }

  private static func isIPv6Byte(_ byte: UInt8) -> Bool {
    "0123456789abcdefABCDEF:.".utf8.contains(byte)
  }
}
