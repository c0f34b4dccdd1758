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
    case .server(let code, _): Self.explanation(of: code)
    }
  }

  /// An error reply's code and its message, cut before what it may quote.
  static func parse(_ reply: String) -> (code: String, message: String) {
    var code = ""
    for character in reply.unicodeScalars.prefix(codeLimit) {
      if character == " " { break }
      guard (character >= "A" && character <= "Z") || character == "_" else { return ("ERR", "refused") }
      code.unicodeScalars.append(character)
    }
    // Users and arguments of commands occur in these ones' messages.
    if code.isEmpty || code == "NOPERM" || code == "WRONGPASS" { return (code.isEmpty ? "ERR" : code, "refused") }
    var message = ""
    for character in reply.unicodeScalars.dropFirst(code.count + 1).prefix(messageLimit) {
      guard character >= " ", character != "'", character != "`", character != "\"" else { break }
      message.unicodeScalars.append(character)
    }
    return (code, message)
  }

  /// What an error code means to an operator.
  static func explanation(of code: String) -> String {
    switch code {
    case "NOAUTH": "a password is required (NOAUTH)"
    case "WRONGPASS": "user or password refused (WRONGPASS)"
    case "NOPERM": "the user may not do this (NOPERM)"
    case "LOADING": "the server is loading its data (LOADING)"
    case "MASTERDOWN": "the replica has lost its master (MASTERDOWN)"
    case "READONLY": "the server is a read-only replica (READONLY)"
    case "OOM": "the server is out of memory (OOM)"
    default: "the server answered \(code)"
    }
  }

  /// After these answers another connection, to another address perhaps, is the way on.
  static func asksForAnotherConnection(_ code: String) -> Bool {
    code == "READONLY" || code == "LOADING" || code == "MASTERDOWN"
  }

  private static let codeLimit = 32
  private static let messageLimit = 200
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
      let (code, message) = RedisError.parse(String(decoding: Self.bytes(of: reply), as: UTF8.self))
      self = .error(code: code, message: message)
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
