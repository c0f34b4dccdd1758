// The kernel's random numbers, fetched in blocks: an idle process should not enter the kernel for each.
// Invariant: no number is returned twice. Used for tokens and for jitter.

import CReactor

/// Unpredictable random numbers.
@EventLoop
public enum Random {
  /// getentropy returns at most 256 bytes at once.
  private static let fetchedCount = 256 / MemoryLayout<UInt64>.size

  private static var numbers: [UInt64] = []

  /// 64 random bits.
  public static func number() -> UInt64 {
    if numbers.isEmpty { fetch() }
    return numbers.removeLast()
  }

  /// A number from 0 up to but not including 1.
  public static func fraction() -> Double {
    Double(number() >> 11) * 0x1p-53
  }

  private static func fetch() {
    numbers = Array(repeating: 0, count: fetchedCount)
    let isFetched = numbers.withUnsafeMutableBytes { getentropy($0.baseAddress!, $0.count) == 0 }
    guard !isFetched else { return }
    // Kernels before 3.17 lack the call; the standard library then reads /dev/urandom.
    var generator = SystemRandomNumberGenerator()
    for index in numbers.indices { numbers[index] = generator.next() }
  }
}
