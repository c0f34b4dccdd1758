// hiredis' wish to read and to write, on the loop, in place of its own adapter for libev: hiredis asserts that whatever
// arrives was asked for, and a peer that speaks unasked would end the process.
// Invariant: hiredis is made to read only where an answer is due, and never beyond a bound. Used by RedisConnection.

import CReactor

@EventLoop
final class RedisEvents {
  /// The most bytes that one string of an answer may take.
  static let stringByteLimit = 32 * 1024 * 1024
  /// The most bytes of all else, which is one line: hiredis looks for its end from the beginning each time.
  static let lineByteLimit = 64 * 1024
  /// The most elements that all arrays of an answer may have together.
  static let elementLimit = 65_536

  /// What ends a connection that keeps to hiredis' rules.
  enum Misconduct: String {
    case unasked = "an answer without a question"
    case tooLarge = "an answer beyond the limit"
  }

  private let context: UnsafeMutablePointer<redisAsyncContext>
  private let session: OpaquePointer?
  private let misconduct: @EventLoop (Misconduct) -> Void
  private var watcher: IOWatcher?
  private var interest: IOWatcher.Interest = []
  private let functions = UnsafeMutablePointer<redisReplyObjectFunctions>.allocate(capacity: 1)
  private let arrays = UnsafeMutablePointer<Arrays>.allocate(capacity: 1)

  /// What the functions in hiredis' place work with.
  private struct Arrays {
    let own: UnsafeMutablePointer<redisReplyObjectFunctions>
    /// Of the answer that is being read.
    var elementsLeft = 0
  }

  /// Serves `context`, which keeps this alive until it is freed. With TLS, `session` is its session.
  init(
    _ context: UnsafeMutablePointer<redisAsyncContext>, session: OpaquePointer?,
    misconduct: @escaping @EventLoop (Misconduct) -> Void
  ) {
    self.context = context
    self.session = session
    self.misconduct = misconduct
    watcher = IOWatcher { [weak self] ready in self?.isReady(ready) }
    context.pointee.ev.data = Unmanaged.passRetained(self).toOpaque()
    context.pointee.ev.addRead = { RedisEvents.of($0) { $0.want($0.interest.union(.read)) } }
    context.pointee.ev.delRead = { RedisEvents.of($0) { $0.want($0.interest.subtracting(.read)) } }
    context.pointee.ev.addWrite = { RedisEvents.of($0) { $0.want($0.interest.union(.write)) } }
    context.pointee.ev.delWrite = { RedisEvents.of($0) { $0.want($0.interest.subtracting(.write)) } }
    context.pointee.ev.cleanup = { data in
      RedisEvents.of(data) { $0.end() }
      if let data { Unmanaged<RedisEvents>.fromOpaque(data).release() }
    }
    boundArrays()
  }

  /// An array's elements are allocated as they come, which no look at the bytes that wait can bound: hiredis' functions
  /// that make its replies are used but for arrays beyond the limit.
  private func boundArrays() {
    guard let reader = context.pointee.c.reader, let own = reader.pointee.fn else { return }
    functions.initialize(to: own.pointee)
    functions.pointee.createArray = { task, count in
      // Without a reply hiredis ends the connection, as where memory is short.
      guard let task, let arrays = task.pointee.privdata?.assumingMemoryBound(to: Arrays.self) else { return nil }
      if task.pointee.parent == nil { arrays.pointee.elementsLeft = RedisEvents.elementLimit }
      guard count <= arrays.pointee.elementsLeft else { return nil }
      arrays.pointee.elementsLeft -= Int(count)
      return arrays.pointee.own.pointee.createArray(task, count)
    }
    arrays.initialize(to: Arrays(own: own))
    reader.pointee.privdata = UnsafeMutableRawPointer(arrays)
    reader.pointee.fn = functions
  }

  isolated deinit {
    functions.deallocate()
    arrays.deallocate()
  }

  private nonisolated static func of(_ data: UnsafeMutableRawPointer?, _ body: @EventLoop (RedisEvents) -> Void) {
    guard let data else { return }
    let events = Unmanaged<RedisEvents>.fromOpaque(data).takeUnretainedValue()
    EventLoop.assumeIsolated { body(events) }
  }

  private func want(_ interest: IOWatcher.Interest) {
    self.interest = interest
    watcher?.watch(context.pointee.c.fd, for: interest)
  }

  /// The context is being freed; its reader goes after this.
  private func end() {
    watcher?.stop()
    watcher = nil
    if let reader = context.pointee.c.reader, reader.pointee.fn == functions { reader.pointee.fn = arrays.pointee.own }
  }

  private func isReady(_ ready: IOWatcher.Interest) {
    if ready.contains(.read) {
      if isUnasked { return misconduct(.unasked) }
      redisAsyncHandleRead(context)
      // Freed meanwhile, where there is no watcher any more.
      if watcher != nil, isBeyondLimit { return misconduct(.tooLarge) }
    }
    if ready.contains(.write), watcher != nil { redisAsyncHandleWrite(context) }
  }

  /// Whether bytes have come while no answer is due. The end of the connection is for hiredis to find.
  private var isUnasked: Bool {
    guard context.pointee.replies.head == nil else { return false }
    var byte: UInt8 = 0
    if let session { return SSL_peek(session, &byte, 1) > 0 }
    return recv(context.pointee.c.fd, &byte, 1, Int32(MSG_PEEK)) > 0
  }

  /// Whether the last answer that is due has been read, and more than that has come. Asked in hiredis' reply callback.
  var isMoreThanAskedFor: Bool {
    context.pointee.replies.head == nil && waitingBytes > 0
  }

  private var isBeyondLimit: Bool {
    let waiting = waitingBytes
    guard waiting > Self.lineByteLimit, let reader = context.pointee.c.reader, let bytes = reader.pointee.buf else {
      return false
    }
    // A string's length stands before it, in a line of some 20 digits at most. What is a line itself has no end yet.
    let isString = memchr(bytes + Int(reader.pointee.pos), Int32(UInt8(ascii: "\n")), 32) != nil
    return !isString || waiting > Self.stringByteLimit
  }

  /// What was read and is no whole answer yet.
  private var waitingBytes: Int {
    guard let reader = context.pointee.c.reader else { return 0 }
    return Int(reader.pointee.len) - Int(reader.pointee.pos)
  }
}
