// HMAC-SHA-256 and base64 by libcrypto: how a message is signed, and how bytes are written as text. Pure.

import CReactor

/// A keyed signature.
public enum HMACSHA256 {
  /// The 32 bytes of RFC 2104 with SHA-256.
  public static func signature(of message: [UInt8], key: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
    var length: UInt32 = 0
    guard HMAC(EVP_sha256(), key, Int32(key.count), message, message.count, &digest, &length) != nil else {
      preconditionFailure("libcrypto has no SHA-256")
    }
    return Array(digest[..<Int(length)])
  }
}

/// Base64 of RFC 4648, 4.
public enum Base64 {
  public static func text(_ bytes: [UInt8]) -> String {
    // Four characters for each three bytes begun, and the NUL that libcrypto ends them with.
    var characters = [UInt8](repeating: 0, count: (bytes.count + 2) / 3 * 4 + 1)
    let length = EVP_EncodeBlock(&characters, bytes, Int32(bytes.count))
    return String(decoding: characters[..<Int(length)], as: UTF8.self)
  }

  /// Nil where `text` is no base64 with its padding.
  public static func bytes(_ text: String) -> [UInt8]? {
    let characters = Array(text.utf8)
    guard characters.count % 4 == 0 else { return nil }
    let padding = characters.suffix(2).count { $0 == UInt8(ascii: "=") }
    // libcrypto tolerates blanks at both ends, and padding in the middle of nowhere.
    for (index, character) in characters.enumerated() {
      let isPadding = character == UInt8(ascii: "=")
      guard character > 0x20, isPadding == (index >= characters.count - padding) else { return nil }
    }
    var bytes = [UInt8](repeating: 0, count: characters.count / 4 * 3)
    let length = EVP_DecodeBlock(&bytes, characters, Int32(characters.count))
    return length < 0 ? nil : Array(bytes[..<(Int(length) - padding)])
  }
}
