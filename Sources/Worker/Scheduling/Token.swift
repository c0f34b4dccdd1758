// A lock's token: it identifies the holder. Invariant: tokens are unique, across processes too.

import Reactor

/// Random tokens of 128 bits, as 32 hexadecimal digits.
enum Token {
  @EventLoop
  static func random(_ source: Random) -> String {
    hex(source.number()) + hex(source.number())
  }

  private static func hex(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
  }
}
