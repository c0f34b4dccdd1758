// A Lua script and its digest, by which Redis finds it again. Made once a script, at start.

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

/// A script that has to succeed for the server to be well: one that does what the owner's commands do, in keys of its
/// own. Whether a server is there says nothing of whether it takes writes.
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
