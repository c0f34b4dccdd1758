// Host names to addresses by c-ares, on the loop: a DNS server that hangs holds up nobody but who asked.
// Invariant: each resolution has a channel of its own that is gone, sockets and all, before the caller goes on.
// Called by what connects (Redis, PostgreSQL, HTTP), because the C clients' own resolving would block the thread.

import CReactor

/// Why a name has no address. Its texts contain neither the name nor a server's address.
public enum NameResolutionError: Error, Equatable, Sendable {
  /// The name does not exist, or has no address.
  case notFound
  /// No DNS server answered in time.
  case timedOut
  /// A DNS server refused, answered nonsense, or could not be reached.
  case failed(String)

  /// What may be shown to anyone, on a probe for instance.
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
  /// How a question is asked.
  struct Options: Sendable {
    /// DNS servers as "address:port,…" instead of those in /etc/resolv.conf.
    var servers: String?
    /// How long a server may take before the question is sent again; c-ares doubles it after each round.
    var firstTimeout: Duration = .seconds(1)
    /// Rounds through all servers. The caller's deadline usually comes first.
    var rounds: Int32 = 4
  }

  /// The addresses of `host` as numeric text, IPv4 and IPv6, best first (RFC 6724).
  ///
  /// An address is its own answer, at once. /etc/hosts and /etc/resolv.conf are read anew each time.
  ///
  /// - Parameter deadline: on the system's monotonic clock.
  /// - Throws: `NameResolutionError`, or `CancellationError` as soon as the task is cancelled.
  public static func addresses(of host: String, by deadline: MonotonicInstant) async throws -> [String] {
    try await addresses(of: host, by: deadline, options: Options())
  }

  static func addresses(of host: String, by deadline: MonotonicInstant, options: Options) async throws -> [String] {
    if isNumericAddress(host) { return [host] }
    // A NUL would end the name early for C: the name asked for would be another one.
    if host.isEmpty || host.utf8.contains(0) { throw NameResolutionError.notFound }
    let resolution = NameResolution(deadline: deadline)
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        resolution.begin(host, options: options, continuation)
      }
    } onCancel: {
      EventLoop.perform { resolution.cancel() }
    }
  }

  /// Whether `host` is an IPv4 or IPv6 address in text form, the latter perhaps with a zone ("fe80::1%eth0").
  nonisolated static func isNumericAddress(_ host: String) -> Bool {
    addressBytes(host) != nil
  }

  /// The 4 or 16 bytes of an address in text form, without its zone; nil where `host` is none.
  nonisolated static func addressBytes(_ host: String) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: 16)
    if inet_pton(AF_INET, host, &bytes) == 1 { return Array(bytes[..<4]) }
    let withoutZone = String(host.prefix { $0 != "%" })
    return inet_pton(AF_INET6, withoutZone, &bytes) == 1 ? bytes : nil
  }
}

/// One question in flight. The callbacks of c-ares only record; `settle` acts once c-ares has returned.
@EventLoop
private final class NameResolution {
  private let deadline: MonotonicInstant
  private var continuation: CheckedContinuation<[String], any Error>?
  private var channel: OpaquePointer?
  private var sockets: [ares_socket_t: IOWatcher] = [:]
  private var timer: TimerWatcher?
  private var answer: Result<[String], any Error>?

  init(deadline: MonotonicInstant) {
    self.deadline = deadline
  }

  func begin(
    _ host: String, options: NameResolver.Options, _ continuation: CheckedContinuation<[String], any Error>
  ) {
    self.continuation = continuation
    timer = TimerWatcher { self.timeIsUp() }
    if answer == nil { ask(host, options) }
    settle()
  }

  func cancel() {
    answer = .failure(CancellationError())
    settle()
  }

  private func ask(_ host: String, _ options: NameResolver.Options) {
    let context = Unmanaged.passUnretained(self).toOpaque()
    var settings = ares_options()
    settings.timeout = Int32(options.firstTimeout.milliseconds)
    settings.tries = options.rounds
    settings.sock_state_cb_data = context
    settings.sock_state_cb = { context, socket, readable, writable in
      let owner = Unmanaged<NameResolution>.fromOpaque(context!)
      EventLoop.assumeIsolated {
        owner.takeUnretainedValue().socket(socket, isReadable: readable != 0, isWritable: writable != 0)
      }
    }
    var status = ares_init_options(&channel, &settings, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB)
    if status == creactor_ares_success, let servers = options.servers {
      status = ares_set_servers_ports_csv(channel, servers)
    }
    guard status == creactor_ares_success else { return answered(status, nil) }

    var hints = ares_addrinfo_hints()
    hints.ai_family = AF_UNSPEC
    ares_getaddrinfo(
      channel, host, nil, &hints,
      { context, status, _, result in
        let owner = Unmanaged<NameResolution>.fromOpaque(context!)
        EventLoop.assumeIsolated { owner.takeUnretainedValue().answered(status, result) }
        ares_freeaddrinfo(result)
      }, context)
  }

  private func socket(_ socket: ares_socket_t, isReadable: Bool, isWritable: Bool) {
    var interest: IOWatcher.Interest = []
    if isReadable { interest.insert(.read) }
    if isWritable { interest.insert(.write) }
    if interest.isEmpty {
      sockets.removeValue(forKey: socket)?.stop()
      return
    }
    let watcher = sockets[socket] ?? IOWatcher { ready in self.process(socket, ready) }
    sockets[socket] = watcher
    watcher.watch(socket, for: interest)
  }

  private func process(_ socket: ares_socket_t, _ ready: IOWatcher.Interest) {
    guard let channel else { return }
    let none = ares_socket_t(-1)
    ares_process_fd(channel, ready.contains(.read) ? socket : none, ready.contains(.write) ? socket : none)
    settle()
  }

  private func timeIsUp() {
    if MonotonicInstant.system >= deadline {
      answer = .failure(NameResolutionError.timedOut)
      settle()
    } else {
      process(-1, [])
    }
  }

  private func answered(_ status: Int32, _ result: UnsafeMutablePointer<ares_addrinfo>?) {
    // What comes after the end, from the channel's destruction, is nobody's answer.
    guard answer == nil else { return }
    switch status {
    case creactor_ares_success:
      let found = Self.addresses(in: result)
      answer = found.isEmpty ? .failure(NameResolutionError.notFound) : .success(found)
    case creactor_ares_not_found, creactor_ares_no_data, creactor_ares_bad_name:
      answer = .failure(NameResolutionError.notFound)
    case creactor_ares_timed_out:
      answer = .failure(NameResolutionError.timedOut)
    default:
      answer = .failure(NameResolutionError.failed(String(cString: ares_strerror(status))))
    }
  }

  private static func addresses(in result: UnsafeMutablePointer<ares_addrinfo>?) -> [String] {
    var found: [String] = []
    var next = result?.pointee.nodes
    while let node = next?.pointee {
      if let text = text(of: node), !found.contains(text) { found.append(text) }
      next = node.ai_next
    }
    return found
  }

  private static func text(of node: ares_addrinfo_node) -> String? {
    guard let address = node.ai_addr else { return nil }
    // INET6_ADDRSTRLEN, which is long enough for an IPv4 address too.
    return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 46) { buffer in
      guard let start = buffer.baseAddress else { return nil }
      let raw = UnsafeRawPointer(address)
      let written: UnsafePointer<CChar>?
      switch node.ai_family {
      case AF_INET:
        var inner = raw.load(as: sockaddr_in.self).sin_addr
        written = inet_ntop(AF_INET, &inner, start, socklen_t(buffer.count))
      case AF_INET6:
        var inner = raw.load(as: sockaddr_in6.self).sin6_addr
        written = inet_ntop(AF_INET6, &inner, start, socklen_t(buffer.count))
      default:
        written = nil
      }
      return written.map { String(cString: $0) }
    }
  }

  /// Ends the resolution where there is an answer; else waits for what c-ares waits for next.
  private func settle() {
    guard let continuation else { return }
    guard let answer else { return rearm() }
    self.continuation = nil
    timer?.stop()
    timer = nil
    for watcher in sockets.values { watcher.stop() }
    sockets.removeAll()
    if let channel {
      self.channel = nil
      ares_destroy(channel)
    }
    continuation.resume(with: answer)
  }

  private func rearm() {
    var wakeAt = deadline
    var remaining = timeval()
    if let channel, ares_timeout(channel, nil, &remaining) != nil {
      // A millisecond more: c-ares looks at its own clock, and what is not yet due there stays.
      let wait = Duration.seconds(remaining.tv_sec) + .microseconds(remaining.tv_usec) + .milliseconds(1)
      wakeAt = min(deadline, MonotonicInstant.system.advanced(by: wait))
    }
    timer?.start(at: wakeAt)
  }
}
