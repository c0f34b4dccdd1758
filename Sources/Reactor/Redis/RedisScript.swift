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
