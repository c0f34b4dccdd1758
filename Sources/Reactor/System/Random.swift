// Random numbers of the kernel's, fetched many at a time: an idle process should not enter the kernel for each.
// Invariant: no number is handed out twice. Used for tokens and for the jitter of waits.

import CReactor

/// Random numbers that nobody can guess.
@EventLoop
public enum Random {
  /// getentropy gives no more than 256 bytes at once.
  private static let fetchedCount = 256 / MemoryLayout<UInt64>.size

  private static var numbers: [UInt64] = []

  /// A number of 64 random bits.
  public static func number() -> UInt64 {
    if numbers.isEmpty { fetch() }
    return numbers.removeLast()
  }

  /// From 0 up to 1, without 1.
  public static func fraction() -> Double {
    Double(number() >> 11) * 0x1p-53
  }

  private static func fetch() {
    numbers = Array(repeating: 0, count: fetchedCount)
    let isFetched = numbers.withUnsafeMutableBytes { getentropy($0.baseAddress!, $0.count) == 0 }
    guard !isFetched else { return }
    // Kernels before 3.17 have no such call; the standard library then reads /dev/urandom.
    var generator = SystemRandomNumberGenerator()
    for index in numbers.indices { numbers[index] = generator.next() }
  }
}
