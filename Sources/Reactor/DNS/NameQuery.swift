// One DNS query: one name, one family. It has its own c-ares channel and so its own socket, because some routers drop
// the second of two queries from one port. Invariant: callbacks only record; `report` reports the answer after c-ares
// has returned, so the owner may stop the query there. Used by NameLookup.

import CReactor

@EventLoop
final class NameQuery {
  /// The options of a query.
  struct Settings {
    /// "address:port,…" instead of the servers in resolv.conf.
    var servers: String?
    var timeout: Duration
    var rounds: Int
    var usesTCP: Bool
  }

  private let name: String
  private let family: FamilyRace.Family
  private let settings: Settings
  private let clock: LoopClock
  private let onAnswer: @EventLoop (FamilyRace.Answer) -> Void
  private var channel: OpaquePointer?
  private var sockets: [ares_socket_t: IOWatcher] = [:]
  private var timer: TimerWatcher?
  private var answer: FamilyRace.Answer?
  private var isStopped = false

  init(
    _ name: String, _ family: FamilyRace.Family, _ settings: Settings, clock: LoopClock,
    onAnswer: @escaping @EventLoop (FamilyRace.Answer) -> Void
  ) {
    self.name = name
    self.family = family
    self.settings = settings
    self.clock = clock
    self.onAnswer = onAnswer
  }

  func start() {
    timer = TimerWatcher(clock) { [weak self] in self?.process(-1, []) }
    send()
    report()
  }

  /// Ends the query, answered or not; nothing more is reported.
  func stop() {
    isStopped = true
    timer?.stop()
    for watcher in sockets.values { watcher.stop() }
    sockets.removeAll()
    guard let channel else { return }
    self.channel = nil
    ares_destroy(channel)
  }

  private func send() {
    let context = Unmanaged.passUnretained(self).toOpaque()
    let status = open(context)
    guard status == creactor_ares_success else { return ended(status, nil) }
    var hints = ares_addrinfo_hints()
    hints.ai_family = family == .ipv4 ? AF_INET : AF_INET6
    // NameResolver sorts the addresses of both families together.
    hints.ai_flags = creactor_ares_no_sort
    ares_getaddrinfo(
      channel, name, nil, &hints,
      { context, status, _, result in
        let owner = Unmanaged<NameQuery>.fromOpaque(context!)
        EventLoop.assumeIsolated { owner.takeUnretainedValue().ended(status, result) }
        ares_freeaddrinfo(result)
      }, context)
  }

  /// Opens the channel, which reads the servers from resolv.conf. Search domains and the hosts file are turned off,
  /// because NameResolver handles them.
  private func open(_ context: UnsafeMutableRawPointer) -> Int32 {
    var options = ares_options()
    options.flags = settings.usesTCP ? creactor_ares_use_tcp : 0
    options.timeout = Int32(clamping: settings.timeout.milliseconds)
    options.tries = Int32(clamping: settings.rounds)
    options.sock_state_cb_data = context
    options.sock_state_cb = { context, socket, readable, writable in
      let owner = Unmanaged<NameQuery>.fromOpaque(context!)
      EventLoop.assumeIsolated {
        owner.takeUnretainedValue().socket(socket, isReadable: readable != 0, isWritable: writable != 0)
      }
    }
    let given =
      ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB | ARES_OPT_DOMAINS | ARES_OPT_NDOTS
      | ARES_OPT_LOOKUPS
    var lookups: [CChar] = [CChar(UInt8(ascii: "b")), 0]
    let status = lookups.withUnsafeMutableBufferPointer { lookups in
      options.lookups = lookups.baseAddress
      return ares_init_options(&channel, &options, given)
    }
    guard status == creactor_ares_success, let servers = settings.servers else { return status }
    return ares_set_servers_ports_csv(channel, servers)
  }

  private func socket(_ socket: ares_socket_t, isReadable: Bool, isWritable: Bool) {
    var interest: IOWatcher.Interest = []
    if isReadable { interest.insert(.read) }
    if isWritable { interest.insert(.write) }
    if interest.isEmpty {
      sockets.removeValue(forKey: socket)?.stop()
      return
    }
    let watcher = sockets[socket] ?? IOWatcher { [weak self] ready in self?.process(socket, ready) }
    sockets[socket] = watcher
    watcher.watch(socket, for: interest)
  }

  /// Lets c-ares process `socket`, or only timeouts if it is -1.
  private func process(_ socket: ares_socket_t, _ ready: IOWatcher.Interest) {
    guard let channel else { return }
    let none = ares_socket_t(-1)
    ares_process_fd(channel, ready.contains(.read) ? socket : none, ready.contains(.write) ? socket : none)
    report()
  }

  private func ended(_ status: Int32, _ result: UnsafeMutablePointer<ares_addrinfo>?) {
    // `ares_destroy` calls back too when a query is stopped; that is not an answer.
    if isStopped { return }
    precondition(answer == nil, "c-ares ends a query once")
    switch status {
    case creactor_ares_success:
      let found = AresAddresses.texts(of: result)
      answer = found.isEmpty ? .noAddress : .found(found)
    case creactor_ares_not_found, creactor_ares_bad_name: answer = .noName
    case creactor_ares_no_data: answer = .noAddress
    case creactor_ares_timed_out: answer = .timedOut
    default: answer = .failed(String(cString: ares_strerror(status)))
    }
  }

  /// Reports the answer, once. Without one, waits for whatever c-ares waits for next.
  private func report() {
    guard !isStopped else { return }
    guard let answer else { return rearm() }
    stop()
    onAnswer(answer)
  }

  private func rearm() {
    var remaining = timeval()
    guard let channel, ares_timeout(channel, nil, &remaining) != nil else { return }
    // One millisecond more, because c-ares reads its own clock and skips what is not due yet.
    let wait = Duration.seconds(remaining.tv_sec) + .microseconds(remaining.tv_usec) + .milliseconds(1)
    timer?.start(at: clock.now.advanced(by: wait))
  }
}

/// The addresses in a c-ares answer.
enum AresAddresses {
  static func texts(of result: UnsafeMutablePointer<ares_addrinfo>?) -> [String] {
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
    // INET6_ADDRSTRLEN, which is enough for IPv4 too.
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
}
