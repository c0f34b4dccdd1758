// The phases of a shutdown: no new work, the current batch is cancelled, everything is cancelled.

import Reactor
import Testing

@testable import Worker

@Suite struct ShutdownPhasesTests {
  private static func at(_ seconds: Double) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(seconds * 1_000_000_000))
  }

  /// Of a grace of 15 s, two seconds are reserved for releasing locks; of a short one, half.
  @Test(arguments: [(15.0, 13.0), (4, 2), (1, 0.5)])
  func thePhasesFollowEachOther(grace: Double, cancels: Double) {
    var phases = ShutdownPhases(grace: .seconds(grace))
    phases.advance(to: Self.at(100))
    #expect(phases.phase == .running)
    #expect(phases.phaseEnd == nil)
    phases.begin(at: Self.at(100))
    #expect(phases.phase == .draining)
    #expect(phases.phaseEnd == Self.at(100 + cancels))
    phases.advance(to: Self.at(100 + cancels - 0.001))
    #expect(phases.phase == .draining)
    phases.advance(to: Self.at(100 + cancels))
    #expect(phases.phase == .cancelling)
    #expect(phases.phaseEnd == Self.at(100 + grace))
    phases.advance(to: Self.at(100 + grace))
    #expect(phases.phase == .over)
    #expect(phases.phaseEnd == nil)
  }

  @Test func beginningTwiceChangesNothing() {
    var phases = ShutdownPhases(grace: .seconds(15))
    phases.begin(at: Self.at(100))
    phases.begin(at: Self.at(110))
    #expect(phases.phaseEnd == Self.at(113))
  }

  /// However long the batches took, each sink has time for one attempt.
  @Test func notificationsAlwaysHaveTime() {
    var phases = ShutdownPhases(grace: .seconds(15))
    phases.begin(at: Self.at(100))
    #expect(phases.deadline(at: Self.at(101)) == Self.at(115))
    #expect(phases.deadline(at: Self.at(115)) == Self.at(115.5))
  }
}
