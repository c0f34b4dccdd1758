// The grid of slots: what must hold for every time and interval.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SlotGridTests {
  @Test func everyTimeLiesInItsSlotAndTheNextOneBeginsAfterIt() {
    for seed in UInt64(0)..<2_000 {
      var random = SeededRandom(seed: seed)
      let grid = SlotGrid(
        sweeper: "s\(seed)", interval: .milliseconds(Int64.random(in: 1...90_000_000, using: &random)))
      let time = Int64.random(in: -1_000_000...2_000_000_000_000, using: &random)
      #expect(grid.slot(at: time) <= time, "seed \(seed)")
      #expect(grid.slot(after: time) > time, "seed \(seed)")
      #expect(grid.slot(after: time) - grid.slot(at: time) == grid.intervalMilliseconds, "seed \(seed)")
      #expect(grid.slot(at: grid.slot(at: time)) == grid.slot(at: time), "seed \(seed)")
    }
  }

  @Test func theStableHashIsFNV1a() {
    // Test vectors of draft-eastlake-fnv-21, appendix C.
    #expect(StableHash.fnv1a("") == 0x811c_9dc5)
    #expect(StableHash.fnv1a("a") == 0xe40c_292c)
    #expect(StableHash.fnv1a("foobar") == 0xbf9c_f968)
  }
}
