// A Lua script and its digest, by which Redis finds it again. Made once a script, at start.

import CReactor

/// A script for `RedisClient.evaluate`.
public struct RedisScript: Sendable {
  public let source: String
  /// The SHA-1 of the source in lower-case hexadecimal: the script's name on the server.
  public let sha1: String

  public init(_ source: String) {
    self.source = source
    var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
    var length: UInt32 = 0
    let bytes = Array(source.utf8)
    guard EVP_Digest(bytes, bytes.count, &digest, &length, EVP_sha1(), nil) == 1 else {
      fatalError("libcrypto has no SHA-1, so Redis' scripts have no names")
    }
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in digest[0..<Int(length)] {
      text.append(digits[Int(byte >> 4)])
      text.append(digits[Int(byte & 15)])
    }
    sha1 = String(decoding: text, as: UTF8.self)
  }
}
