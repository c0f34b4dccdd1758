// A Lua script and the digest by which Redis finds it. Each is made once, at start.

/// A script for `RedisClient.evaluate`.
public struct RedisScript: Sendable {
  public let source: String
  /// The SHA-1 of the source in lower-case hexadecimal: the script's name on the server.
  public let sha1: String

  public init(_ source: String) {
    self.source = source
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in SHA1.digest(Array(source.utf8)) {
      text.append(digits[Int(byte >> 4)])
      text.append(digits[Int(byte & 15)])
    }
    sha1 = String(decoding: text, as: UTF8.self)
  }
}

/// A script that must succeed for the server to count as available. It does what the owner's commands do, on keys of
/// its own: a server that answers a PING may still refuse writes.
public struct RedisHealthCheck: Sendable {
  public let script: RedisScript
  public let keys: [String]
  public let arguments: [String]

  public init(script: RedisScript, keys: [String], arguments: [String] = []) {
    self.script = script
    self.keys = keys
    self.arguments = arguments
  }

  var commandByDigest: [String] { ["EVALSHA", script.sha1, String(keys.count)] + keys + arguments }
  var commandBySource: [String] { ["EVAL", script.source, String(keys.count)] + keys + arguments }
}
