// The pace in isolation, and a run's waits in virtual time.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct PacingTests {
  private let start = MonotonicInstant(nanoseconds: 0)

  private func at(_ milliseconds: Int64) -> MonotonicInstant { start.advanced(by: .milliseconds(milliseconds)) }

  @Test func atFullPaceNoBatchWaits() {
    var pacing = Pacing(.full)
    pacing.worked(from: at(0), until: at(30), serverTime: .milliseconds(25))
    #expect(pacing.nextBatch(rows: 1_000) == nil)
    #expect(pacing.rowLimit == nil)
  }

  @Test func aPartOfTheTimeCountsFromTheBatchsBeginning() {
    var pacing = Pacing(.onePart(of: 4))
    #expect(pacing.nextBatch(rows: 0) == nil)
    pacing.worked(from: at(0), until: at(25), serverTime: .milliseconds(25))
    #expect(pacing.nextBatch(rows: 1_000) == at(100))
    // Asked again without a batch, it has nothing to make up for.
    #expect(pacing.nextBatch(rows: 0) == nil)
  }

  @Test func severalBatchesBetweenTwoWaitsAreMadeUpForTogether() {
    var pacing = Pacing(.onePart(of: 2))
    pacing.worked(from: at(0), until: at(20), serverTime: .milliseconds(20))
    pacing.worked(from: at(20), until: at(50), serverTime: .milliseconds(30))
    #expect(pacing.nextBatch(rows: 10) == at(100))
  }

  @Test func theWayToTheServerIsNoWorkAndTheCommitIs() {
    var pacing = Pacing(.onePart(of: 10))
    pacing.worked(from: at(0), until: at(105), serverTime: .milliseconds(20))
    #expect(pacing.nextBatch(rows: 1) == at(200))
    // A commit of 15 ms.
    pacing.worked(from: at(1_000), until: at(1_120), serverTime: .milliseconds(20))
    #expect(pacing.nextBatch(rows: 1) == at(1_350))
  }

  @Test func aBatchThatFailedIsWork() {
    var pacing = Pacing(.onePart(of: 2))
    pacing.worked(from: at(0), until: at(1_000), serverTime: nil)
    #expect(pacing.nextBatch(rows: 0) == at(2_000))
  }

  @Test func aRateIsKeptBatchByBatch() {
    var pacing = Pacing(.rate(5_000))
    #expect(pacing.rowLimit == 1_250)
    pacing.worked(from: at(0), until: at(25), serverTime: .milliseconds(25))
    #expect(pacing.nextBatch(rows: 1_250) == at(250))
    pacing.worked(from: at(250), until: at(260), serverTime: .milliseconds(10))
    #expect(pacing.nextBatch(rows: 0) == at(250))
    #expect(Pacing(.rate(1)).rowLimit == 1)
  }

  @EventLoop
  private func brakes(_ clock: LoopClock, _ draining: Latch, rows: Int? = nil, pace: Pace = .full) -> SweepBrakes {
    var settings = BrakeSettings()
    settings.maximumRows = rows
    settings.pace = pace
    return SweepBrakes(settings, every: .seconds(60), clock: clock, draining: draining)
  }

  @Test func aRunWaitsBetweenItsBatchesAndHandsOverAfterOneInterval() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let brakes = self.brakes(clock, Latch(), pace: .onePart(of: 4))
      let begin = clock.now
      var batches = 0
      while try await brakes.wait(changed: batches) {
        let sentAt = clock.now
        try await clock.sleep(for: .seconds(1))
        brakes.worked(from: sentAt, serverTime: .seconds(1))
        batches += 1
      }
      #expect(batches == 15)
      // The wait that would have ended with the interval was not begun.
      #expect(begin.duration(to: clock.now) == .seconds(57))
    }
  }

  @Test func aShutdownEndsTheWaitAtOnce() async throws {
    try await onLoop {
      let clock = LoopClock.virtual()
      let draining = Latch()
      let brakes = self.brakes(clock, draining, pace: .rate(1))
      let begin = clock.now
      brakes.worked(from: begin, serverTime: .zero)
      async let isOver = brakes.wait(changed: 30)
      try await clock.sleep(for: .seconds(2))
      draining.open()
      _ = try await isOver
      #expect(begin.duration(to: clock.now) == .seconds(2))
    }
  }

  @Test func aRunEndsAfterSoManyRowsAndNoBatchMayChangeMore() async throws {
    try await onLoop {
      let brakes = self.brakes(.system, Latch(), rows: 100)
      #expect(brakes.rowLimit == 100)
      let first = try await brakes.wait(changed: 0)
      let second = try await brakes.wait(changed: 99)
      #expect(first && second && brakes.rowLimit == 1)
      let third = try await brakes.wait(changed: 100)
      #expect(!third)
      #expect(self.brakes(.system, Latch(), rows: 100, pace: .rate(40)).rowLimit == 10)
    }
  }
}
