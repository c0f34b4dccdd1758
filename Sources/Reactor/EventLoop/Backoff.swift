// How long to wait before the next attempt: growing delays with jitter, as a pure struct.
// Invariant: no delay exceeds the cap. Used by reconnects and by retries of failed work.

/// Exponential backoff with jitter.
public struct Backoff: Sendable, Equatable {
  /// The first delay, before jitter.
  public var initial: Duration
  /// The factor by which each further delay grows.
  public var factor: Double
  /// The longest delay, jitter included.
  public var cap: Duration
  /// The jitter as a fraction of a delay: 0.2 moves it by up to 20% either way.
  public var jitter: Double
  /// Failures since the last `reset`.
  public private(set) var failures = 0

  public init(initial: Duration, factor: Double = 2, cap: Duration, jitter: Double) {
    precondition(initial > .zero && cap > .zero && factor >= 1 && jitter >= 0 && jitter < 1)
    self.initial = initial
    self.factor = factor
    self.cap = cap
    self.jitter = jitter
  }

  /// Counts a failure and returns how long to wait after it.
  ///
  /// - Parameter jitter: drawn anew for each delay, from 0 (the shortest delay of the range) up to 1 (the longest).
  public mutating func next(jitter: Double) -> Duration {
    failures += 1
    return delay(afterFailures: failures, jitter: jitter)
  }

  /// Called after a success: the next failure counts as the first.
  public mutating func reset() {
    failures = 0
  }

  /// How long to wait after this many failures in a row, at least one.
  ///
  /// The jitter of the longest delays ends at the cap, so that they are spread too.
  public func delay(afterFailures count: Int, jitter: Double) -> Duration {
    precondition(count >= 1 && (0...1).contains(jitter))
    let limit = cap.seconds / (1 + self.jitter)
    var seconds = initial.seconds
    // Ends at the cap, so the loop is short for any count.
    var step = 1
    while step < count && seconds < limit && factor > 1 {
      seconds *= factor
      step += 1
    }
    seconds = min(seconds, limit) * (1 + self.jitter * (2 * jitter - 1))
    return min(cap, .nanoseconds(Int64(seconds * 1e9)))
  }
}
