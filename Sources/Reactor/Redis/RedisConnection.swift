// One hiredis connection on the loop: a thin skin that says hello, sends commands and passes answers on in their order.
// Invariant: hiredis' context is freed by itself after an error and by `close` else, never from inside of a callback of
// its own; after the end nothing more is passed on. Used by RedisClient.

import CReactor

/// Where a server listens.
enum RedisAddress: Equatable, Sendable {
  /// A numeric address.
  case tcp(String, port: UInt16)
  case unix(path: String)
}

/// A command's words, laid out as hiredis' argv functions want them.
struct RedisCommand: Sendable {
  private(set) var bytes: [UInt8] = []
  private(set) var lengths: [Int] = []

  init(_ words: [String]) {
    for word in words { append(word.utf8) }
  }

  init(_ words: [[UInt8]]) {
    for word in words { append(word) }
  }

  private mutating func append(_ word: some Collection<UInt8>) {
    bytes.append(contentsOf: word)
    lengths.append(word.count)
  }

  /// The same for commands that do the same with the same key: the name with what follows it, of a script its digest or
  /// source and its keys. FNV-1a; that two commands meet in it does no harm.
  var kind: UInt64 {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in bytes.prefix(min(Self.kindByteLimit, lengths.prefix(kindWordCount).reduce(0, +))) {
      hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
    }
    return hash
  }

  /// As much of a command is looked at.
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

  /// The command's name in upper case, of CLIENT and SCRIPT with what follows it.
  var name: String {
    let first = word(0)
    return lengths.count > 1 && (first == "CLIENT" || first == "SCRIPT") ? "\(first) \(word(1))" : first
  }

  private func word(_ index: Int) -> String {
    let word = bytes.dropFirst(lengths[..<index].reduce(0, +)).prefix(lengths[index])
    return String(decoding: word.map { $0 >= 97 && $0 <= 122 ? $0 - 32 : $0 }, as: UTF8.self)
  }
}

@EventLoop
final class RedisConnection {
  /// Called for each answer after the hello's.
  var onAnswer: ((RedisValue) -> Void)?
  /// Called once, when the connection ended by itself, with what may be shown to anyone.
  var onEnd: ((String) -> Void)?
  /// Why the connection ended; nil while it is open.
  private(set) var endReason: String?

  private var context: UnsafeMutablePointer<redisAsyncContext>?
  /// Of TLS; the context frees it with itself.
  private var session: OpaquePointer?
  /// The session of a connection that is open; hiredis frees it with the connection.
  var tlsSession: OpaquePointer? { endReason == nil ? session : nil }
  private var events: RedisEvents?
  private var handshake: RedisHandshake
  private var isReady = false
  /// Fires nil when the server is ready for commands, else the reason why it is not.
  private let greeted = OneShot<String?>()

  /// How long what was sent may stay without the other kernel's word that it has arrived, and a silent peer without a
  /// sign of life once it is asked for one, before the kernel gives the connection up.
  private static let userTimeoutMilliseconds: UInt32 = 10_000

  /// Begins to connect and puts the hello in the line.
  init(address: RedisAddress, tls: RedisTLS?, handshake: RedisHandshake) {
    self.handshake = handshake
    let made =
      switch address {
      case .tcp(let host, let port): redisAsyncConnect(host, Int32(port))
      case .unix(let path): redisAsyncConnectUnix(path)
      }
    guard let context = made else {
      finish("out of memory")
      return
    }
    var refusal: String?
    if let tls { (session, refusal) = tls.start(on: context) }
    guard context.pointee.err == 0, tls == nil || session != nil else {
      let reason = refusal ?? Self.reason(context, session) ?? "TLS could not begin"
      redisAsyncFree(context)
      finish(reason)
      return
    }
    self.context = context
    context.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    if case .tcp = address { Self.keepAlive(context) }
    events = RedisEvents(context, session: session) { [weak self] misconduct in self?.end(misconduct.rawValue) }
    redisAsyncSetDisconnectCallback(context) { context, _ in RedisConnection.ended(context) }
    redisAsyncSetConnectCallback(context) { context, status in
      // Up is not yet ready: TLS and the hello are to come.
      if status != REDIS_OK { RedisConnection.ended(context) }
    }
    for command in handshake.commands { send(RedisCommand(command)) }
  }

  isolated deinit {
    close()
  }

  /// A peer that is gone without a word is noticed within a minute, also while nothing is asked, and a NAT on the way
  /// does not forget a connection that is only idle.
  private static func keepAlive(_ context: UnsafeMutablePointer<redisAsyncContext>) {
    redisEnableKeepAlive(&context.pointee.c)
    var milliseconds = userTimeoutMilliseconds
    // A kernel without it has its own, longer bounds.
    setsockopt(
      context.pointee.c.fd, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, &milliseconds,
      socklen_t(MemoryLayout<UInt32>.size))
  }

  /// Whether the peer has still to answer a HELLO: one that ended the connection there does not know it.
  var isAwaitingMode: Bool { !isReady && handshake.isAwaitingMode }

  /// Whether the peer has still to answer the health check, and nothing before it.
  var isAwaitingCheck: Bool { !isReady && handshake.isAwaitingCheck }

  /// Waits until the server has answered the hello.
  ///
  /// - Returns: nil where it is ready for commands, else why it is not.
  func greeting(by deadline: MonotonicInstant, on clock: LoopClock) async -> String? {
    guard let answer = await greeted.wait(until: deadline, on: clock) else { return "timed out" }
    return answer
  }

  /// Puts a command in the line; `flush` or the loop's next turn sends it.
  func send(_ command: RedisCommand) {
    guard let context else { return }
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

  /// Writes what is in the line at once, which saves a turn of the loop. May end the connection.
  ///
  /// Not from inside of a reply callback, where hiredis 1.0 and later abort: the loop's next turn sends it then.
  func flush() {
    guard isReady, let context, context.pointee.c.flags & REDIS_IN_CALLBACK == 0 else { return }
    events?.clearErrors()
    redisAsyncHandleWrite(context)
  }

  /// Ends the connection without a word to the owner. Not from inside of `onEnd`. In a reply callback hiredis waits
  /// with freeing until that has returned.
  func close() {
    guard let context else { return }
    self.context = nil
    context.pointee.data = nil
    redisAsyncFree(context)
  }

  /// Ends the connection because the peer is not to be trusted with it any more.
  private func end(_ reason: String) {
    close()
    finish(reason)
  }

  /// hiredis' reply callback: copies the reply, which hiredis frees when this returns.
  private nonisolated static func replied(
    _ context: UnsafePointer<redisAsyncContext>?, _ reply: UnsafeMutableRawPointer?
  ) {
    // Without a reply the connection is ending: `ended` follows and speaks for all commands.
    guard let data = context?.pointee.data, let reply else { return }
    let value = RedisValue(reply.load(as: redisReply.self))
    let connection = Unmanaged<RedisConnection>.fromOpaque(data).takeUnretainedValue()
    EventLoop.assumeIsolated {
      // Which of the answers is the one too many cannot be told: none counts.
      let isDoubtful = connection.events?.isMoreThanAskedFor ?? false
      isDoubtful ? connection.end(RedisEvents.Misconduct.unasked.rawValue) : connection.answered(value)
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
      greeted.fire(nil)
    case .refused(let reason):
      greeted.fire(reason)
    }
  }

  private func ended() {
    guard let context else { return }
    let isExceeded = events?.isBudgetExceeded ?? false
    let reason =
      isExceeded ? RedisEvents.Misconduct.tooLarge.rawValue : Self.reason(context, session) ?? Self.closedByServer
    self.context = nil
    finish(reason)
  }

  nonisolated static let closedByServer = "the server closed the connection"

  /// Whether a reason says that the other side has ended the connection, and no more.
  nonisolated static func isClosing(_ reason: String) -> Bool {
    reason == closedByServer || reason == "connection reset by peer" || reason == "broken pipe"
  }

  private func finish(_ reason: String) {
    endReason = reason
    greeted.fire(reason)
    onEnd?(reason)
  }

  /// hiredis' error: texts of the system, of hiredis or OpenSSL, or the server's parting error reply.
  private static func reason(_ context: UnsafePointer<redisAsyncContext>?, _ session: OpaquePointer?) -> String? {
    // The context's copies of these two are not yet set in the connect callback.
    guard let connection = context?.pointee.c, connection.err != 0 else { return nil }
    let text = withUnsafeBytes(of: connection.errstr) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    if let session, SSL_is_init_finished(session) == 0, let refusal = CertificateRefusal.reason(of: session) {
      return refusal
    }
    switch connection.err {
    case REDIS_ERR_EOF: return closedByServer
    // hiredis before 1.0 has a bound of its own.
    case REDIS_ERR_PROTOCOL where text.hasPrefix("No support for nested"):
      return RedisEvents.Misconduct.tooLarge.rawValue
    case REDIS_ERR_PROTOCOL: return RedisEvents.notRedis
    case REDIS_ERR_OTHER: return RedisErrorReply(text).explanation
    // hiredis asks the kernel, which knows nothing of TLS.
    case REDIS_ERR_IO where session.map { SSL_is_init_finished($0) == 0 } ?? false: return "TLS refused"
    default:
      let prefix = "SSL_connect failed: "
      return (text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text).lowercasedASCII
    }
  }
}

extension String {
  /// For error texts of C libraries in the middle of a sentence.
  fileprivate var lowercasedASCII: String {
    String(decoding: utf8.map { $0 >= 65 && $0 <= 90 ? $0 + 32 : $0 }, as: UTF8.self)
  }
}
