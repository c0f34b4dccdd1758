// A lock's token: proof of who holds it. Invariant: two tokens are never the same, in whichever process.

/// Random tokens of 128 bits, as 32 hexadecimal digits.
enum Token {
  static func random() -> String {
    var generator = SystemRandomNumberGenerator()
    return hex(generator.next()) + hex(generator.next())
  }

  private static func hex(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
  }
}
