// What a replica does about a sweeper's slots: each answer by itself, and thousands of orders of them.

import Coordination
import TestSupport
import Testing

@testable import Worker

@Suite struct AttendanceTests {
  static let grid = SlotGrid(sweeper: "wraps-expired", interval: .seconds(60))
  static let slot = grid.slot(at: 1_700_000_000_000)
  static let next = slot + 60_000

  static func ticket(_ slot: Int64) -> RunTicket {
    RunTicket(epoch: slot, slot: slot, nextSlot: slot + 60_000, failures: 0, origin: "o")
  }

  /// An attendance that has learned its grid.
  static func learned() -> Attendance {
    var attendance = Attendance(grid: grid)
    _ = attendance.answered(.idle(slot: slot - 60_000, due: slot), at: slot - 1_000)
    return attendance
  }

  @Test func theFirstQuestionAfterBootCountsNothing() {
    var attendance = Attendance(grid: Self.grid)
    let (counts, action) = attendance.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 1_000)
    #expect(counts == [])
    #expect(action == .wait(milliseconds: 59_000))
  }

  @Test func aSlotThatAnotherReplicaDidIsSkippedOnce() {
    var attendance = Self.learned()
    #expect(attendance.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 5).counts == [.skippedLock])
    #expect(attendance.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 900).counts == [])
    #expect(attendance.drained() == [])
  }

  @Test func aHeldSlotWaitsForTheShorterOfTheLeaseAndTheNextSlot() {
    var attendance = Self.learned()
    #expect(
      attendance.answered(.held(slot: Self.slot, remaining: 14_000), at: Self.slot + 10).action
        == .wait(milliseconds: 14_000))
    #expect(
      attendance.answered(.held(slot: Self.slot, remaining: 14_000), at: Self.next - 10).action
        == .wait(milliseconds: 10))
  }

  @Test func aHeldSlotThatThisReplicaRunsAfterAllIsNoSkip() {
    var attendance = Self.learned()
    #expect(attendance.answered(.held(slot: Self.slot, remaining: 14_000), at: Self.slot + 10).counts == [])
    let (counts, action) = attendance.answered(.taken(Self.ticket(Self.slot)), at: Self.slot + 14_020)
    #expect(counts == [])
    #expect(action == .run(Self.ticket(Self.slot)))
  }

  @Test func aHeldSlotThatEndsUnattendedIsASkipWhenTheNextOneBegins() {
    var attendance = Self.learned()
    #expect(attendance.answered(.held(slot: Self.slot, remaining: 90_000), at: Self.slot + 10).counts == [])
    #expect(attendance.answered(.held(slot: Self.next, remaining: 30_000), at: Self.next + 10).counts == [.skippedLock])
    #expect(attendance.drained() == [.skippedLock])
  }

  @Test func silenceOfRedisIsOneFailureASlot() {
    var attendance = Self.learned()
    #expect(attendance.unanswered(estimate: Self.slot + 5) == [.failure])
    #expect(attendance.unanswered(estimate: Self.slot + 2_000) == [])
    #expect(attendance.unanswered(estimate: Self.next + 5) == [.failure])
  }

  @Test func silenceFromTheStartIsOneFailureForEachSlotThatBeginsMeanwhile() {
    var attendance = Attendance(grid: Self.grid)
    #expect(attendance.unanswered(estimate: Self.slot + 5_000) == [], "this one had begun before the replica booted")
    #expect(attendance.unanswered(estimate: Self.slot + 9_000) == [])
    for number in Int64(1)...6 {
      let slot = Self.slot + number * 60_000
      #expect(attendance.unanswered(estimate: slot + 5) == [.failure])
      #expect(attendance.unanswered(estimate: slot + 2_000) == [])
    }
  }

  @Test func aLockWithoutExpiryIsAFailureOnceItsSlotIsOver() {
    var attendance = Self.learned()
    let (counts, action) = attendance.answered(.stuck(slot: Self.slot), at: Self.slot + 10)
    #expect(counts == [])
    #expect(action == .wait(milliseconds: 59_990))
    #expect(attendance.answered(.stuck(slot: Self.next), at: Self.next + 10).counts == [.failure])
    #expect(
      attendance.answered(.idle(slot: Self.next, due: Self.next + 60_000), at: Self.next + 900).counts == [.skippedLock]
    )
  }

  @Test func aLockWithoutExpiryThatIsDeletedInTimeIsNoFailure() {
    var attendance = Self.learned()
    _ = attendance.answered(.stuck(slot: Self.slot), at: Self.slot + 10)
    #expect(attendance.answered(.taken(Self.ticket(Self.slot)), at: Self.slot + 900).counts == [])
    #expect(attendance.drained() == [])
  }

  @Test func aLockWithoutExpiryIsLookedAtEveryMinuteInALongSlot() {
    var attendance = Attendance(grid: SlotGrid(sweeper: "discover-scheduler", interval: .seconds(3_600)))
    let now = attendance.grid.slot(at: Self.slot)
    #expect(attendance.answered(.stuck(slot: now), at: now).action == .wait(milliseconds: 60_000))
  }

  @Test func aQuestionThatCameTooLateIsAskedAgainOnceBeforeItWaits() {
    var attendance = Self.learned()
    #expect(attendance.answered(.late, at: Self.slot).action == .askAgain)
    #expect(attendance.answered(.late, at: Self.slot).action == .wait(milliseconds: 1_000))
  }

  @Test func theFirstQuestionAfterBootCountsNothingAlsoWhereItCameTooLateAtFirst() {
    var attendance = Attendance(grid: Self.grid)
    _ = attendance.answered(.late, at: Self.slot)
    #expect(attendance.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 1).counts == [])
  }

  @Test func slotsThatBeginAgainAfterAStepBackOfTheClockAreCountedAgain() {
    var attendance = Self.learned()
    _ = attendance.answered(.idle(slot: Self.slot, due: Self.next), at: Self.slot + 5)
    let earlier = Self.slot - 3_600_000
    #expect(attendance.answered(.idle(slot: earlier, due: earlier + 60_000), at: earlier + 5).counts == [.skippedLock])
    #expect(attendance.answered(.idle(slot: earlier, due: earlier + 60_000), at: earlier + 900).counts == [])
  }

  @Test func aPausedSlotIsSkipped() {
    var attendance = Self.learned()
    let (counts, action) = attendance.answered(
      .paused(slot: Self.slot, Pause(origin: "o", text: "1")), at: Self.slot + 100)
    #expect(counts == [.skippedLock])
    #expect(action == .wait(milliseconds: 59_900))
  }

  /// The rule: each slot in which this replica asked and was answered, or asked in vain, is counted once; a run counts
  /// by itself.
  @Test func noOrderOfAnswersCountsASlotTwiceOrNotAtAll() {
    for seed in UInt64(0)..<5_000 {
      var random = SeededRandom(seed: seed)
      var attendance = Self.learned()
      var now = Self.slot
      var attended: Set<Int64> = []
      var runs: Set<Int64> = []
      var counted = 0
      for _ in 0..<60 {
        now += Int64.random(in: 1...40_000, using: &random)
        let slot = Self.grid.slot(at: now)
        switch Int.random(in: 0..<7, using: &random) {
        case 0: counted += attendance.answered(.idle(slot: slot, due: slot + 60_000), at: now).counts.count
        case 1: counted += attendance.answered(.held(slot: slot, remaining: 5_000), at: now).counts.count
        case 2: counted += attendance.answered(.paused(slot: slot, Pause(origin: "o", text: "1")), at: now).counts.count
        case 5: counted += attendance.answered(.stuck(slot: slot), at: now).counts.count
        case 3: counted += attendance.unanswered(estimate: now).count
        case 4: counted += attendance.answered(.settling(slot: slot, notBefore: now + 3_000), at: now).counts.count
        default:
          // One run a slot here: a retry would be counted by itself.
          guard !attended.contains(slot) else { continue }
          counted += attendance.answered(.taken(Self.ticket(slot)), at: now).counts.count
          runs.insert(slot)
        }
        attended.insert(slot)
      }
      counted += attendance.drained().count
      #expect(counted + runs.count == attended.count, "seed \(seed)")
    }
  }
}
