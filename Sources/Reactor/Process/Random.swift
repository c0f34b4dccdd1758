// The kernel's random numbers, fetched in blocks because an idle process should not enter the kernel for each, or those
// of a generator with a seed.
// Invariant: no number is returned twice. Used for tokens and for jitter.

import CReactor

/// A source of random numbers. Like its clock, a component is given its source: in a simulation all numbers follow from
/// one seed.
@EventLoop
public final class Random {
  /// Unpredictable numbers.
  public static let system = Random()

  /// getentropy returns at most 256 bytes at once.
  private static let fetchedCount = 256 / MemoryLayout<UInt64>.size

  private var numbers: [UInt64] = []
  /// Nil for the kernel's numbers.
  private var generator: (any RandomNumberGenerator)?

  private init() {}

  /// The numbers of `generator`, for tests and simulations. They follow from its seed.
  public init(from generator: any RandomNumberGenerator) {
    self.generator = generator
  }

  /// 64 random bits.
  public func number() -> UInt64 {
    if generator != nil { return generator!.next() }
    if numbers.isEmpty { fetch() }
    return numbers.removeLast()
  }

  /// A number from 0 up to but not including 1.
  public func fraction() -> Double {
    Double(number() >> 11) * 0x1p-53
  }

  private func fetch() {
    numbers = Array(repeating: 0, count: Self.fetchedCount)
    let isFetched = numbers.withUnsafeMutableBytes { getentropy($0.baseAddress!, $0.count) == 0 }
    guard !isFetched else { return }
    // Kernels before 3.17 lack the call; the standard library then reads /dev/urandom.
    var generator = SystemRandomNumberGenerator()
    for index in numbers.indices { numbers[index] = generator.next() }
  }
}
