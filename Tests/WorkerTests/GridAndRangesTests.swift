// The grid of slots and the ranges of pages: what must hold for every time, interval and size.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct GridAndRangesTests {
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

  @Test func theRangesCoverEveryPageOnce() {
    for seed in UInt64(0)..<200 {
      var random = SeededRandom(seed: seed)
      var ranges = PageRanges()
      let tablePages = Int.random(in: 0...20_000, using: &random)
      var covered = 0
      while let range = ranges.next {
        guard range.lowerBound == covered, range.count <= PageRanges.limits.upperBound else {
          Issue.record("seed \(seed): \(range) after \(covered)")
          return
        }
        covered = range.upperBound
        ranges.measured(pages: tablePages)
        ranges.swept(range, in: .milliseconds(Int.random(in: 0...50, using: &random)))
      }
      #expect(covered >= tablePages, "seed \(seed)")
    }
  }

  @Test func aRangeShrinksWhereATransactionTookLongAndGrowsWhereItWasShort() {
    var ranges = PageRanges()
    ranges.measured(pages: 1_000_000)
    ranges.swept(0..<64, in: .milliseconds(5))
    #expect(ranges.next?.count == 128)
    ranges.swept(64..<192, in: .milliseconds(80))
    #expect(ranges.next?.count == 64)
    ranges.swept(192..<256, in: .milliseconds(20))
    #expect(ranges.next?.count == 64)
  }
}
