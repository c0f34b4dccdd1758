// What Redis answers, and what may go wrong, as values. Invariant: no text of an error names a host, a user, a password
// or an argument of a command. Made by RedisConnection from hiredis' replies.

import CReactor

/// One answer of Redis. Strings are bytes: Redis does not promise UTF-8.
public enum RedisValue: Sendable, Equatable {
  case null
  case integer(Int64)
  /// A short text of the protocol, such as "OK".
  case status(String)
  case string([UInt8])
  case array([RedisValue])
  /// An error inside of an array, as EXEC has it. On its own an error is thrown.
  case error(code: String, message: String)

  /// A string or status as text; nil for other values and for bytes that are no UTF-8.
  public var text: String? {
    switch self {
    case .status(let text): text
    case .string(let bytes): String(validating: bytes, as: UTF8.self)
    default: nil
    }
  }

  /// A string's or status' bytes.
  public var bytes: [UInt8]? {
    switch self {
    case .status(let text): Array(text.utf8)
    case .string(let bytes): bytes
    default: nil
    }
  }

  /// An integer, or a string that is one in decimal.
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

/// Why a command has no answer, in the terms that matter to who sent it: may Redis have executed it?
public enum RedisError: Error, Sendable, Equatable {
  /// Surely not executed: it never left this process.
  case notSent(String)
  /// It was sent, as far as this side can tell, and no answer came: executed, not executed, or executed later.
  case unknownOutcome(String)
  /// Redis refused it: NOAUTH, WRONGPASS, NOSCRIPT, READONLY, LOADING, OOM, ….
  case server(code: String, message: String)

  /// What may be shown to anyone, on a probe for instance.
  public var publicReason: String {
    switch self {
    case .notSent(let reason): reason
    case .unknownOutcome(let reason): "no answer: \(reason)"
    case .server(let code, let message): RedisErrorReply(code: code, message: message).explanation
    }
  }
}

extension RedisValue {
  /// What hiredis read, copied: the reply is freed when its callback returns.
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

  private static func bytes(of reply: redisReply) -> [UInt8] {
    guard let start = reply.str else { return [] }
    return Array(UnsafeRawBufferPointer(start: start, count: Int(reply.len)))
  }
}
