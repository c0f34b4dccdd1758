// A server's clock as this process knows it: one reading, and the monotonic instant at which it arrived.
// Invariant: `earliest` is never ahead of the server's clock, because the reading was made before it arrived.

import Reactor

/// One reading of a server's clock since 1970, in the owner's unit (Redis: ms, PostgreSQL: µs).
package struct ClockSample: Sendable {
  /// The maximum drift between two clocks that are being slewed, in parts per million: adjtimex(2) slews one by 500.
  package static let driftPartsPerMillion: Int64 = 1_000

  package let reading: Int64
  package let arrivedAt: MonotonicInstant
  package let unitsPerSecond: Int64

  package init(reading: Int64, arrivedAt: MonotonicInstant, unitsPerSecond: Int64) {
    self.reading = reading
    self.arrivedAt = arrivedAt
    self.unitsPerSecond = unitsPerSecond
  }

  /// The server's clock at `instant`, estimated: it is early by the latency of the answer.
  package func estimate(at instant: MonotonicInstant) -> Int64 {
    reading + units(of: elapsedNanoseconds(at: instant))
  }

  /// A lower bound for the server's clock at `instant`: also early by what both clocks may have drifted.
  package func earliest(at instant: MonotonicInstant) -> Int64 {
    let elapsed = elapsedNanoseconds(at: instant)
    return reading + units(of: elapsed - elapsed / 1_000_000 * Self.driftPartsPerMillion)
  }

  private func elapsedNanoseconds(at instant: MonotonicInstant) -> Int64 {
    arrivedAt.duration(to: instant).nanoseconds
  }

  private func units(of nanoseconds: Int64) -> Int64 {
    nanoseconds / (1_000_000_000 / unitsPerSecond)
  }
}
