// SHA-1 by libcrypto: for names that others derive in the same way (Redis scripts, version 5 UUIDs), never for
// security.

import CReactor

/// The SHA-1 digest (FIPS 180-4).
public enum SHA1 {
  /// The 20 bytes of the digest of `bytes`.
  public static func digest(_ bytes: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
    var length: UInt32 = 0
    guard EVP_Digest(bytes, bytes.count, &digest, &length, EVP_sha1(), nil) == 1 else {
      fatalError("libcrypto has no SHA-1")
    }
    return Array(digest[..<Int(length)])
  }
}
