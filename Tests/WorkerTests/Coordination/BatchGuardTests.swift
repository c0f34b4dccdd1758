// How a batch gets permission to write, in isolation: the order of its steps, and its deadline on the server's clock.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct BatchGuardTests {
  static func at(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
  }

  static func sample(_ reading: Int64, at milliseconds: Int64) -> ClockSample {
    ClockSample(reading: reading, arrivedAt: at(milliseconds), unitsPerSecond: 1_000_000)
  }

  @Test func theServersClockIsReadFirstAndAgainWhenTheSampleIsOld() {
    var lease = Lease(duration: .seconds(300), takenAt: Self.at(0))
    let entry = BatchGuard()
    #expect(entry.next(at: Self.at(0), lease: &lease, sample: nil, isDraining: false) == .sample)
    let sample = Self.sample(0, at: 0)
    #expect(entry.next(at: Self.at(60_000), lease: &lease, sample: sample, isDraining: false) == .sample)
    #expect(entry.next(at: Self.at(59_000), lease: &lease, sample: sample, isDraining: false) != .sample)
  }

  @Test func nothingIsSentAfterTheLeaseOrWhileTheWorkerDrains() {
    var lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    let sample = Self.sample(0, at: 0)
    let entry = BatchGuard()
    #expect(entry.next(at: Self.at(13_500), lease: &lease, sample: sample, isDraining: false) == .stop(.leaseLost))
    #expect(entry.next(at: Self.at(1), lease: &lease, sample: sample, isDraining: true) == .stop(.drained))
  }

  @Test func aPredecessorIsEvictedAFewTimesAndThenTheRunGivesUp() {
    var lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    let sample = Self.sample(0, at: 0)
    var entry = BatchGuard()
    for pause in BatchGuard.evictionPauses {
      entry.contended()
      #expect(entry.next(at: Self.at(1), lease: &lease, sample: sample, isDraining: false) == .evict)
      entry.evicted()
      #expect(entry.next(at: Self.at(1), lease: &lease, sample: sample, isDraining: false) == .pause(pause))
      entry.paused()
    }
    entry.contended()
    #expect(entry.next(at: Self.at(1), lease: &lease, sample: sample, isDraining: false) == .stop(.superseded(by: nil)))
  }

  /// Both clocks may be slewed, each the other way.
  @Test func theDeadlineIsTakenEarlyByWhatTheClocksMayDrift() {
    var lease = Lease(duration: .seconds(15), takenAt: Self.at(30_000))
    #expect(lease.deadline(on: Self.sample(5_000_000, at: 0)) == 5_000_000 + 43_500_000 - 43_500)
  }

  @Test func aMachineThatWasSuspendedInMidRunGainsNoTime() {
    var lease = Lease(duration: .seconds(15), takenAt: Self.at(0))
    let before = lease.deadline(on: Self.sample(1_000_000, at: 1_000))
    // An hour on the server, a second here.
    #expect(lease.deadline(on: Self.sample(3_601_000_000, at: 2_000)) == before)
    lease.renewed(sentAt: Self.at(3_000))
    #expect(lease.deadline(on: Self.sample(3_602_000_000, at: 3_000)) > before)
  }
}
