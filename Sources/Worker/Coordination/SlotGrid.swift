// The fixed grid of due times: n × interval + an offset hashed from the sweeper's name, in ms of Redis's clock.
// Invariant: it depends on the name and the interval only, so every replica and every restart has the same slots.

import Reactor

/// The slots of one sweeper. A slot is identified by its start, in ms of Redis's clock since 1970.
package struct SlotGrid: Hashable, Sendable {
  package let intervalMilliseconds: Int64
  package let offsetMilliseconds: Int64

  package init(sweeper name: String, interval: Duration) {
    intervalMilliseconds = max(1, interval.milliseconds)
    offsetMilliseconds = Int64(StableHash.fnv1a(name)) % intervalMilliseconds
  }

  /// The start of the slot that contains `time`.
  package func slot(at time: Int64) -> Int64 {
    let phase = (time - offsetMilliseconds) % intervalMilliseconds
    return time - (phase < 0 ? phase + intervalMilliseconds : phase)
  }

  /// The start of the first slot after `time`.
  package func slot(after time: Int64) -> Int64 {
    slot(at: time) + intervalMilliseconds
  }
}

/// Hashes that are stable across processes and versions, unlike Swift's own.
package enum StableHash {
  /// FNV-1a, 32 bit (draft-eastlake-fnv-21, section 5).
  package static func fnv1a(_ text: String) -> UInt32 {
    text.utf8.reduce(0x811c_9dc5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
  }
}
