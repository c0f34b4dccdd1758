// Connects hiredis to the loop, in place of its libev adapter: hiredis asserts that every reply was asked for, so an
// unsolicited reply would end the process. Invariant: hiredis reads only when an answer is due, and never beyond a
// bound. Used by RedisConnection.

import CReactor

@EventLoop
final class RedisEvents {
  /// The maximum size in bytes of all strings of an answer together.
  nonisolated static let answerByteLimit = 32 * 1024 * 1024
  /// The maximum length in bytes of a line: hiredis searches for its end from the beginning each time.
  nonisolated static let lineByteLimit = 64 * 1024
  /// The maximum number of elements in all arrays of an answer together.
  nonisolated static let elementLimit = 65_536
  /// The maximum depth of nested arrays, because freeing and copying recurse for each level.
  nonisolated static let depthLimit = 8

  typealias Misconduct = RedisConnectionFailure.Misconduct

  private let context: UnsafeMutablePointer<redisAsyncContext>
  private let session: OpaquePointer?
  private let misconduct: @EventLoop (Misconduct) -> Void
  private var watcher: IOWatcher?
  // Safe: used on the loop's thread, in hiredis' callbacks.
  private nonisolated(unsafe) var interest: IOWatcher.Interest = []
  private let functions = UnsafeMutablePointer<redisReplyObjectFunctions>.allocate(capacity: 1)
  private let budget = UnsafeMutablePointer<Budget>.allocate(capacity: 1)

  /// The state of the functions that replace hiredis' own.
  private struct Budget {
    let own: UnsafeMutablePointer<redisReplyObjectFunctions>
    /// Of the answer being read.
    var elementsLeft = RedisEvents.elementLimit
    var bytesLeft = RedisEvents.answerByteLimit
    /// An answer exceeded it.
    var isExceeded = false

    mutating func takeElements(_ count: Int, of task: redisReadTask) -> Bool {
      begin(task)
      isExceeded = isExceeded || count > elementsLeft || Self.depth(of: task) > RedisEvents.depthLimit
      elementsLeft -= isExceeded ? 0 : count
      return !isExceeded
    }

    mutating func takeBytes(_ count: Int, of task: redisReadTask) -> Bool {
      begin(task)
      isExceeded = isExceeded || count > bytesLeft
      bytesLeft -= isExceeded ? 0 : count
      return !isExceeded
    }

    private mutating func begin(_ task: redisReadTask) {
      guard task.parent == nil else { return }
      (elementsLeft, bytesLeft) = (RedisEvents.elementLimit, RedisEvents.answerByteLimit)
    }

    /// An array's nesting depth, itself included.
    private static func depth(of task: redisReadTask) -> Int {
      var (depth, parent) = (1, task.parent)
      while let above = parent, depth <= RedisEvents.depthLimit { (depth, parent) = (depth + 1, above.pointee.parent) }
      return depth
    }
  }

  /// Serves `context`, which keeps this alive until it is freed. With TLS, `session` is its session.
  init(
    _ context: UnsafeMutablePointer<redisAsyncContext>, session: OpaquePointer?,
    misconduct: @escaping @EventLoop (Misconduct) -> Void
  ) {
    self.context = context
    self.session = session
    self.misconduct = misconduct
    watcher = IOWatcher { [weak self] ready in self?.continueIO(ready) }
    context.pointee.ev.data = Unmanaged.passRetained(self).toOpaque()
    context.pointee.ev.addRead = { RedisEvents.want($0, adding: .read) }
    context.pointee.ev.delRead = { RedisEvents.want($0, removing: .read) }
    context.pointee.ev.addWrite = { RedisEvents.want($0, adding: .write) }
    context.pointee.ev.delWrite = { RedisEvents.want($0, removing: .write) }
    context.pointee.ev.cleanup = { data in
      RedisEvents.of(data) { $0.end() }
      if let data { Unmanaged<RedisEvents>.fromOpaque(data).release() }
    }
    boundAnswers()
  }

  /// hiredis allocates the parts of an answer as they arrive, so a bound on unread bytes does not bound them. Its own
  /// functions make them until the budget is spent; then none is made, and hiredis ends the connection as it does
  /// without memory.
  private func boundAnswers() {
    guard let reader = context.pointee.c.reader, let own = reader.pointee.fn else { return }
    functions.initialize(to: own.pointee)
    functions.pointee.createArray = { task, count in
      guard let task, let budget = task.pointee.privdata?.assumingMemoryBound(to: Budget.self),
        budget.pointee.takeElements(Int(count), of: task.pointee)
      else { return nil }
      return budget.pointee.own.pointee.createArray(task, count)
    }
    functions.pointee.createString = { task, bytes, count in
      guard let task, let budget = task.pointee.privdata?.assumingMemoryBound(to: Budget.self),
        budget.pointee.takeBytes(count, of: task.pointee)
      else { return nil }
      return budget.pointee.own.pointee.createString(task, bytes, count)
    }
    budget.initialize(to: Budget(own: own))
    reader.pointee.privdata = UnsafeMutableRawPointer(budget)
    reader.pointee.fn = functions
  }

  /// Whether the connection ends because an answer exceeded its budget.
  var isBudgetExceeded: Bool { budget.pointee.isExceeded }

  isolated deinit {
    functions.deallocate()
    budget.deallocate()
  }

  private nonisolated static func of(_ data: UnsafeMutableRawPointer?, _ body: @EventLoop (RedisEvents) -> Void) {
    guard let data else { return }
    let events = Unmanaged<RedisEvents>.fromOpaque(data).takeUnretainedValue()
    EventLoop.assumeIsolated { body(events) }
  }

  /// hiredis asks for reads after each read and each write: mostly nothing changes, which costs no closure.
  private nonisolated static func want(
    _ data: UnsafeMutableRawPointer?, adding added: IOWatcher.Interest = [], removing removed: IOWatcher.Interest = []
  ) {
    guard let data else { return }
    let events = Unmanaged<RedisEvents>.fromOpaque(data).takeUnretainedValue()
    let wanted = events.interest.union(added).subtracting(removed)
    guard wanted != events.interest else { return }
    events.interest = wanted
    EventLoop.assumeIsolated { events.watch() }
  }

  private func watch() {
    watcher?.watch(context.pointee.c.fd, for: interest)
  }

  /// The context is being freed; its reader is freed after this.
  private func end() {
    watcher?.stop()
    watcher = nil
    if let reader = context.pointee.c.reader, reader.pointee.fn == functions { reader.pointee.fn = budget.pointee.own }
  }

  /// The most reads in a row of bytes that TLS has already taken off the socket.
  private static let pendingReadLimit = 64

  private func continueIO(_ ready: IOWatcher.Interest) {
    if ready.contains(.read) {
      if isUnsolicited { return misconduct(.unsolicited) }
      var reads = 0
      repeat {
        clearErrors()
        redisAsyncHandleRead(context)
        // Without a watcher, the context was freed meanwhile.
        guard watcher != nil else { return }
        if isBeyondLimit { return misconduct(.tooLarge) }
        reads += 1
      } while reads < Self.pendingReadLimit && isPending
    }
    if ready.contains(.write) {
      clearErrors()
      redisAsyncHandleWrite(context)
    }
  }

  /// Errors that another library left in OpenSSL's queue would be taken for this connection's.
  func clearErrors() {
    if session != nil { creactor_clear_tls_errors() }
  }

  /// Whether TLS holds bytes that do not make the socket readable.
  private var isPending: Bool { session.map { SSL_pending($0) > 0 } ?? false }

  /// Whether bytes arrived while no answer is due. The end of the connection is left to hiredis.
  private var isUnsolicited: Bool {
    guard context.pointee.replies.head == nil else { return false }
    var byte: UInt8 = 0
    if let session {
      clearErrors()
      return SSL_peek(session, &byte, 1) > 0
    }
    return recv(context.pointee.c.fd, &byte, 1, Int32(MSG_PEEK)) > 0
  }

  /// Whether bytes follow the last answer that is due. Called in hiredis' reply callback.
  var hasSurplus: Bool {
    context.pointee.replies.head == nil && waitingBytes > 0
  }

  private var isBeyondLimit: Bool {
    let waiting = waitingBytes
    guard waiting > Self.lineByteLimit, let reader = context.pointee.c.reader, let bytes = reader.pointee.buf else {
      return false
    }
    // A string is preceded by its length, a line of at most about 20 digits. Anything else is a line without an end.
    let isString = memchr(bytes + Int(reader.pointee.pos), Int32(UInt8(ascii: "\n")), 32) != nil
    return !isString || waiting > (reader.pointee.ridx > 0 ? budget.pointee.bytesLeft : Self.answerByteLimit) + 32
  }

  /// The bytes read of an incomplete answer.
  private var waitingBytes: Int {
    guard let reader = context.pointee.c.reader else { return 0 }
    return Int(reader.pointee.len) - Int(reader.pointee.pos)
  }
}
