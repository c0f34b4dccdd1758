// Selects the proxy of a transfer from the usual environment variables. Pure: reads an environment once.
// Invariant: libcurl is always told the result; otherwise it would read the variables itself and start a thread to
// resolve a proxy's name. Used by TransferClient.

/// The proxies of an environment, read as Go's net/http reads them: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in
/// upper or lower case. In addition there are `SMTP_PROXY`, `SMTPS_PROXY`, and `ALL_PROXY` as the fallback. If
/// `REQUEST_METHOD` is set, `HTTP_PROXY` is ignored, because a CGI server lets its client set it.
///
/// `localhost` and loopback addresses are never proxied.
public struct ProxyRules: Sendable, Equatable {
  private var proxies: [String: String] = [:]
  private var fallback: String?
  private var exceptions: [ProxyException] = []

  /// No proxy.
  public init() {}

  public init(environment: [String: String]) {
    func value(_ names: String...) -> String? {
      for name in names { if let text = environment[name], !text.isEmpty { return text } }
      return nil
    }
    let isCGI = value("REQUEST_METHOD") != nil
    proxies["http"] = isCGI ? value("http_proxy") : value("HTTP_PROXY", "http_proxy")
    proxies["https"] = value("HTTPS_PROXY", "https_proxy")
    proxies["smtp"] = value("SMTP_PROXY", "smtp_proxy")
    proxies["smtps"] = value("SMTPS_PROXY", "smtps_proxy")
    fallback = value("ALL_PROXY", "all_proxy")
    exceptions = Self.elements(value("NO_PROXY", "no_proxy") ?? "").compactMap(ProxyException.init)
  }

  /// The proxy's URL; nil for a direct connection.
  ///
  /// - Parameters:
  ///   - host: the target's host, without brackets.
  ///   - port: the target's port, in digits.
  public func proxy(scheme: String, host: String, port: String) -> String? {
    guard let proxy = proxies[scheme] ?? fallback else { return nil }
    let host = ProxyException.normal(host)
    let address = IPNetwork.bytes(host)
    let isLoopback = address.map { $0.count == 4 ? $0[0] == 127 : $0 == IPNetwork.loopback6 } ?? (host == "localhost")
    if isLoopback { return nil }
    for exception in exceptions where exception.matches(host: host, address: address, port: port) { return nil }
    return Self.hasScheme(proxy) ? proxy : "http://" + proxy
  }

  /// The elements of the list, separated by commas or spaces.
  private static func elements(_ list: String) -> [String] {
    var elements: [String] = []
    var element = ""
    for character in list + "," {
      guard character == "," || character == " " || character == "\t" else {
        element.append(character)
        continue
      }
      if !element.isEmpty { elements.append(element) }
      element = ""
    }
    return elements
  }

  private static func hasScheme(_ proxy: String) -> Bool {
    var rest = Array(proxy.utf8)[...]
    while let byte = rest.first, byte != ASCII.colon, byte != ASCII.slash { rest.removeFirst() }
    return rest.starts(with: "://".utf8)
  }
}

/// An element of no_proxy: `*`, an address, an address block, a name with its subdomains, or (with a leading dot or
/// `*.`) only the subdomains. All but blocks may be followed by a colon and a port.
struct ProxyException: Sendable, Equatable {
  private enum Subject: Equatable {
    case everything
    case network(IPNetwork)
    case address([UInt8])
    /// A name, without its leading dot.
    case domain(String, withItself: Bool)
  }

  private let subject: Subject
  private var port: String?

  /// Nil if the text is not a valid element.
  init?(_ text: String) {
    if text == "*" {
      subject = .everything
      return
    }
    if let network = IPNetwork(text) {
      subject = .network(network)
      return
    }
    var host = text
    if IPNetwork.bytes(Self.normal(text)) == nil, let colon = text.utf8.lastIndex(of: ASCII.colon) {
      host = String(text[..<colon])
      port = String(text[text.utf8.index(after: colon)...])
    }
    host = Self.normal(host)
    if let address = IPNetwork.bytes(host) {
      subject = .address(address)
      return
    }
    if host.hasPrefix("*.") { host.removeFirst() }
    let isDotted = host.first == "."
    if isDotted { host.removeFirst() }
    guard !host.isEmpty else { return nil }
    subject = .domain(host, withItself: !isDotted)
  }

  func matches(host: String, address: [UInt8]?, port: String) -> Bool {
    if let own = self.port, own != port { return false }
    return switch subject {
    case .everything: true
    case .network(let network): address.map(network.contains) ?? false
    case .address(let own): address == own
    case .domain(let name, let withItself):
      address == nil && (host.hasSuffix("." + name) || (withItself && host == name))
    }
  }

  /// Normalizes a host: no final dot, no brackets, lower case.
  static func normal(_ host: String) -> String {
    var host = host.lowercased()
    if host.count > 1, host.last == "." { host.removeLast() }
    if host.first == "[", host.last == "]" {
      host.removeFirst()
      host.removeLast()
    }
    return host
  }
}

/// An address block of no_proxy: 10.0.0.0/8, fd00::/8.
struct IPNetwork: Sendable, Equatable {
  static let loopback6 = [UInt8](repeating: 0, count: 15) + [1]

  private let address: [UInt8]
  private let prefixLength: Int

  /// Nil if `text` is not an address with a prefix length.
  init?(_ text: String) {
    guard let slash = text.utf8.firstIndex(of: ASCII.slash), let length = Int(text[text.utf8.index(after: slash)...]),
      let bytes = NameResolver.addressBytes(String(text[..<slash])), (0...bytes.count * 8).contains(length)
    else { return nil }
    address = bytes
    prefixLength = length
  }

  /// The bytes of an address. An IPv4-mapped address (::ffff:192.0.2.1) counts as IPv4.
  static func bytes(_ host: String) -> [UInt8]? {
    guard let bytes = NameResolver.addressBytes(host) else { return nil }
    let mapped = [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF]
    return bytes.count == 16 && Array(bytes[..<12]) == mapped ? Array(bytes[12...]) : bytes
  }

  func contains(_ other: [UInt8]) -> Bool {
    guard other.count == address.count else { return false }
    for bit in 0..<prefixLength where (address[bit / 8] ^ other[bit / 8]) & (0x80 >> UInt8(bit % 8)) != 0 {
      return false
    }
    return true
  }
}
