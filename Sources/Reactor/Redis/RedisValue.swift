// Redis's answers and errors, as values. Invariant: no error's text names a host, a user, a password or an argument of
// a command. Made by RedisConnection from hiredis' replies.

import CReactor

/// An answer of Redis. Strings are bytes, because Redis does not guarantee UTF-8.
public enum RedisValue: Sendable, Equatable {
  case null
  case integer(Int64)
  /// A short text of the protocol, such as "OK".
  case status(String)
  case string([UInt8])
  case array([RedisValue])
  /// An error inside an array, as in EXEC's answer. An error on its own is thrown.
  case error(code: String, message: String)

  /// A string or status as text; nil for other values and for invalid UTF-8.
  public var text: String? {
    switch self {
    case .status(let text): text
    case .string(let bytes): String(validating: bytes, as: UTF8.self)
    default: nil
    }
  }

  /// The same, with what is no UTF-8 replaced.
  public var repairedText: String? { bytes.map { String(decoding: $0, as: UTF8.self) } }

  /// The bytes of a string or status; nil for other values.
  public var bytes: [UInt8]? {
    switch self {
    case .status(let text): Array(text.utf8)
    case .string(let bytes): bytes
    default: nil
    }
  }

  /// An integer, or a string that is a decimal integer; nil for other values.
  public var integer: Int64? {
    if case .integer(let number) = self { return number }
    return text.flatMap { Int64($0) }
  }

  public var array: [RedisValue]? {
    if case .array(let elements) = self { return elements }
    return nil
  }

  public var isNull: Bool { self == .null }

  /// Whether this is the status "OK".
  public var isOK: Bool { self == .status("OK") }
}

/// Why a command has no answer. The case says whether Redis may have executed it.
public enum RedisError: Error, Sendable, Equatable {
  /// Not executed: it never left this process.
  case notSent(String)
  /// It may have been sent, and no answer came: it may have been executed, or may still be.
  case unknownOutcome(String)
  /// Redis refused it: NOAUTH, WRONGPASS, NOSCRIPT, READONLY, LOADING, OOM, ….
  case server(code: String, message: String)

  /// The reason, in words that may be shown to anyone, for example on a probe.
  public var publicReason: String {
    switch self {
    case .notSent(let reason): reason
    case .unknownOutcome(let reason): "no answer: \(reason)"
    case .server(let code, let message): RedisErrorReply(code: code, message: message).explanation
    }
  }
}

extension RedisValue {
  /// Copies a reply, which hiredis frees when its callback returns.
  init(_ reply: redisReply) {
    switch reply.type {
    case REDIS_REPLY_NIL:
      self = .null
    case REDIS_REPLY_INTEGER:
      self = .integer(reply.integer)
    case REDIS_REPLY_STATUS:
      self = .status(String(decoding: Self.bytes(of: reply), as: UTF8.self))
    case REDIS_REPLY_ERROR:
      let error = RedisErrorReply(
        String(decoding: Self.bytes(of: reply).prefix(RedisErrorReply.byteLimit), as: UTF8.self))
      self = .error(code: error.code, message: error.message)
    case REDIS_REPLY_ARRAY:
      var elements: [RedisValue] = []
      elements.reserveCapacity(Int(reply.elements))
      for index in 0..<Int(reply.elements) {
        elements.append(reply.element[index].map { RedisValue($0.pointee) } ?? .null)
      }
      self = .array(elements)
    default:
      self = .string(Self.bytes(of: reply))
    }
  }

  /// A MOVED or ASK with the slot and the address, which other error values leave out; nil for other replies.
  init?(redirect reply: redisReply) {
    let text = String(decoding: Self.bytes(of: reply).prefix(RedisErrorReply.byteLimit), as: UTF8.self)
    guard let code = ["MOVED", "ASK"].first(where: { text.hasPrefix($0 + " ") }) else { return nil }
    self = .error(code: code, message: String(text.dropFirst(code.count + 1)))
  }

  private static func bytes(of reply: redisReply) -> [UInt8] {
    guard let start = reply.str else { return [] }
    return Array(UnsafeRawBufferPointer(start: start, count: Int(reply.len)))
  }
}
