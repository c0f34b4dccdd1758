// One hiredis connection on the loop: performs the handshake, sends commands and delivers answers in order. Invariant:
// the context is freed by hiredis after an error and by `close` otherwise, never from within one of its own callbacks;
// nothing is delivered after the end. Used by RedisClient.

import CReactor

/// Where a server listens.
enum RedisAddress: Equatable, Sendable {
  /// A numeric address.
  case tcp(String, port: UInt16)
  case unix(path: String)
}

/// A command's words, laid out for hiredis' argv functions.
struct RedisCommand: Sendable {
  private(set) var bytes: [UInt8] = []
  private(set) var lengths: [Int] = []
  /// Sent right after an ASKING: to a Redis Cluster node that is being given the key's slot.
  var isAsking = false

  // Every round trip creates a command, so each array is allocated once, at its final size.

  init(_ words: [String]) {
    lengths.reserveCapacity(words.count)
    var byteCount = 0
    for word in words {
      lengths.append(word.utf8.count)
      byteCount += word.utf8.count
    }
    bytes.reserveCapacity(byteCount)
    for var word in words { word.withUTF8 { bytes.append(contentsOf: $0) } }
  }

  init(_ words: [[UInt8]]) {
    lengths.reserveCapacity(words.count)
    bytes.reserveCapacity(words.reduce(0) { $0 + $1.count })
    for word in words {
      lengths.append(word.count)
      bytes.append(contentsOf: word)
    }
  }

  /// Equal for commands that do the same thing to the same key: a hash of the name and the first argument or, for a
  /// script, of its digest or source and its keys. FNV-1a; a collision does no harm.
  var kind: UInt64 {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in bytes.prefix(min(Self.kindByteLimit, lengths.prefix(kindWordCount).reduce(0, +))) {
      hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
    }
    return hash
  }

  /// The most bytes of a command that are hashed.
  private static let kindByteLimit = 1_024

  private var kindWordCount: Int {
    guard lengths.count > 2, lengths[0] >= 4, Self.beginsScript(bytes) else { return 2 }
    let digits = bytes.dropFirst(lengths[0] + lengths[1]).prefix(lengths[2])
    return 3 + digits.reduce(0) { min($0 * 10 + Int($1 & 15), lengths.count) }
  }

  /// EVAL, EVALSHA and their read-only forms.
  private static func beginsScript(_ bytes: [UInt8]) -> Bool {
    bytes.prefix(4).elementsEqual("EVAL".utf8) { $0 & 0xdf == $1 }
  }

  /// Whether the command begins with the words of `name`, which is in upper case and has single spaces.
  func begins(with name: StaticString) -> Bool {
    let letters = UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)
    var index = 0
    var place = 0
    var end = lengths.first ?? 0
    for letter in letters {
      if letter == ASCII.space {
        index += 1
        guard place == end, index < lengths.count else { return false }
        end += lengths[index]
        continue
      }
      guard place < end, Self.upperCase(bytes[place]) == letter else { return false }
      place += 1
    }
    return place == end && !letters.isEmpty
  }

  private static func upperCase(_ byte: UInt8) -> UInt8 {
    byte >= 97 && byte <= 122 ? byte - 32 : byte
  }
}

@EventLoop
final class RedisConnection {
  /// Called for each answer after the handshake.
  var onAnswer: ((RedisValue) -> Void)?
  /// Called once, when the connection has ended other than by `close`.
  var onEnd: ((RedisConnectionFailure) -> Void)?
  /// Why the connection ended; nil while it is open.
  private(set) var failure: RedisConnectionFailure?

  private var context: UnsafeMutablePointer<redisAsyncContext>?
  /// The TLS session; freed with the context.
  private var session: OpaquePointer?
  /// The session of a connection that is open; hiredis frees it with the connection.
  var tlsSession: OpaquePointer? { failure == nil ? session : nil }
  private var events: RedisEvents?
  private var handshake: RedisHandshake
  private var isReady = false
  /// Fires nil if the server is ready for commands, otherwise the failure.
  private let handshakeEnded = OneShot<RedisConnectionFailure?>()

  /// How long sent bytes may stay unacknowledged, and keepalive probes unanswered, before the kernel drops the
  /// connection.
  private static let userTimeoutMilliseconds: UInt32 = 10_000

  /// Starts to connect and queues the handshake.
  ///
  /// - Parameter host: the name that the server's certificate must contain, with TLS.
  init(address: RedisAddress, tls: RedisTLS?, host: String, handshake: RedisHandshake) {
    self.handshake = handshake
    let made =
      switch address {
      case .tcp(let host, let port): redisAsyncConnect(host, Int32(port))
      case .unix(let path): redisAsyncConnectUnix(path)
      }
    guard let context = made else {
      finish(.other("out of memory"))
      return
    }
    var refusal: String?
    if let tls { (session, refusal) = tls.start(on: context, host: host) }
    guard context.pointee.err == 0, tls == nil || session != nil else {
      let failure =
        refusal.map(RedisConnectionFailure.other) ?? Self.failure(context, session) ?? .other("TLS could not begin")
      redisAsyncFree(context)
      finish(failure)
      return
    }
    self.context = context
    context.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    if case .tcp = address { Self.keepAlive(context) }
    events = RedisEvents(context, session: session) { [weak self] misconduct in self?.end(.misconduct(misconduct)) }
    redisAsyncSetDisconnectCallback(context) { context, _ in RedisConnection.ended(context) }
    redisAsyncSetConnectCallback(context) { context, status in
      // Connected is not ready yet: TLS and the handshake follow.
      if status != REDIS_OK { RedisConnection.ended(context) }
    }
    for command in handshake.commands { send(RedisCommand(command)) }
  }

  isolated deinit {
    close()
  }

  /// Detects within a minute that a peer has vanished, even while idle, and keeps NATs from dropping an idle
  /// connection.
  private static func keepAlive(_ context: UnsafeMutablePointer<redisAsyncContext>) {
    redisEnableKeepAlive(&context.pointee.c)
    var milliseconds = userTimeoutMilliseconds
    // A kernel without this option has its own, longer limits.
    setsockopt(
      context.pointee.c.fd, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, &milliseconds,
      socklen_t(MemoryLayout<UInt32>.size))
  }

  /// Whether the answer to HELLO is due. A peer that closes the connection then does not know HELLO.
  var isAwaitingMode: Bool { !isReady && handshake.isAwaitingMode }

  /// Whether the answer to the health check is due next.
  var isAwaitingCheck: Bool { !isReady && handshake.isAwaitingCheck }

  /// The server that a Sentinel named.
  var namedMaster: RedisEndpoint? { handshake.namedMaster }

  /// The answer to CLUSTER SLOTS.
  var clusterSlots: RedisValue? { handshake.clusterSlots }

  /// Waits for the end of the handshake.
  ///
  /// - Returns: nil if the server is ready for commands, otherwise why it is not.
  func handshakeEnd(by deadline: MonotonicInstant, on clock: LoopClock) async -> RedisConnectionFailure? {
    guard let answer = await handshakeEnded.wait(until: deadline, on: clock) else { return .timedOut }
    return answer
  }

  /// Queues a command; `flush` or the loop's next turn sends it.
  func send(_ command: RedisCommand) {
    guard let context else { return }
    if command.isAsking { sendAsking(context) }
    var lengths = command.lengths
    let status = command.bytes.withUnsafeBufferPointer { bytes in
      withUnsafeTemporaryAllocation(of: UnsafePointer<CChar>?.self, capacity: lengths.count) { words in
        // An empty word needs an address too.
        var next = bytes.baseAddress.map { UnsafeRawPointer($0) } ?? UnsafeRawPointer(words.baseAddress!)
        for index in 0..<lengths.count {
          words.initializeElement(at: index, to: next.assumingMemoryBound(to: CChar.self))
          next += lengths[index]
        }
        return redisAsyncCommandArgv(
          context,
          { context, reply, _ in RedisConnection.replied(context, reply) }, nil,
          Int32(lengths.count), words.baseAddress, &lengths)
      }
    }
    precondition(status == REDIS_OK, "hiredis refuses commands only on a connection that is ending")
  }

  /// Queues an ASKING. Its answer adds nothing to the next one.
  private func sendAsking(_ context: UnsafeMutablePointer<redisAsyncContext>) {
    var length = 6
    "ASKING".withCString { word in
      var words: UnsafePointer<CChar>? = word
      _ = redisAsyncCommandArgv(context, { _, _, _ in }, nil, 1, &words, &length)
    }
  }

  /// Writes queued commands at once, which saves a turn of the loop. May end the connection.
  ///
  /// Does nothing in a reply callback, where hiredis 1.0 and later abort; the loop's next turn then sends them.
  func flush() {
    guard isReady, let context, context.pointee.c.flags & REDIS_IN_CALLBACK == 0 else { return }
    events?.clearErrors()
    redisAsyncHandleWrite(context)
  }

  /// Ends the connection without calling `onEnd`. Must not be called from `onEnd`. In a reply callback, hiredis frees
  /// the context only after the callback has returned.
  func close() {
    guard let context else { return }
    self.context = nil
    context.pointee.data = nil
    redisAsyncFree(context)
  }

  /// Ends the connection because the peer cannot be trusted any more.
  private func end(_ failure: RedisConnectionFailure) {
    close()
    finish(failure)
  }

  /// hiredis' reply callback: copies the reply, which hiredis frees when this returns.
  private nonisolated static func replied(
    _ context: UnsafePointer<redisAsyncContext>?, _ reply: UnsafeMutableRawPointer?
  ) {
    // Without a reply the connection is ending: `ended` follows, for all commands.
    guard let data = context?.pointee.data, let reply else { return }
    let raw = reply.load(as: redisReply.self)
    let value = RedisValue(raw)
    let redirect = raw.type == REDIS_REPLY_ERROR ? RedisValue(redirect: raw) : nil
    let connection = Unmanaged<RedisConnection>.fromOpaque(data).takeUnretainedValue()
    EventLoop.assumeIsolated {
      // It is unknown which answer is the surplus one, so none counts.
      let isDoubtful = connection.events?.hasSurplus ?? false
      let answer = connection.handshake.isClusterNode ? redirect ?? value : value
      isDoubtful ? connection.end(.misconduct(.unsolicited)) : connection.answered(answer)
    }
  }

  /// hiredis' connect and disconnect callbacks: it frees the context when this returns.
  private nonisolated static func ended(_ context: UnsafePointer<redisAsyncContext>?) {
    guard let data = context?.pointee.data else { return }
    let connection = Unmanaged<RedisConnection>.fromOpaque(data).takeUnretainedValue()
    EventLoop.assumeIsolated { connection.ended() }
  }

  private func answered(_ value: RedisValue) {
    if isReady {
      onAnswer?(value)
      return
    }
    switch handshake.answered(value) {
    case .more: break
    case .send(let command): send(RedisCommand(command))
    case .ready:
      isReady = true
      handshakeEnded.fire(nil)
    case .refused(let reason):
      handshakeEnded.fire(handshake.isLoginRefused ? .loginRefused(reason) : .other(reason))
    }
  }

  private func ended() {
    guard let context else { return }
    let isExceeded = events?.isBudgetExceeded ?? false
    let failure = Self.failure(context, session) ?? .closed(.endOfStream)
    self.context = nil
    finish(isExceeded ? .misconduct(.tooLarge) : failure)
  }

  private func finish(_ failure: RedisConnectionFailure) {
    self.failure = failure
    handshakeEnded.fire(failure)
    onEnd?(failure)
  }

  /// hiredis' error: a text of the system, of hiredis or OpenSSL, or the server's last error reply.
  private static func failure(
    _ context: UnsafePointer<redisAsyncContext>?, _ session: OpaquePointer?
  ) -> RedisConnectionFailure? {
    // The context's copies of these two are not yet set in the connect callback.
    guard let connection = context?.pointee.c, connection.err != 0 else { return nil }
    let text = withUnsafeBytes(of: connection.errstr) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    if let session, SSL_is_init_finished(session) == 0, let refusal = CertificateRefusal.reason(of: session) {
      return .other(refusal)
    }
    switch connection.err {
    case REDIS_ERR_EOF: return .closed(.endOfStream)
    // hiredis before 1.0 has its own limit.
    case REDIS_ERR_PROTOCOL where text.hasPrefix("No support for nested"):
      return .misconduct(.tooLarge)
    case REDIS_ERR_PROTOCOL: return .misconduct(.notRedis)
    case REDIS_ERR_OTHER where RedisErrorReply.hasCode(text): return .other(RedisErrorReply(text).explanation)
    // hiredis asks the kernel, which knows nothing about TLS.
    case REDIS_ERR_IO where session.map { SSL_is_init_finished($0) == 0 } ?? false: return .other("TLS refused")
    default:
      let prefix = "SSL_connect failed: "
      return RedisConnectionFailure(systemText: text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text)
    }
  }
}
