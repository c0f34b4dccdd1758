// Points in time for all of the harness's recorders: microseconds of this machine's wall clock.
// Invariant: PostgreSQL, Redis and the harness run on one machine and share its clock, so moments are comparable.

import Foundation
import Reactor

/// A moment, in µs since 1970.
struct Moment: Comparable, Hashable, Sendable, CustomStringConvertible {
  var microseconds: Int64

  static var now: Moment {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Moment(microseconds: Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000)
  }

  init(microseconds: Int64) {
    self.microseconds = microseconds
  }

  init(milliseconds: Int64) {
    self.init(microseconds: milliseconds * 1_000)
  }

  /// Parses fractional seconds since 1970, as MONITOR writes them: "1700000000.123456".
  init?(seconds text: Substring) {
    let parts = text.split(separator: ".")
    guard parts.count == 2, parts[1].count == 6, let whole = Int64(parts[0]), let rest = Int64(parts[1]) else {
      return nil
    }
    self.init(microseconds: whole * 1_000_000 + rest)
  }

  var milliseconds: Int64 { microseconds / 1_000 }

  func advanced(by duration: Duration) -> Moment {
    Moment(microseconds: microseconds + duration.nanoseconds / 1_000)
  }

  func since(_ earlier: Moment) -> Duration {
    .microseconds(microseconds - earlier.microseconds)
  }

  static func < (left: Moment, right: Moment) -> Bool {
    left.microseconds < right.microseconds
  }

  /// The time of day in UTC, to the millisecond, as in logs.
  var description: String {
    let inDay = milliseconds % 86_400_000
    return String(
      format: "%02lld:%02lld:%02lld.%03lld", inDay / 3_600_000, inDay / 60_000 % 60, inDay / 1_000 % 60, inDay % 1_000)
  }
}

extension Duration {
  /// In seconds with two decimals, for display.
  var text: String { String(format: "%.2f s", seconds) }
}

/// Waits until this moment; returns at once if it has passed.
func sleep(until moment: Moment) async throws {
  let left = moment.since(.now)
  if left > .zero { try await Task.sleep(for: left) }
}
