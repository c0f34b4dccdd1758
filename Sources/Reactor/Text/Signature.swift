// HMAC-SHA-256 and base64 by libcrypto. Pure.

import CReactor

/// A keyed signature.
public enum HMACSHA256 {
  /// HMAC-SHA-256 (RFC 2104): 32 bytes.
  public static func signature(of message: [UInt8], key: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
    var length: UInt32 = 0
    guard HMAC(EVP_sha256(), key, Int32(key.count), message, message.count, &digest, &length) != nil else {
      preconditionFailure("libcrypto has no SHA-256")
    }
    return Array(digest[..<Int(length)])
  }
}

/// Base64 as in RFC 4648, section 4.
public enum Base64 {
  public static func text(_ bytes: [UInt8]) -> String {
    // Four characters for each started group of three bytes, and the NUL that libcrypto appends.
    var characters = [UInt8](repeating: 0, count: (bytes.count + 2) / 3 * 4 + 1)
    let length = EVP_EncodeBlock(&characters, bytes, Int32(bytes.count))
    return String(decoding: characters[..<Int(length)], as: UTF8.self)
  }

  /// Nil if `text` is not padded base64.
  public static func bytes(_ text: String) -> [UInt8]? {
    let characters = Array(text.utf8)
    guard characters.count % 4 == 0 else { return nil }
    let padding = characters.suffix(2).count { $0 == UInt8(ascii: "=") }
    // libcrypto accepts blanks at both ends and misplaced padding.
    for (index, character) in characters.enumerated() {
      let isPadding = character == UInt8(ascii: "=")
      guard character > 0x20, isPadding == (index >= characters.count - padding) else { return nil }
    }
    var bytes = [UInt8](repeating: 0, count: characters.count / 4 * 3)
    let length = EVP_DecodeBlock(&bytes, characters, Int32(characters.count))
    return length < 0 ? nil : Array(bytes[..<(Int(length) - padding)])
  }
}
