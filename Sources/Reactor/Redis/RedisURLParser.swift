// Parses a Redis URL, byte by byte. Pure. Invariant: it continues after a fault, so that all are reported at once, and
// quotes nothing but names of settings that cannot be part of a password. Called by RedisConfiguration.

struct RedisURLParser {
  private(set) var configuration = RedisConfiguration()
  private(set) var faults: [String] = []
  private let hasTLS: Bool
  private var isSentinel: Bool { configuration.sentinels != nil }
  private var isCluster = false
  private var isUnix = false

  /// Settings of go-redis that have no meaning for one pipelined connection, and why.
  private static let ignored: [String: String] = {
    var reasons: [String: String] = [:]
    for name in [
      "pool_size", "pool_fifo", "pool_timeout", "min_idle_conns", "max_idle_conns", "max_active_conns",
      "conn_max_idle_time", "conn_max_lifetime", "idle_timeout", "idle_check_frequency", "max_conn_age",
    ] {
      reasons[name] = "there is one connection and no pool"
    }
    for name in ["max_retries", "min_retry_backoff", "max_retry_backoff"] {
      reasons[name] = "retries have their own policy"
    }
    for name in ["read_timeout", "write_timeout"] { reasons[name] = "every command has a deadline of its own" }
    reasons["protocol"] = "RESP2 is spoken"
    return reasons
  }()

  init(hasTLS: Bool) {
    self.hasTLS = hasTLS
  }

  mutating func parse(_ url: String) {
    let bytes = Array(url.utf8)[...]
    guard let rest = parseScheme(bytes) else {
      faults.append(
        "must begin with redis://, rediss://, redis+sentinel://, redis+cluster://, rediss+… (with TLS) or unix:///")
      return
    }
    let authorityEnd =
      rest.firstIndex { $0 == Self.slash || $0 == Self.questionMark || $0 == Self.hash } ?? rest.endIndex
    let tail = rest[authorityEnd...]
    // An unencoded '/', '?' or '#' in a password ends the host early; what follows may be half of the password.
    if tail.contains(Self.at) {
      faults.append("an @ after the host: characters like / ? # @ in user or password must be percent-encoded")
      return
    }
    let faultsBefore = faults.count
    let query = tail.firstIndex(of: Self.questionMark)
    let path = tail[..<(query ?? tail.endIndex)]
    if isUnix {
      parseSocket(rest[..<authorityEnd], path)
    } else {
      parseAuthority(rest[..<authorityEnd])
    }
    let isAuthorityClean = faults.count == faultsBefore
    if !isUnix { parsePath(path) }
    if let query { parseQuery(tail[(query + 1)...], mayQuoteNames: isAuthorityClean) }
    if let sentinels = configuration.sentinels, sentinels.user != nil, sentinels.password == nil {
      configuration.warnings.append("sentinel_user is ignored: there is no sentinel_password")
    }
  }

  private static let unixScheme = "unix://"
  private static let longestScheme = "rediss+sentinel://".utf8.count
  /// The longest path in a socket's address (sockaddr_un), without the NUL.
  private static let socketPathByteLimit = 107

  /// As in go-redis: user and password before the path, and no host.
  private mutating func parseSocket(_ authority: ArraySlice<UInt8>, _ path: ArraySlice<UInt8>) {
    if let at = authority.lastIndex(of: Self.at) { parseUserInformation(authority[..<at]) }
    let host = authority[(authority.lastIndex(of: Self.at).map { $0 + 1 } ?? authority.startIndex)...]
    guard host.isEmpty, path.count > 1, !path.contains(Self.hash), let decoded = decoded(path),
      decoded.utf8.count <= Self.socketPathByteLimit
    else {
      faults.append("the socket's path must be absolute and at most 107 bytes long")
      return
    }
    configuration.socketPath = decoded
  }

  private mutating func parseScheme(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
    let schemes = [
      ("redis://", false), ("rediss://", true), (Self.unixScheme, false), ("redis+sentinel://", false),
      ("rediss+sentinel://", true), ("redis+cluster://", false), ("rediss+cluster://", true),
    ]
    // In any case, as RFC 3986 has it.
    let start = bytes.prefix(Self.longestScheme).map { UInt8(ascii: "A")...UInt8(ascii: "Z") ~= $0 ? $0 | 0x20 : $0 }
    for (index, (scheme, usesTLS)) in schemes.enumerated() where start.starts(with: scheme.utf8) {
      configuration.usesTLS = usesTLS
      isUnix = scheme == Self.unixScheme
      if index > 2, index < 5 { configuration.sentinels = RedisSentinels() }
      isCluster = index > 4
      if usesTLS && !hasTLS {
        faults.append("\(scheme) needs a build with hiredis 1.0 or later")
      }
      return bytes.dropFirst(scheme.utf8.count)
    }
    return nil
  }

  private mutating func parseAuthority(_ bytes: ArraySlice<UInt8>) {
    var places = bytes
    if let at = bytes.lastIndex(of: Self.at) {
      parseUserInformation(bytes[..<at])
      places = bytes[(at + 1)...]
    }
    guard isSentinel || isCluster else {
      let endpoint = parseEndpoint(places, defaultPort: RedisConfiguration.defaultPort)
      (configuration.host, configuration.port) = (endpoint.host, endpoint.port)
      return
    }
    let parts = places.split(separator: Self.comma, omittingEmptySubsequences: false)
    guard parts.count <= RedisSentinels.endpointLimit else {
      faults.append("at most \(RedisSentinels.endpointLimit) \(isCluster ? "nodes" : "Sentinels")")
      return
    }
    for part in parts {
      if isCluster {
        configuration.clusterSeeds.append(parseEndpoint(part, defaultPort: RedisConfiguration.defaultPort))
        continue
      }
      let endpoint = parseEndpoint(part, defaultPort: RedisSentinels.defaultPort)
      configuration.sentinels?.endpoints.append(endpoint)
    }
  }

  private mutating func parseEndpoint(_ hostAndPort: ArraySlice<UInt8>, defaultPort: UInt16) -> RedisEndpoint {
    // As in go-redis, no host is this machine.
    var endpoint = RedisEndpoint(host: "localhost", port: defaultPort)
    var port: ArraySlice<UInt8>?
    if hostAndPort.first == UInt8(ascii: "[") {
      guard let end = hostAndPort.firstIndex(of: UInt8(ascii: "]")),
        let host = decoded(hostAndPort[(hostAndPort.startIndex + 1)..<end]), host.utf8.contains(Self.colon),
        NameResolver.isNumericAddress(host)
      else {
        faults.append("the brackets must enclose an IPv6 address")
        return endpoint
      }
      endpoint.host = host
      let after = hostAndPort[(end + 1)...]
      if after.first == Self.colon {
        port = after.dropFirst()
      } else if !after.isEmpty {
        faults.append("only a port may follow the IPv6 address")
      }
    } else {
      let colon = hostAndPort.firstIndex(of: Self.colon)
      if let host = parseHost(hostAndPort[..<(colon ?? hostAndPort.endIndex)]) { endpoint.host = host }
      port = colon.map { hostAndPort[($0 + 1)...] }
    }
    guard let port, !port.isEmpty else { return endpoint }
    if let number = number(port), number >= 1, number <= 65_535 {
      endpoint.port = UInt16(number)
    } else {
      faults.append("the port must be from 1 to 65535")
    }
    return endpoint
  }

  /// Nil: none, or not a valid one.
  private mutating func parseHost(_ bytes: ArraySlice<UInt8>) -> String? {
    if bytes.isEmpty { return nil }
    let isPlain = bytes.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
        true
      default: false
      }
    }
    guard isPlain else {
      faults.append("the host must be an address or a name of letters, digits, dots and hyphens")
      return nil
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private mutating func parseUserInformation(_ bytes: ArraySlice<UInt8>) {
    let colon = bytes.firstIndex(of: Self.colon)
    guard let user = decoded(bytes[..<(colon ?? bytes.endIndex)]),
      let password = decoded(colon.map { bytes[($0 + 1)...] } ?? [])
    else {
      faults.append("user and password must be percent-encoded UTF-8")
      return
    }
    configuration.user = user.isEmpty ? nil : user
    configuration.password = password.isEmpty ? nil : password
    if !user.isEmpty && password.isEmpty {
      configuration.warnings.append("the user is ignored: there is no password")
    }
  }

  private mutating func parsePath(_ bytes: ArraySlice<UInt8>) {
    if bytes.contains(Self.hash) {
      faults.append("must not contain a fragment (#)")
      return
    }
    var path = bytes.dropFirst()
    if path.last == Self.slash { path = path.dropLast() }
    if isSentinel {
      let slash = path.firstIndex(of: Self.slash) ?? path.endIndex
      setMaster(path[..<slash])
      path = path[slash...].dropFirst()
    }
    if !path.isEmpty { setDatabase(path, "the path") }
  }

  /// A Sentinel allows these characters only.
  private mutating func setMaster(_ bytes: ArraySlice<UInt8>) {
    let isName = bytes.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
        true
      default: false
      }
    }
    guard isName, !bytes.isEmpty else {
      faults.append("the path must be the master's name, and optionally a database: /mymaster/0")
      return
    }
    configuration.sentinels?.master = String(decoding: bytes, as: UTF8.self)
  }

  private mutating func setSentinelLogin(_ name: String, _ bytes: ArraySlice<UInt8>) {
    guard let value = decoded(bytes) else {
      faults.append("\(name) must be percent-encoded UTF-8")
      return
    }
    let text = value.isEmpty ? nil : value
    if name == "sentinel_user" {
      configuration.sentinels?.user = text
    } else {
      configuration.sentinels?.password = text
    }
  }

  private mutating func setDatabase(_ bytes: ArraySlice<UInt8>, _ place: String) {
    if let number = number(bytes), number <= 1_000_000 {
      configuration.database = number
      if isCluster, number != 0 { faults.append("\(place): a Redis Cluster has database 0 only") }
    } else {
      faults.append("\(place): must be a database number, 0 or greater")
    }
  }

  private mutating func parseQuery(_ bytes: ArraySlice<UInt8>, mayQuoteNames: Bool) {
    if bytes.contains(Self.hash) {
      faults.append("must not contain a fragment (#)")
      return
    }
    for setting in bytes.split(separator: UInt8(ascii: "&")) {
      let equals = setting.firstIndex(of: UInt8(ascii: "=")) ?? setting.endIndex
      let name = decoded(setting[..<equals]) ?? ""
      let value = setting[equals...].dropFirst()
      switch name {
      case "db": setDatabase(value, "db")
      case "client_name": setClientName(value)
      case "dial_timeout": setDialTimeout(value)
      case "sentinel_user" where isSentinel, "sentinel_password" where isSentinel: setSentinelLogin(name, value)
      case "skip_verify":
        if !["false", "0", ""].contains(decoded(value)) {
          faults.append(
            "skip_verify is not supported: certificates are always verified (set SSL_CERT_FILE to trust another CA)")
        }
      default:
        if let reason = Self.ignored[name] {
          configuration.warnings.append("\(name) is ignored: \(reason)")
        } else if mayQuoteNames && Self.isName(name) {
          faults.append("unknown setting \(name)")
        } else {
          faults.append("unknown setting")
        }
      }
    }
  }

  private mutating func setClientName(_ bytes: ArraySlice<UInt8>) {
    let name = decoded(bytes)
    // The server's own rule: CLIENT LIST separates by spaces.
    guard let name, name.utf8.allSatisfy({ $0 >= 0x21 && $0 <= 0x7e }) else {
      faults.append("client_name must be printable characters without spaces")
      return
    }
    configuration.clientName = name.isEmpty ? nil : name
  }

  private mutating func setDialTimeout(_ bytes: ArraySlice<UInt8>) {
    // go-redis: a bare number is seconds.
    let text = decoded(bytes) ?? ""
    let duration = number(bytes).map { Duration.seconds($0) } ?? GoDuration.parse(text)
    if let duration, duration >= .milliseconds(1), duration <= .seconds(3_600) {
      configuration.dialTimeout = duration
    } else {
      faults.append("dial_timeout must be a duration such as 5s or 500ms, at most 1h")
    }
  }

  /// Percent-decoded UTF-8 without control characters; nil if it is invalid.
  private func decoded(_ bytes: ArraySlice<UInt8>) -> String? {
    var plain: [UInt8] = []
    var index = bytes.startIndex
    while index < bytes.endIndex {
      var byte = bytes[index]
      index += 1
      if byte == UInt8(ascii: "%") {
        guard index + 1 < bytes.endIndex, let high = Self.digit(bytes[index]), let low = Self.digit(bytes[index + 1])
        else { return nil }
        byte = high << 4 | low
        index += 2
      }
      if byte < 0x20 || byte == 0x7f { return nil }
      plain.append(byte)
    }
    return String(validating: plain, as: UTF8.self)
  }

  private static func digit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - 48
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - 87
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - 55
    default: nil
    }
  }

  /// Decimal digits only, at most nine of them.
  private func number(_ bytes: ArraySlice<UInt8>) -> Int? {
    guard !bytes.isEmpty, bytes.count <= 9, bytes.allSatisfy({ $0 >= 48 && $0 <= 57 }) else { return nil }
    return bytes.reduce(0) { $0 * 10 + Int($1 - 48) }
  }

  private static func isName(_ text: String) -> Bool {
    text.utf8.count <= 32 && text.utf8.allSatisfy { ($0 >= 97 && $0 <= 122) || $0 == UInt8(ascii: "_") }
  }

  private static let at = UInt8(ascii: "@")
  private static let colon = UInt8(ascii: ":")
  private static let comma = UInt8(ascii: ",")
  private static let slash = UInt8(ascii: "/")
  private static let questionMark = UInt8(ascii: "?")
  private static let hash = UInt8(ascii: "#")
}
