// How a replica counts a sweeper's slots: each answer in isolation, and thousands of random sequences of them.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SlotAccountingTests {
  static let grid = SlotGrid(sweeper: "wraps-expired", interval: .seconds(60))
  static let slot = grid.slot(at: 1_700_000_000_000)
  static let next = slot + 60_000

  static func run(_ slot: Int64) -> Run {
    Run(
      epoch: slot, slot: slot, nextSlot: slot + 60_000, failures: 0, origin: "o", token: "t",
      takenAt: MonotonicInstant(nanoseconds: 0))
  }

  /// One that has learned its grid.
  static func learned() -> SlotAccounting {
    var accounting = SlotAccounting(grid: grid)
    _ = accounting.answered(.idle(slot: slot - 60_000, due: slot), at: slot - 1_000)
    return accounting
  }

  @Test func theFirstTakeAfterBootCountsNothing() {
    var accounting = SlotAccounting(grid: Self.grid)
    let (counts, action) = accounting.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 1_000)
    #expect(counts == [])
    #expect(action == .wait(milliseconds: 59_000))
  }

  @Test func aSlotThatAnotherReplicaDidIsSkippedOnce() {
    var accounting = Self.learned()
    #expect(accounting.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 5).counts == [.skippedLock])
    #expect(accounting.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 900).counts == [])
    #expect(accounting.drained() == [])
  }

  @Test func aHeldSlotWaitsForTheShorterOfTheLeaseAndTheNextSlot() {
    var accounting = Self.learned()
    #expect(
      accounting.answered(.held(slot: Self.slot, remaining: 14_000), at: Self.slot + 10).action
        == .wait(milliseconds: 14_000))
    #expect(
      accounting.answered(.held(slot: Self.slot, remaining: 14_000), at: Self.next - 10).action
        == .wait(milliseconds: 10))
  }

  @Test func aHeldSlotThatThisReplicaRunsAfterAllIsNoSkip() {
    var accounting = Self.learned()
    #expect(accounting.answered(.held(slot: Self.slot, remaining: 14_000), at: Self.slot + 10).counts == [])
    let (counts, action) = accounting.answered(.taken(Self.run(Self.slot)), at: Self.slot + 14_020)
    #expect(counts == [])
    #expect(action == .run(Self.run(Self.slot)))
  }

  @Test func aHeldSlotThatEndsUnattendedIsASkipWhenTheNextOneBegins() {
    var accounting = Self.learned()
    #expect(accounting.answered(.held(slot: Self.slot, remaining: 90_000), at: Self.slot + 10).counts == [])
    #expect(accounting.answered(.held(slot: Self.next, remaining: 30_000), at: Self.next + 10).counts == [.skippedLock])
    #expect(accounting.drained() == [.skippedLock])
  }

  @Test func silenceOfRedisIsOneFailureASlot() {
    var accounting = Self.learned()
    #expect(accounting.unanswered(estimate: Self.slot + 5) == [.failure])
    #expect(accounting.unanswered(estimate: Self.slot + 2_000) == [])
    #expect(accounting.unanswered(estimate: Self.next + 5) == [.failure])
  }

  @Test func silenceFromTheStartIsOneFailureForEachSlotThatBeginsMeanwhile() {
    var accounting = SlotAccounting(grid: Self.grid)
    #expect(accounting.unanswered(estimate: Self.slot + 5_000) == [], "this one had begun before the replica booted")
    #expect(accounting.unanswered(estimate: Self.slot + 9_000) == [])
    for number in Int64(1)...6 {
      let slot = Self.slot + number * 60_000
      #expect(accounting.unanswered(estimate: slot + 5) == [.failure])
      #expect(accounting.unanswered(estimate: slot + 2_000) == [])
    }
  }

  @Test func aLockWithoutExpiryIsAFailureOnceItsSlotIsOver() {
    var accounting = Self.learned()
    let (counts, action) = accounting.answered(.stuck(slot: Self.slot), at: Self.slot + 10)
    #expect(counts == [])
    #expect(action == .wait(milliseconds: 59_990))
    #expect(accounting.answered(.stuck(slot: Self.next), at: Self.next + 10).counts == [.failure])
    #expect(
      accounting.answered(.idle(slot: Self.next, due: Self.next + 60_000), at: Self.next + 900).counts == [.skippedLock]
    )
  }

  @Test func aLockWithoutExpiryThatIsDeletedInTimeIsNoFailure() {
    var accounting = Self.learned()
    _ = accounting.answered(.stuck(slot: Self.slot), at: Self.slot + 10)
    #expect(accounting.answered(.taken(Self.run(Self.slot)), at: Self.slot + 900).counts == [])
    #expect(accounting.drained() == [])
  }

  @Test func aLockWithoutExpiryIsPolledEveryMinuteInALongSlot() {
    var accounting = SlotAccounting(grid: SlotGrid(sweeper: "discover-scheduler", interval: .seconds(3_600)))
    let now = accounting.grid.slot(at: Self.slot)
    #expect(accounting.answered(.stuck(slot: now), at: now).action == .wait(milliseconds: 60_000))
  }

  @Test func aLateTakeIsRepeatedOnceBeforeAWait() {
    var accounting = Self.learned()
    #expect(accounting.answered(.late, at: Self.slot).action == .askAgain)
    #expect(accounting.answered(.late, at: Self.slot).action == .wait(milliseconds: 1_000))
  }

  @Test func theFirstTakeAfterBootCountsNothingEvenIfItWasLate() {
    var accounting = SlotAccounting(grid: Self.grid)
    _ = accounting.answered(.late, at: Self.slot)
    #expect(accounting.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 1).counts == [])
  }

  @Test func slotsThatBeginAgainAfterAStepBackOfTheClockAreCountedAgain() {
    var accounting = Self.learned()
    _ = accounting.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 5)
    let earlier = Self.slot - 3_600_000
    #expect(accounting.answered(.idle(slot: earlier, due: earlier + 60_000), at: earlier + 5).counts == [.skippedLock])
    #expect(accounting.answered(.idle(slot: earlier, due: earlier + 60_000), at: earlier + 900).counts == [])
  }

  @Test func aPausedSlotIsCountedAsPaused() {
    var accounting = Self.learned()
    let (counts, action) = accounting.answered(
      .paused(slot: Self.slot, Pause(origin: "o", text: "1")), at: Self.slot + 100)
    #expect(counts == [.paused])
    #expect(action == .wait(milliseconds: 59_900))
  }

  /// The rule: each slot in which this replica asked and was answered, or asked in vain, is counted once; a run counts
  /// by itself.
  @Test func noOrderOfAnswersCountsASlotTwiceOrNotAtAll() {
    for seed in UInt64(0)..<5_000 {
      var random = SeededRandom(seed: seed)
      var accounting = Self.learned()
      var now = Self.slot
      var attended: Set<Int64> = []
      var runs: Set<Int64> = []
      var counted = 0
      for _ in 0..<60 {
        now += Int64.random(in: 1...40_000, using: &random)
        let slot = Self.grid.slot(at: now)
        switch Int.random(in: 0..<7, using: &random) {
        case 0: counted += accounting.answered(.idle(slot: slot, due: slot + 60_000), at: now).counts.count
        case 1: counted += accounting.answered(.held(slot: slot, remaining: 5_000), at: now).counts.count
        case 2: counted += accounting.answered(.paused(slot: slot, Pause(origin: "o", text: "1")), at: now).counts.count
        case 5: counted += accounting.answered(.stuck(slot: slot), at: now).counts.count
        case 3: counted += accounting.unanswered(estimate: now).count
        case 4: counted += accounting.answered(.settling(slot: slot, notBefore: now + 3_000), at: now).counts.count
        default:
          // One run a slot here: a retry would be counted by itself.
          guard !attended.contains(slot) else { continue }
          counted += accounting.answered(.taken(Self.run(slot)), at: now).counts.count
          runs.insert(slot)
        }
        attended.insert(slot)
      }
      counted += accounting.drained().count
      #expect(counted + runs.count == attended.count, "seed \(seed)")
    }
  }
}
