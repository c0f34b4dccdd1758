// When a table is read in full, in isolation: the promise for each page, across runs that fail, are late or lose state.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct FullPassTests {
  static let minute: Int64 = 60_000
  static let large = TableSize(pages: 50_000, file: 7)

  static func pass(_ record: String? = nil, promise: Duration = .seconds(900)) -> FullPass {
    FullPass(promise: promise, interval: .seconds(60), record: record)
  }

  /// What a run leaves that made a whole pass at `began`.
  static func wholePass(at began: Int64, took: Duration = .milliseconds(300)) -> String {
    var pass = pass()
    _ = pass.start(large, at: began)
    pass.reached(large.pages, after: took)
    pass.ended(file: large.file)
    return pass.record.text
  }

  @Test func aSmallTableIsReadWholeEveryTimeAndNothingIsKeptOfIt() {
    var pass = Self.pass()
    #expect(pass.start(TableSize(pages: FullPass.smallTablePages, file: 1), at: 5) == 0)
    #expect(!pass.isRecorded)
  }

  @Test func aLargeTableOfWhichNothingIsKnownIsReadAtOnce() {
    var pass = Self.pass()
    #expect(pass.start(Self.large, at: Self.minute) == 0)
    #expect(pass.isRecorded)
  }

  @Test func aPassIsDueSoEarlyThatAWholeTryMayFail() {
    let record = Self.wholePass(at: Self.minute)
    // 15 minutes less two intervals, twice the pass, and the slack.
    let due = Self.minute + 15 * Self.minute - 2 * Self.minute - 600 - 5_000
    var early = Self.pass(record)
    #expect(early.start(Self.large, at: due - 1) == nil)
    var onTime = Self.pass(record)
    #expect(onTime.start(Self.large, at: due) == 0)
  }

  @Test func aPassThatAnEarlierRunLeftGoesOnWhereItStopped() {
    var first = Self.pass()
    _ = first.start(Self.large, at: Self.minute)
    first.reached(20_000, after: .seconds(1))
    var second = Self.pass(first.record.text)
    #expect(second.start(Self.large, at: 2 * Self.minute) == 20_000)
    second.reached(Self.large.pages, after: .seconds(1))
    second.ended(file: Self.large.file)
    #expect(second.record.endedPassBegan == Self.minute)
    #expect(second.record.endedPassTook == 2_000)
  }

  /// Begun anew each time, a pass that each run cuts short would never reach the end of the table.
  @Test func aPassGoesOnWhereItWasLeftHoweverLongAgo() {
    var first = Self.pass()
    _ = first.start(Self.large, at: Self.minute)
    first.reached(20_000, after: .seconds(1))
    var second = Self.pass(first.record.text)
    #expect(second.start(Self.large, at: 20 * Self.minute) == 20_000)
    second.reached(Self.large.pages, after: .seconds(1))
    second.ended(file: Self.large.file)
    // Its first pages were read long ago: the next pass is due.
    #expect(second.start(Self.large, at: 21 * Self.minute) == 0)
  }

  @Test func aTableThatWasRewrittenIsReadFromItsBeginning() {
    var first = Self.pass()
    _ = first.start(Self.large, at: Self.minute)
    first.reached(20_000, after: .seconds(1))
    var second = Self.pass(first.record.text)
    #expect(second.start(TableSize(pages: 40_000, file: 8), at: 2 * Self.minute) == 0)
    var afterWhole = Self.pass(Self.wholePass(at: Self.minute))
    #expect(afterWhole.start(TableSize(pages: 40_000, file: 8), at: 2 * Self.minute) == 0)
  }

  @Test func aTableThatIsRewrittenUnderAPassHasNotBeenRead() {
    var first = Self.pass()
    _ = first.start(Self.large, at: Self.minute)
    first.reached(Self.large.pages, after: .seconds(1))
    first.ended(file: 8)
    var second = Self.pass(first.record.text)
    #expect(second.start(TableSize(pages: 40_000, file: 8), at: 2 * Self.minute) == 0)
  }

  @Test func aRecordFromTheFutureIsNone() {
    var pass = Self.pass(Self.wholePass(at: 10 * Self.minute))
    #expect(pass.start(Self.large, at: 9 * Self.minute) == 0)
  }

  @Test(arguments: ["", "1", "2 7 0 0 0 0 0", "1 7 0 0 0 0", "1 7 0 0 0 0 0 0", "1 7 -1 0 0 0 0", "1 7 a 0 0 0 0"])
  func whatIsNoRecordCountsAsNone(text: String) {
    #expect(FullPass.Record(text) == nil)
  }

  @Test func aRecordIsReadAsItWasWritten() {
    for seed in UInt64(0)..<500 {
      var random = SeededRandom(seed: seed)
      let record = FullPass.Record(
        file: Int.random(in: 0...4_294_967_295, using: &random),
        endedPassBegan: Int64.random(in: 0...4_000_000_000_000, using: &random),
        endedPassTook: Int64.random(in: 0...900_000, using: &random),
        began: Int64.random(in: 0...4_000_000_000_000, using: &random),
        took: Int64.random(in: 0...900_000, using: &random),
        nextPage: Int.random(in: 0...2_000_000_000, using: &random))
      #expect(FullPass.Record(record.text) == record, "seed \(seed)")
    }
  }

  /// The promise: between two looks at any page lies at most SB_WORKER_WRAPS_FULL_SWEEP, as long as of two runs in a
  /// row one succeeds and a pass does not take more than twice as long as the one before.
  @Test func noPageIsLeftForLongerThanWasPromised() {
    for seed in UInt64(0)..<300 {
      var random = SeededRandom(seed: seed)
      let interval = Int64.random(in: 5...300, using: &random) * 1_000
      let promise = interval * Int64.random(in: 4...30, using: &random)
      let passTime = Int64.random(in: 1...max(1, min(interval / 4, (promise - 3 * interval) / 8)), using: &random)
      var visits = [Int64](repeating: 0, count: 20)
      var record: String?
      var hasFailed = false
      var slot = Int64.random(in: 1_000_000...2_000_000, using: &random)
      for run in 0..<200 {
        // A slot's jitter; and now and then Redis forgets.
        var now = slot + Int64.random(in: 0...min(1_000, interval / 20), using: &random)
        if Int.random(in: 0..<40, using: &random) == 0 { record = nil }
        var pass = FullPass(promise: .milliseconds(promise), interval: .milliseconds(interval), record: record)
        let fails = !hasFailed && Int.random(in: 0..<4, using: &random) == 0
        hasFailed = fails
        slot += interval
        guard let start = pass.start(Self.large, at: now) else { continue }
        let factor = Double.random(in: 0.8...1.5, using: &random)
        let stop = fails ? Int.random(in: start...Self.large.pages, using: &random) : Self.large.pages
        let share = Int(Double(passTime) * factor) / visits.count
        for part in 0..<visits.count {
          let page = part * Self.large.pages / visits.count
          guard page >= start, page < stop else { continue }
          now += Int64(share)
          if run > 0, visits[part] > 0, now - visits[part] > promise {
            Issue.record("seed \(seed): page \(page) was left for \(now - visits[part]) of \(promise) ms")
            return
          }
          visits[part] = now
          pass.reached((part + 1) * Self.large.pages / visits.count, after: .milliseconds(share))
        }
        if !fails { pass.ended(file: Self.large.file) }
        record = pass.record.text
      }
    }
  }
}
