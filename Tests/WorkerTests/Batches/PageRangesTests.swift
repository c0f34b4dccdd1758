// Page ranges in isolation: what must hold for every table and every duration.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct PageRangesTests {
  @Test func theRangesCoverEveryPageOnce() {
    for seed in UInt64(0)..<500 {
      var random = SeededRandom(seed: seed)
      var ranges = PageRanges()
      let tablePages = Int.random(in: 0...40_000, using: &random)
      var covered = 0
      while let range = ranges.next {
        guard range.lowerBound == covered, !range.isEmpty, range.count <= PageRanges.limits.upperBound else {
          Issue.record("seed \(seed): \(range) after \(covered)")
          return
        }
        covered = range.upperBound
        ranges.measured(pages: tablePages)
        ranges.swept(range, in: .microseconds(Int.random(in: 0...60_000, using: &random)))
      }
      #expect(covered >= tablePages, "seed \(seed)")
    }
  }

  /// The clock may stop a batch anywhere, rows may stay locked, statements may be cancelled: every page is passed once
  /// all the same, and none is passed before its rows were either changed or left to the next run.
  @Test func noOrderOfTroublesLeavesAPageOutOrGoesInCircles() {
    for seed in UInt64(0)..<2_000 {
      var random = SeededRandom(seed: seed)
      var ranges = PageRanges()
      ranges.measured(pages: Int.random(in: 1...3_000, using: &random))
      var passed = 0
      var steps = 0
      while let range = ranges.next {
        steps += 1
        guard range.lowerBound == passed, steps < 20_000 else {
          Issue.record("seed \(seed): \(range) after \(passed), step \(steps)")
          return
        }
        let duration = Duration.microseconds(Int.random(in: 100...90_000, using: &random))
        switch ranges.skipsLocked ? 9 : Int.random(in: 0..<10, using: &random) {
        case 0: ranges.stayedLocked(range)
        case 1: _ = ranges.shrink(range)
        case 2...4:
          let page = Int.random(in: range, using: &random)
          ranges.stopped(range, at: page, changed: Int.random(in: 0...1, using: &random), in: duration)
          passed = page
        default:
          ranges.swept(range, changed: Int.random(in: 0...(20 * range.count), using: &random), in: duration)
          passed = range.upperBound
        }
      }
    }
  }

  @Test func theNextRangeIsAsLargeAsTheGoalAllowsByTheLastOnesTime() {
    var ranges = PageRanges()
    ranges.measured(pages: 1_000_000)
    ranges.swept(0..<64, in: .milliseconds(10))
    #expect(ranges.next?.count == 160)
    ranges.swept(64..<224, in: .milliseconds(50))
    #expect(ranges.next?.count == 80)
    ranges.swept(224..<304, in: .microseconds(100))
    #expect(ranges.next?.count == 320)
    ranges.swept(304..<624, in: .seconds(3))
    #expect(ranges.next?.count == 80)
  }

  @Test func aRangeThatTheClockStoppedIsTakenUpAtThePageWhereItStopped() {
    var ranges = PageRanges()
    ranges.measured(pages: 100_000)
    ranges.stopped(0..<64, at: 10, changed: 400, in: .milliseconds(40))
    #expect(ranges.next == 10..<16)
    #expect(!ranges.skipsLocked)
  }

  @Test func aRangeThatWasStoppedByALockIsDoneAgainWithoutWaiting() {
    var ranges = PageRanges()
    ranges.measured(pages: 100_000)
    ranges.stopped(0..<64, at: 0, changed: 0, in: .milliseconds(200))
    #expect(ranges.skipsLocked)
    ranges = PageRanges()
    ranges.measured(pages: 100_000)
    ranges.stayedLocked(0..<20)
    var skipping: [Range<Int>] = []
    while ranges.skipsLocked, let range = ranges.next {
      skipping.append(range)
      ranges.swept(range, in: .milliseconds(1))
    }
    #expect(skipping == [0..<8, 8..<16, 16..<20])
    #expect(ranges.next == 20..<84)
  }

  @Test func aStatementThatTookTooLongIsTriedWithFewerPagesUntilThereIsOne() {
    var ranges = PageRanges()
    ranges.measured(pages: 100_000)
    var sizes: [Int] = []
    while let range = ranges.next {
      sizes.append(range.count)
      if !ranges.shrink(range) { break }
    }
    #expect(sizes == [64, 16, 4, 1])
  }

  @Test func fullPagesAreDoneInPartsAndOthersByTheClockForEveryRow() {
    var ranges = PageRanges()
    ranges.measured(pages: 100_000)
    #expect(ranges.partCount == 1)
    ranges.swept(0..<64, changed: 64 * PageRanges.fullPageRows, in: .milliseconds(10))
    #expect(ranges.partCount == PageRanges.parts)
    ranges.stayedLocked(64..<224)
    #expect(ranges.partCount == 1)
    ranges.go(to: 224)
    ranges.swept(224..<384, changed: 160 * PageRanges.fullPageRows - 1, in: .milliseconds(10))
    #expect(ranges.partCount == 1)
    // Too few pages to be parted.
    ranges.swept(384..<385, changed: 200, in: .seconds(1))
    #expect(ranges.partCount == 1)
  }

  @Test func thePartsOfARangeAreAllOfItOneAfterTheOther() {
    for pages in PageRanges.parts..<50 {
      let parts = PageRanges.parts(of: 7..<(7 + pages), count: PageRanges.parts)
      #expect(parts.flatMap { Array($0) } == Array(7..<(7 + pages)))
      #expect(parts.allSatisfy { !$0.isEmpty })
    }
  }

  @Test(
    arguments: [
      ([5, 5, 5, 5], 40, nil), ([5, 5, 0, 0], 20, nil), ([5, 5, 0, 0], 40, 50), ([0, 0, 5, 0], 40, 75),
      ([0, 0, 0, 0], 40, 0),
    ] as [([Int], Int, Int?)])
  func aRangeInPartsIsTakenUpBehindItsLastChangeWhereTheTimeWasOver(
    changes: [Int], milliseconds: Int, page: Int?
  ) {
    #expect(PageRanges.stop(of: 0..<100, changes: changes, in: .milliseconds(milliseconds)) == page)
  }

  @Test func aRangeOfWhichNoPartWasBegunIsDoneWithoutPartsNext() {
    var ranges = PageRanges()
    ranges.measured(pages: 100_000)
    ranges.swept(0..<64, changed: 64 * 20, in: .milliseconds(10))
    ranges.stopped(64..<224, at: 64, changed: 0, in: .milliseconds(40))
    #expect(ranges.partCount == 1 && !ranges.skipsLocked && ranges.next?.lowerBound == 64)
  }
}
