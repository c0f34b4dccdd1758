// Why a Redis connection ended, or could not be made. Invariant: decisions depend on the case, never on its text. Used
// by RedisConnection, RedisClient and RedisTrial.

import CReactor

enum RedisConnectionFailure: Error, Equatable, Sendable {
  /// How the peer ended the connection, without saying why.
  enum Closing: String, CaseIterable {
    case endOfStream = "the server closed the connection"
    case reset = "connection reset by peer"
    case brokenPipe = "broken pipe"

    fileprivate var code: Int32? {
      switch self {
      case .endOfStream: nil
      case .reset: ECONNRESET
      case .brokenPipe: EPIPE
      }
    }
  }

  /// What a peer must not send.
  enum Misconduct: String {
    case unsolicited = "unsolicited reply"
    case tooLarge = "an answer beyond the limit"
    case notRedis = "not the Redis protocol"
  }

  /// Nothing listens at the address (ECONNREFUSED).
  case refused
  case closed(Closing)
  case misconduct(Misconduct)
  /// An answer or the connection did not come in time.
  case timedOut
  /// The server refused the user or the password, or requires a password; in words that may be shown to anyone.
  case loginRefused(String)
  /// The client was stopped.
  case stopped
  /// Any other cause, in words that may be shown to anyone.
  case other(String)

  /// From hiredis' copy of the system's error text: hiredis keeps no errno.
  init(systemText text: String) {
    func isText(of code: Int32) -> Bool { text == String(cString: strerror(code)) }
    if isText(of: ECONNREFUSED) {
      self = .refused
    } else if let closing = Closing.allCases.first(where: { $0.code.map(isText(of:)) ?? false }) {
      self = .closed(closing)
    } else {
      self = .other(text.lowercasedASCII)
    }
  }

  /// The cause in words that may be shown to anyone.
  var reason: String {
    switch self {
    case .refused: "connection refused"
    case .closed(let closing): closing.rawValue
    case .misconduct(let misconduct): misconduct.rawValue
    case .timedOut: "timed out"
    case .stopped: "stopped"
    case .loginRefused(let reason), .other(let reason): reason
    }
  }

  var isMisconduct: Bool {
    if case .misconduct = self { true } else { false }
  }

  var isLoginRefused: Bool {
    if case .loginRefused = self { true } else { false }
  }

  var isClosing: Bool {
    if case .closed = self { true } else { false }
  }
}

extension String {
  /// For error texts of C libraries in the middle of a sentence.
  fileprivate var lowercasedASCII: String {
    String(decoding: utf8.map { $0 >= 65 && $0 <= 90 ? $0 + 32 : $0 }, as: UTF8.self)
  }
}
