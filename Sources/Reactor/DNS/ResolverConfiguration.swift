// How this host resolves names: resolv.conf, its environment variables, and the order of nsswitch.conf, as glibc reads
// them (resolv.conf(5), nsswitch.conf(5)). Invariant: what is invalid is ignored, and numbers stay within glibc's
// limits. The files are read for each resolution, because they can change.

import CReactor

/// The contents of the resolver's files.
struct ResolverConfiguration: Equatable, Sendable {
  /// The sources of names.
  enum Source: Equatable, Sendable {
    case files, dns
  }

  /// The paths of the files, for tests.
  struct Paths: Sendable {
    var resolver = "/etc/resolv.conf"
    var services = "/etc/nsswitch.conf"
    var hosts = "/etc/hosts"
  }

  // glibc's limits (MAXNS, RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY).
  private static let serverLimit = 3
  private static let searchLimit = 32
  private static let fileByteLimit = 1 << 20

  /// Numeric addresses. Without any, glibc asks the local host.
  var servers: [String] = []
  /// Search domains for a name without a final dot.
  var search: [String] = []
  /// Names with at least this many dots are tried first without a search domain (ndots).
  var dotCount = 1
  /// The timeout, if the file has one.
  var timeout: Duration?
  /// Rounds through all servers, if the file sets them.
  var rounds: Int?
  var rotatesServers = false
  /// Whether the IPv6 query is sent only after the IPv4 query is answered (single-request).
  var queriesInTurn = false
  var usesTCP = false
  var sources: [Source] = [.files, .dns]

  /// Reads the files and the environment. An unreadable file counts as empty.
  static func read(_ paths: Paths = Paths(), environment: (String) -> String? = Self.variable) -> ResolverConfiguration
  {
    var configuration = ResolverConfiguration()
    for line in lines(of: paths.resolver) { configuration.take(line) }
    if let domains = environment("LOCALDOMAIN") { configuration.search = bounded(words(of: domains)) }
    if let options = environment("RES_OPTIONS") { configuration.take(options: words(of: options)) }
    if configuration.search.isEmpty, let domain = domain(ofHost: HostProcess.hostName) {
      configuration.search = [domain]
    }
    for line in lines(of: paths.services) { configuration.takeServices(line) }
    return configuration
  }

  /// The names to query in turn, until one exists.
  func candidates(for name: String) -> [String] {
    if name.utf8.last == ASCII.dot { return [String(name.dropLast())] }
    let dots = name.utf8.count { $0 == ASCII.dot }
    let inDomains = search.map { $0 == "." ? name : "\(name).\($0)" }
    return dots >= dotCount ? [name] + inDomains : inDomains + [name]
  }

  /// Applies a line of resolv.conf.
  mutating func take(_ line: String) {
    let words = Self.words(of: line)
    guard let keyword = words.first, words.count > 1 else { return }
    switch keyword {
    case "nameserver":
      if servers.count < Self.serverLimit, NameResolver.isNumericAddress(words[1]) { servers.append(words[1]) }
    // The last such line counts.
    case "domain": search = Self.bounded([words[1]])
    case "search": search = Self.bounded(Array(words[1...]))
    case "options": take(options: Array(words[1...]))
    default: break
    }
  }

  private mutating func take(options: [String]) {
    for option in options {
      switch option {
      case "rotate": rotatesServers = true
      case "single-request": queriesInTurn = true
      case "use-vc": usesTCP = true
      default: takeNumber(option)
      }
    }
  }

  private mutating func takeNumber(_ option: String) {
    let parts = option.utf8.firstIndex(of: ASCII.colon).map { (option[..<$0], option[option.index(after: $0)...]) }
    guard let (name, text) = parts, let number = Int(text), number >= 0 else { return }
    switch name {
    case "ndots": dotCount = min(number, 15)
    // 0 counts as 1, as in glibc.
    case "timeout": timeout = .seconds(min(max(number, 1), 30))
    case "attempts": rounds = min(max(number, 1), 5)
    default: break
    }
  }

  /// Applies a line of nsswitch.conf. Services that are not implemented here are ignored; if none is left, the line is.
  mutating func takeServices(_ line: String) {
    let words = Self.words(of: line)
    guard words.first == "hosts:" else { return }
    var found: [Source] = []
    for word in words.dropFirst() {
      let source: Source? =
        switch word {
        case "files", "db": .files
        case "dns", "resolve": .dns
        default: nil
        }
      if let source, !found.contains(source) { found.append(source) }
    }
    if !found.isEmpty { sources = found }
  }

  private static func bounded(_ domains: [String]) -> [String] {
    domains.prefix(searchLimit).map { $0.utf8.count > 1 && $0.utf8.last == ASCII.dot ? String($0.dropLast()) : $0 }
  }

  /// The domain of the host's name: what follows the first dot.
  private static func domain(ofHost name: String) -> String? {
    guard let dot = name.utf8.firstIndex(of: ASCII.dot) else { return nil }
    let domain = name[name.utf8.index(after: dot)...]
    return domain.isEmpty ? nil : String(domain)
  }

  static func variable(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }
  }

  static func lines(of path: String) -> [String] {
    let content: [UInt8]
    do {
      content = try SmallFile.contents(of: path, byteLimit: fileByteLimit)
    } catch {
      // As in glibc, a missing or invalid file has no effect.
      return []
    }
    var lines: [String] = []
    for line in content.split(separator: ASCII.lineFeed) {
      let comment = line.firstIndex { $0 == UInt8(ascii: "#") || $0 == UInt8(ascii: ";") } ?? line.endIndex
      if comment > line.startIndex { lines.append(String(decoding: line[..<comment], as: UTF8.self)) }
    }
    return lines
  }

  /// The words of a line, separated by blanks; a carriage return is a blank.
  static func words(of line: String) -> [String] {
    line.utf8.split { $0 == ASCII.space || $0 == ASCII.tab || $0 == ASCII.carriageReturn || $0 == ASCII.lineFeed }
      .map { String($0) ?? "" }
  }
}
