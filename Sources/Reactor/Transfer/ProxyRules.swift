// Which proxy a transfer goes through, by the usual environment variables. Pure: read once from an environment.
// Invariant: libcurl is always told the result, for left alone it reads the variables itself and starts a thread to
// resolve a proxy's name. Used by TransferClient.

/// The proxies of an environment: `https_proxy` and its like by scheme, `all_proxy` for the rest, but for what
/// `no_proxy` lists. Names in lower case come before those in capitals; `HTTP_PROXY` is ignored, as everywhere, for a
/// CGI server would let a client set it.
public struct ProxyRules: Sendable, Equatable {
  private var proxies: [String: String] = [:]
  private var fallback: String?
  private var exceptions: [String] = []

  /// No proxy at all.
  public init() {}

  public init(environment: [String: String]) {
    func value(_ names: String...) -> String? {
      for name in names { if let text = environment[name], !text.isEmpty { return text } }
      return nil
    }
    proxies["http"] = value("http_proxy")
    proxies["https"] = value("https_proxy", "HTTPS_PROXY")
    proxies["smtp"] = value("smtp_proxy", "SMTP_PROXY")
    proxies["smtps"] = value("smtps_proxy", "SMTPS_PROXY")
    fallback = value("all_proxy", "ALL_PROXY")
    exceptions = Self.elements(value("no_proxy", "NO_PROXY") ?? "")
  }

  /// The proxy's URL, nil for a direct connection.
  ///
  /// - Parameter host: of the target, without brackets.
  public func proxy(scheme: String, host: String) -> String? {
    guard let proxy = proxies[scheme] ?? fallback, !isException(host) else { return nil }
    return Self.hasScheme(proxy) ? proxy : "http://" + proxy
  }

  private func isException(_ host: String) -> Bool {
    let host = Self.normal(host)
    for pattern in exceptions {
      if pattern == "*" || pattern == host { return true }
      if let network = IPNetwork(pattern) {
        if network.contains(host) { return true }
      } else if host.hasSuffix("." + pattern), !NameResolver.isNumericAddress(host) {
        return true
      }
    }
    return false
  }

  /// The list's elements, which are parted by commas or spaces, in small letters and without leading dots.
  private static func elements(_ list: String) -> [String] {
    var elements: [String] = []
    var element = ""
    for character in list + "," {
      guard character == "," || character == " " || character == "\t" else {
        element.append(character)
        continue
      }
      if element.first == "." { element.removeFirst() }
      if !element.isEmpty { elements.append(normal(element)) }
      element = ""
    }
    return elements
  }

  /// Without the dot at the end of a complete name and the brackets of an address, in small letters.
  private static func normal(_ host: String) -> String {
    var host = host.lowercased()
    if host.last == "." { host.removeLast() }
    if host.first == "[", host.last == "]" {
      host.removeFirst()
      host.removeLast()
    }
    return host
  }

  private static func hasScheme(_ proxy: String) -> Bool {
    var rest = Array(proxy.utf8)[...]
    while let byte = rest.first, byte != ASCII.colon, byte != ASCII.slash { rest.removeFirst() }
    return rest.starts(with: "://".utf8)
  }
}

/// A block of addresses as no_proxy may name one: 10.0.0.0/8, fd00::/8.
struct IPNetwork: Equatable {
  private let address: [UInt8]
  private let prefixLength: Int

  /// Nil where `text` is an address without a length, or none.
  init?(_ text: String) {
    guard let slash = text.utf8.firstIndex(of: ASCII.slash), let length = Int(text[text.utf8.index(after: slash)...]),
      let bytes = NameResolver.addressBytes(String(text[..<slash])), (0...bytes.count * 8).contains(length)
    else { return nil }
    address = bytes
    prefixLength = length
  }

  func contains(_ host: String) -> Bool {
    guard let other = NameResolver.addressBytes(host), other.count == address.count else { return false }
    for bit in 0..<prefixLength where (address[bit / 8] ^ other[bit / 8]) & (0x80 >> UInt8(bit % 8)) != 0 {
      return false
    }
    return true
  }
}
