// A server's clock as this process knows it: one reading, and the monotonic instant at which it arrived.
// Invariant: the estimate never runs ahead of the server's clock, for the reading was made before it arrived.

import Reactor

/// One reading of a server's clock, in units since 1970 that the owner names (Redis: ms, PostgreSQL: µs).
struct ClockSample: Sendable {
  let reading: Int64
  let arrivedAt: MonotonicInstant
  let unitsPerSecond: Int64

  /// The server's clock at `instant`, as far as this sample tells: early by the answer's way here.
  func estimate(at instant: MonotonicInstant) -> Int64 {
    let elapsedNanoseconds = arrivedAt.duration(to: instant).nanoseconds
    return reading + elapsedNanoseconds / (1_000_000_000 / unitsPerSecond)
  }
}
