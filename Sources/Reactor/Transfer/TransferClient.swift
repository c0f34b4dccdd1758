// Sends requests over HTTP and SMTP: libcurl's multi-socket interface on the loop's watchers.
// Invariants: libcurl never resolves a name, never waits and is never called from one of its own callbacks; every
// transfer ends by its deadline.

import CReactor

/// Sends requests to other servers, any number at a time, over connections that are reused while they are open.
///
/// TLS is verified, proxies are selected by `ProxyRules`, and redirects are followed as `Redirects` allows: same
/// request, same host.
@EventLoop
public final class TransferClient {
  /// The maximum length of a response body that is read, in bytes.
  public nonisolated static let bodyLimit = 64 * 1024
  /// The number of idle connections that are kept.
  private static let idleConnectionLimit = 4
  /// How long they are kept; then they and the memory used for sending are released.
  private static let idleLimit = Duration.seconds(20)

  private let library: TransferLibrary
  private let proxies: ProxyRules
  private var authorities: CertificateAuthorities
  /// Whether certificates were read that are to be read again: libcurl keeps them with its connections.
  private var hasOldAuthorities = false
  private let userAgent: String
  private let resolving: NameResolver.Options
  private let clock: LoopClock
  private var multi: UnsafeMutableRawPointer?
  private var transfers: [UnsafeMutableRawPointer: Transfer] = [:]
  private var sockets: [Int32: IOWatcher] = [:]
  private var timer: TimerWatcher?
  private var idleTimer: TimerWatcher?

  /// - Parameters:
  ///   - authorityFile: PEM file of the certificates that are trusted instead of the system's.
  ///   - userAgent: the client's name for HTTP servers.
  public convenience init(
    _ library: TransferLibrary, proxies: ProxyRules, authorityFile: String? = nil, userAgent: String, clock: LoopClock
  ) {
    self.init(
      library, proxies: proxies, authorityFile: authorityFile, userAgent: userAgent, clock: clock,
      resolving: NameResolver.Options())
  }

  init(
    _ library: TransferLibrary, proxies: ProxyRules, authorityFile: String? = nil, userAgent: String, clock: LoopClock,
    resolving: NameResolver.Options
  ) {
    self.library = library
    self.proxies = proxies
    self.userAgent = userAgent
    self.clock = clock
    self.resolving = resolving
    authorities = CertificateAuthorities(file: authorityFile)
    timer = TimerWatcher(clock) { [weak self] in self?.act(creactor_curl_socket_timeout, 0) }
    idleTimer = TimerWatcher(clock) { [weak self] in self?.closeIdle() }
  }

  isolated deinit {
    timer?.stop()
    idleTimer?.stop()
    for easy in transfers.keys { _ = withCleanTLS { library.curl.pointee.multi_remove_handle(multi, easy) } }
    transfers.removeAll()
    closeIdle()
  }

  /// Trusts the certificates in `authorityFile`, or the system's, for connections that are opened from now on, and
  /// reads them again.
  public func renewAuthorities(file authorityFile: String?) {
    authorities = CertificateAuthorities(file: authorityFile)
    hasOldAuthorities = true
    if transfers.isEmpty { closeIdle() }
  }

  /// Sends `request` and returns the answer, whatever its status.
  ///
  /// - Parameter deadline: on the client's clock, for everything: name resolution, connecting, TLS, the answer.
  /// - Throws: `TransferError`, or `CancellationError` as soon as the task is cancelled.
  public func send(_ request: TransferRequest, by deadline: MonotonicInstant) async throws -> TransferAnswer {
    guard LineRules.isURL(request.url) else { throw TransferError.malformedURL }
    if let fault = request.fault { throw TransferError.malformedRequest(fault) }
    guard userAgent.utf8.allSatisfy(ASCII.isFieldValue) else {
      throw TransferError.malformedRequest("a user agent with a control character")
    }
    var request = request
    var redirects = Redirects()
    while true {
      let (answer, redirect) = try await sendOnce(request, by: deadline)
      guard case .post = request.content, Redirects.isRedirect(answer.status),
        let origin = library.address(of: request.url)
      else { return answer }
      let target = redirect.flatMap { library.address(of: $0) }
      try redirects.follow(status: answer.status, from: origin, to: target)
      guard let next = redirect.flatMap({ library.url($0, withLoginOf: request.url) }) else {
        throw TransferError.redirected(status: answer.status, .noTarget)
      }
      request.url = next
    }
  }

  private func sendOnce(
    _ request: TransferRequest, by deadline: MonotonicInstant
  ) async throws -> (TransferAnswer, redirect: String?) {
    let route = try await route(to: request.url, by: deadline)
    try Task.checkCancellation()
    let transfer = try prepare(request, route, by: deadline)
    begin(transfer)
    let result = await withTaskCancellationHandler {
      await transfer.ended.waitThroughCancellation()
    } onCancel: {
      EventLoop.perform { self.end(transfer, .failure(CancellationError())) }
    }
    guard let result else { preconditionFailure("a transfer ends with a result") }
    return (try result.get(), transfer.redirectTarget)
  }

  // MARK: - Names and proxies

  /// The route to a server: its proxy, and the addresses of the names involved, as CURLOPT_RESOLVE expects them.
  private struct Route {
    let target: TransferLibrary.Address
    var proxy: String?
    var addresses: [String] = []
    /// Whether all names involved have been resolved.
    var isResolved = true
  }

  private func route(to url: String, by deadline: MonotonicInstant) async throws -> Route {
    guard let target = library.address(of: url) else { throw TransferError.malformedURL }
    var route = Route(target: target)
    guard let proxy = proxies.proxy(scheme: target.scheme, host: target.host, port: target.port) else {
      try await resolve(target, into: &route, by: deadline)
      return route
    }
    guard let address = library.address(ofProxy: proxy) else { throw TransferError.malformedProxy }
    route.proxy = proxy
    try await resolve(address, into: &route, by: deadline)
    // With these two protocols the client resolves the target's name; the other proxies do it themselves.
    if address.scheme == "socks4" || address.scheme == "socks5" {
      try await resolve(target, into: &route, by: deadline)
    }
    return route
  }

  private func resolve(
    _ address: TransferLibrary.Address, into route: inout Route, by deadline: MonotonicInstant
  ) async throws {
    if NameResolver.isNumericAddress(address.host) {
      route.isResolved = false
      return
    }
    do {
      let found = try await NameResolver.addresses(of: address.host, by: deadline, on: clock, options: resolving)
      var list = ""
      for text in found { list += (list.isEmpty ? "" : ",") + (text.utf8.contains(ASCII.colon) ? "[\(text)]" : text) }
      route.addresses.append("\(address.host):\(address.port):\(list)")
    } catch let error as NameResolutionError {
      throw TransferError.unresolved(error)
    }
  }

  // MARK: - One transfer

  private func prepare(
    _ request: TransferRequest, _ route: Route, by deadline: MonotonicInstant
  ) throws(TransferError) -> Transfer {
    let remaining = clock.now.duration(to: deadline).milliseconds
    guard remaining > 0 else { throw .timedOut }
    guard let transfer = Transfer(library) else { throw failure(creactor_curl_no_memory) }
    transfer.set(CREACTOR_CURLOPT_NOSIGNAL, 1)
    transfer.set(CREACTOR_CURLOPT_TIMEOUT_MS, Int(remaining))
    transfer.set(CREACTOR_CURLOPT_USERAGENT, userAgent)
    // Always set both, so that libcurl does not read the environment.
    transfer.set(CREACTOR_CURLOPT_PROXY, route.proxy ?? "")
    transfer.set(CREACTOR_CURLOPT_NOPROXY, "")
    transfer.set(CREACTOR_CURLOPT_RESOLVE, route.addresses)
    if route.isResolved { transfer.forbidResolving() }
    authorities.apply(to: transfer)
    transfer.set(request.content)
    var url: String? = request.url
    if case .mail(_, _, _, _, let clientName) = request.content {
      transfer.setLogin(of: route.target)
      if let clientName { url = library.url(request.url, path: clientName) }
    }
    guard let url else { throw .malformedURL }
    transfer.set(CREACTOR_CURLOPT_URL, url)
    guard transfer.isComplete else { throw .malformedURL }
    return transfer
  }

  private func begin(_ transfer: Transfer) {
    idleTimer?.stop()
    guard let multi = openMulti(), library.curl.pointee.multi_add_handle(multi, transfer.easy) == 0 else {
      return end(transfer, .failure(failure(creactor_curl_no_memory)))
    }
    transfers[transfer.easy] = transfer
  }

  private func failure(_ code: Int) -> TransferError {
    .failed(code: Int32(code), reason: library.text(of: Int32(code)), status: 0)
  }

  /// Removes the transfer from libcurl and wakes its caller. A race: a transfer can end and be cancelled in the same
  /// turn of the loop; the first end counts.
  private func end(_ transfer: Transfer, _ result: Result<TransferAnswer, any Error>) {
    if transfers.removeValue(forKey: transfer.easy) != nil {
      _ = withCleanTLS { library.curl.pointee.multi_remove_handle(multi, transfer.easy) }
    }
    // Not at once where certificates are old: this can be in the middle of libcurl's results.
    if transfers.isEmpty { idleTimer?.start(at: clock.now.advanced(by: hasOldAuthorities ? .zero : Self.idleLimit)) }
    transfer.ended.fire(result)
  }

  // MARK: - libcurl on the loop

  /// Calls libcurl with an empty OpenSSL error queue, and empties it again: it must neither read the errors of others
  /// nor leave its own.
  private func withCleanTLS(_ call: () -> Int32) -> Int32 {
    creactor_clear_tls_errors()
    defer { creactor_clear_tls_errors() }
    return call()
  }

  private func openMulti() -> UnsafeMutableRawPointer? {
    if let multi { return multi }
    guard let made = library.curl.pointee.multi_init() else { return nil }
    let owner = Unmanaged.passUnretained(self).toOpaque()
    let refusal = creactor_curl_drive(
      library.curl, made, owner,
      { _, socket, what, owner, _ in
        let client = Unmanaged<TransferClient>.fromOpaque(owner!)
        EventLoop.assumeIsolated { client.takeUnretainedValue().watch(socket, what) }
        return 0
      },
      { _, milliseconds, owner in
        let client = Unmanaged<TransferClient>.fromOpaque(owner!)
        EventLoop.assumeIsolated { client.takeUnretainedValue().wait(milliseconds) }
        return 0
      }, Self.idleConnectionLimit)
    precondition(refusal == creactor_curl_ok, "libcurl has no multi-socket interface")
    multi = made
    return made
  }

  /// Closes idle connections. The memory that sending used in libcurl, TLS and the heap is released too, because in an
  /// idle process it is a third of the whole. The next transfer restores it in a millisecond.
  private func closeIdle() {
    guard transfers.isEmpty else { return }
    hasOldAuthorities = false
    guard let closed = multi else { return }
    multi = nil
    _ = withCleanTLS { library.curl.pointee.multi_cleanup(closed) }
    timer?.stop()
    for watcher in sockets.values { watcher.stop() }
    sockets.removeAll()
    malloc_trim(0)
    LoadedCode.giveBackPages()
  }

  /// libcurl reports what it waits for on a socket. It is in the middle of a call, so this only records it.
  private func watch(_ socket: Int32, _ what: Int32) {
    if Int(what) == creactor_curl_poll_remove {
      sockets.removeValue(forKey: socket)?.stop()
      return
    }
    var interest: IOWatcher.Interest = []
    if Int(what) & creactor_curl_poll_in != 0 { interest.insert(.read) }
    if Int(what) & creactor_curl_poll_out != 0 { interest.insert(.write) }
    let watcher =
      sockets[socket]
      ?? IOWatcher { [weak self] ready in
        var events = 0
        if ready.contains(.read) { events |= creactor_curl_select_in }
        if ready.contains(.write) { events |= creactor_curl_select_out }
        self?.act(socket, Int32(events))
      }
    sockets[socket] = watcher
    watcher.watch(socket, for: interest)
  }

  /// libcurl reports when it wants to be called at the latest; never if the value is negative.
  private func wait(_ milliseconds: Int) {
    if milliseconds < 0 {
      timer?.stop()
    } else {
      timer?.start(at: clock.now.advanced(by: .milliseconds(milliseconds)))
    }
  }

  /// Lets libcurl continue, then resumes the callers of finished transfers.
  private func act(_ socket: Int32, _ events: Int32) {
    guard let multi else { preconditionFailure("a socket or timer of a libcurl handle that is closed") }
    var running: Int32 = 0
    _ = withCleanTLS { library.curl.pointee.multi_socket_action(multi, socket, events, &running) }
    var ended: [(transfer: Transfer, code: Int32)] = []
    var waiting: Int32 = 0
    while let message = library.curl.pointee.multi_info_read(multi, &waiting) {
      guard let easy = message.pointee.easy, let transfer = transfers[easy] else {
        preconditionFailure("libcurl ended a transfer that it does not have")
      }
      ended.append((transfer, message.pointee.data.result))
    }
    for (transfer, code) in ended { end(transfer, transfer.result(code).mapError { $0 }) }
  }
}

/// The trusted certificates.
@EventLoop
private struct CertificateAuthorities {
  private var file: String?
  private var directory: String?

  /// The system's certificates as a directory of hashed names: libcurl reads only the one that it needs, whereas it
  /// would keep a whole bundle in memory. OpenSSL's variables override the location.
  init(file: String?) {
    if let file {
      self.file = file
    } else if let path = Self.variable("SSL_CERT_FILE") {
      self.file = path
    } else {
      directory = Self.variable("SSL_CERT_DIR") ?? String(cString: X509_get_default_cert_dir())
    }
  }

  private static func variable(_ name: String) -> String? {
    guard let text = getenv(name), text.pointee != 0 else { return nil }
    return String(cString: text)
  }

  func apply(to transfer: Transfer) {
    transfer.set(CREACTOR_CURLOPT_CAINFO, file)
    transfer.set(CREACTOR_CURLOPT_CAPATH, directory)
    transfer.set(CREACTOR_CURLOPT_PROXY_CAINFO, file)
    transfer.set(CREACTOR_CURLOPT_PROXY_CAPATH, directory)
  }
}
