// The lease's state machine in isolation: its invariant under thousands of random sequences of events.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct LeaseTests {
  static func at(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
  }

  @Test func aFreshLeaseIsRenewedAfterAThirdOfItsLength() {
    let lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    #expect(lease.action(at: Self.at(0)) == .wait(until: Self.at(5_000)))
    #expect(lease.action(at: Self.at(5_000)) == .renew)
  }

  @Test func theMarginIsHalfASecondOrATenthOfTheLease() {
    #expect(Lease.margin(of: .seconds(3)) == .milliseconds(500))
    #expect(Lease.margin(of: .seconds(15)) == .milliseconds(1_500))
  }

  @Test func aLeaseThatIsNeverRenewedStopsAMarginBeforeItsEnd() {
    let lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    #expect(lease.action(at: Self.at(13_499)) == .renew)
    #expect(lease.action(at: Self.at(13_500)) == .stop)
  }

  @Test func aRefusedRenewalStopsTheRunAtOnce() {
    var lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    lease.refused()
    #expect(lease.action(at: Self.at(1)) == .stop)
  }

  @Test func anUnansweredRenewalIsRepeatedAndChangesNoDeadline() {
    var lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    lease.unanswered(at: Self.at(7_000))
    #expect(lease.action(at: Self.at(7_000)) == .wait(until: Self.at(7_250)))
    #expect(lease.stopAt == Self.at(13_500))
  }

  /// The rule: Redis lets the lock expire a lease after it *executed* a take or renewal, which is after it was sent; at
  /// no such moment may the holder still believe that it holds the lock.
  @Test func noOrderOfEventsLetsAHolderWriteAfterItsLockMayExpire() {
    for seed in UInt64(0)..<5_000 {
      var random = SeededRandom(seed: seed)
      let duration = Int64.random(in: 3_000...60_000, using: &random)
      var now: Int64 = 0
      var lease = Lease(duration: .milliseconds(duration), takenAt: Self.at(0))
      // Redis executed the take at the latest possible moment that still counts against us: when it was sent.
      var expiresAtEarliest = duration
      for _ in 0..<40 {
        now += Int64.random(in: 0...duration / 3, using: &random)
        switch lease.action(at: Self.at(now)) {
        case .stop: break
        case .wait(let until):
          if until <= Self.at(now) { Issue.record("seed \(seed): waits until the past") }
        case .renew:
          let sentAt = now
          now += Int64.random(in: 0...duration / 2, using: &random)
          switch Int.random(in: 0..<4, using: &random) {
          case 0: lease.unanswered(at: Self.at(now))
          case 1: lease.refused()
          default:
            lease.renewed(sentAt: Self.at(sentAt))
            expiresAtEarliest = max(expiresAtEarliest, sentAt + duration)
          }
        }
        if lease.isHeld(at: Self.at(now)), now > expiresAtEarliest - 500 {
          Issue.record("seed \(seed): holds at \(now), may expire at \(expiresAtEarliest)")
        }
      }
    }
  }
}
