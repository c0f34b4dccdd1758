// Resolves host names on the loop: a DNS server that hangs delays only the caller.
// Invariant: each resolution has its own channels, which are closed with their sockets before the caller continues.
// Used before connecting (Redis, PostgreSQL, HTTP), because the C clients' own resolution would block the thread.

import CReactor

/// Why a name has no address. The texts contain neither the name nor a server's address.
public enum NameResolutionError: Error, Equatable, Sendable {
  /// The name does not exist, or has no address.
  case notFound
  /// No DNS server answered in time.
  case timedOut
  /// A DNS server refused, sent an invalid answer, or could not be reached.
  case failed(String)

  /// Text that may be shown to anyone, for example on a probe.
  public var publicReason: String {
    switch self {
    case .notFound: "host name not found"
    case .timedOut: "host name lookup timed out"
    case .failed(let text): "host name lookup failed: \(text)"
    }
  }
}

/// Resolves host names without blocking the loop.
@EventLoop
public enum NameResolver {
  /// The options of a query.
  struct Options: Sendable {
    /// DNS servers as "address:port,…" instead of those in resolv.conf.
    var servers: String?
    /// Timeout before a query is sent again, unless resolv.conf has one; c-ares doubles it after each round.
    var firstTimeout: Duration = .seconds(1)
    /// Rounds through all servers, unless resolv.conf sets them. The caller's deadline usually comes first.
    var rounds = 4
    var paths = ResolverConfiguration.Paths()
  }

  /// The first server to query with "rotate"; advances by one with each resolution.
  private static var rotation = 0

  /// The addresses of `host` as numeric text, IPv4 and IPv6, best first (RFC 6724).
  ///
  /// An address resolves to itself. `localhost` and names below it are never sent to DNS, and default to the loopback
  /// addresses (RFC 6761). The configuration files are read each time. Both families are queried at once; one answer
  /// waits only briefly for the other (RFC 8305).
  ///
  /// - Parameter deadline: on `clock`.
  /// - Throws: `NameResolutionError`, or `CancellationError` as soon as the task is cancelled.
  public static func addresses(
    of host: String, by deadline: MonotonicInstant, on clock: LoopClock
  ) async throws -> [String] {
    try await addresses(of: host, by: deadline, on: clock, options: Options())
  }

  static func addresses(
    of host: String, by deadline: MonotonicInstant, on clock: LoopClock, options: Options
  ) async throws -> [String] {
    if isNumericAddress(host) { return [host] }
    guard isName(host) else { throw NameResolutionError.notFound }
    let configuration = ResolverConfiguration.read(options.paths)
    var failure = NameResolutionError.notFound
    for source in configuration.sources {
      switch source {
      case .files:
        let found = HostsFile.addresses(of: host, in: options.paths.hosts)
        if !found.isEmpty { return AddressOrder.sorted(found) }
      case .dns:
        if isLocalhost(host) { continue }
        do throws(NameResolutionError) {
          return AddressOrder.sorted(try await query(host, configuration, by: deadline, on: clock, options))
        } catch {
          failure = error
        }
        try Task.checkCancellation()
      }
    }
    if isLocalhost(host) { return AddressOrder.sorted(["127.0.0.1", "::1"]) }
    throw failure
  }

  /// Queries DNS for each name that `host` can mean, until one exists.
  private static func query(
    _ host: String, _ configuration: ResolverConfiguration, by deadline: MonotonicInstant, on clock: LoopClock,
    _ options: Options
  ) async throws(NameResolutionError) -> [String] {
    var failure: NameResolutionError?
    let servers = options.servers ?? rotated(configuration)
    for name in configuration.candidates(for: host) where name.utf8.count <= 253 {
      let settings = channel(configuration, servers, timeLeft: clock.now.duration(to: deadline), options)
      let lookup = NameLookup(name, settings, configuration.queriesInTurn, clock: clock)
      switch await lookup.run(by: deadline) {
      case .found(let addresses): return addresses
      case .noAddress, .noName: continue
      case .timedOut: throw .timedOut
      // Another search domain may be served by another server.
      case .failed(let text): failure = failure ?? .failed(text)
      }
    }
    throw failure ?? .notFound
  }

  private static func channel(
    _ configuration: ResolverConfiguration, _ servers: String?, timeLeft: Duration, _ options: Options
  ) -> NameQuery.Settings {
    // Limits the timeout so that each server is queried before the deadline, whatever resolv.conf says.
    let count = max(configuration.servers.count, 1)
    let share = timeLeft / (count + 1)
    let timeout = max(.milliseconds(100), min(configuration.timeout ?? options.firstTimeout, share))
    return NameQuery.Settings(
      servers: servers, timeout: timeout, rounds: configuration.rounds ?? options.rounds, usesTCP: configuration.usesTCP
    )
  }

  /// The servers in rotated order; nil leaves them to c-ares, which reads the file itself.
  private static func rotated(_ configuration: ResolverConfiguration) -> String? {
    let servers = configuration.servers
    guard configuration.rotatesServers, servers.count > 1 else { return nil }
    rotation = (rotation + 1) % servers.count
    let turned = servers[rotation...] + servers[..<rotation]
    return turned.map { $0.utf8.contains(ASCII.colon) ? "[\($0)]:53" : "\($0):53" }.joined(separator: ",")
  }

  /// Whether a name is valid in DNS: labels of 1 to 63 bytes, optionally a final dot. A NUL is refused: it would end
  /// the C string early, and another name would be queried.
  private nonisolated static func isName(_ host: String) -> Bool {
    var label = 0
    var isEmpty = true
    for byte in host.utf8 {
      if byte == ASCII.dot {
        guard label > 0 else { return false }
        label = 0
        continue
      }
      label += 1
      isEmpty = false
      guard byte > ASCII.space, byte != 0x7f, label <= 63 else { return false }
    }
    return !isEmpty && host.utf8.count <= 254
  }

  /// RFC 6761, 6.3: these names are the host itself, whatever a DNS server says.
  private nonisolated static func isLocalhost(_ host: String) -> Bool {
    let name = host.utf8.last == ASCII.dot ? host.dropLast() : host[...]
    let folded = name.lowercased()
    return folded == "localhost" || folded.hasSuffix(".localhost")
  }

  /// Whether `host` is an IPv4 or IPv6 address as text, the latter optionally with a zone ("fe80::1%eth0").
  nonisolated static func isNumericAddress(_ host: String) -> Bool {
    addressBytes(host) != nil
  }

  /// The 4 or 16 bytes of an address as text, without its zone; nil if `host` is not an address.
  nonisolated static func addressBytes(_ host: String) -> [UInt8]? {
    // A NUL ends the C string early: code that reads the whole text would see another host.
    guard !host.utf8.contains(0) else { return nil }
    var bytes = [UInt8](repeating: 0, count: 16)
    if inet_pton(AF_INET, host, &bytes) == 1 { return Array(bytes[..<4]) }
    let withoutZone = String(host.prefix { $0 != "%" })
    return inet_pton(AF_INET6, withoutZone, &bytes) == 1 ? bytes : nil
  }
}
