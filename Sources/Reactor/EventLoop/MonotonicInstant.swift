// Instants and durations in nanoseconds. Pure. Invariant: arithmetic saturates instead of overflowing.

/// A point on a monotonic clock, in nanoseconds.
public struct MonotonicInstant: InstantProtocol, Hashable, Sendable {
  public var nanoseconds: Int64

  public init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds
  }

  /// Later than any other instant: for a sleep that something else ends.
  public static var never: MonotonicInstant { MonotonicInstant(nanoseconds: .max) }

  /// The instant `duration` after this one, saturating at the ends of the clock. A duration may come from a server or a
  /// setting; the longest ones then simply never end.
  public func advanced(by duration: Duration) -> MonotonicInstant {
    let length = duration.nanoseconds
    let (sum, isBeyond) = nanoseconds.addingReportingOverflow(length)
    return MonotonicInstant(nanoseconds: isBeyond ? length < 0 ? .min : .max : sum)
  }

  public func duration(to other: MonotonicInstant) -> Duration {
    let (length, isBeyond) = other.nanoseconds.subtractingReportingOverflow(nanoseconds)
    return .nanoseconds(isBeyond ? self < other ? .max : .min : length)
  }

  public static func < (left: MonotonicInstant, right: MonotonicInstant) -> Bool {
    left.nanoseconds < right.nanoseconds
  }
}

extension Duration {
  /// Whole nanoseconds, rounded towards zero and saturated to 64 bits.
  public var nanoseconds: Int64 { count(perSecond: 1_000_000_000) }

  /// Whole milliseconds, in the same way.
  public var milliseconds: Int64 { count(perSecond: 1_000) }

  @inline(__always)
  private func count(perSecond: Int64) -> Int64 {
    let (seconds, attoseconds) = components
    let (whole, isBeyond) = seconds.multipliedReportingOverflow(by: perSecond)
    let (sum, isJustBeyond) = whole.addingReportingOverflow(attoseconds / (1_000_000_000_000_000_000 / perSecond))
    return isBeyond || isJustBeyond ? seconds < 0 ? .min : .max : sum
  }

  /// Seconds with their fraction.
  public var seconds: Double {
    let (seconds, attoseconds) = components
    return Double(seconds) + Double(attoseconds) * 1e-18
  }
}
