// What a replica does while Redis has no settled schedule record: after a loss of its data, or after many.

import Coordination
import Reactor
import Testing

@testable import Worker

@Suite struct SettlingTests {
  private static let slot = SweeperStateMachineTests.slot

  private static func at(_ milliseconds: Int64) -> MonotonicInstant { SweeperStateMachineTests.at(milliseconds) }

  /// Redis loses its data every nine seconds: nothing is swept, which is a failure of each slot once one loss no longer
  /// explains it, and no longer than that.
  @Test func slotsFailWhileOneNewRecordFollowsAnother() {
    var machine = SweeperStateMachineTests.machine()
    var counts: [SlotOutcome] = []
    for second in stride(from: Int64(0), through: 290, by: 5) {
      let slot = Self.slot + second / 60 * 60_000
      counts += machine.answered(
        .settling(slot: slot, notBefore: slot + 15_000), redisTime: Self.slot + second * 1_000,
        at: Self.at(second * 1_000), jitter: 0)
      #expect(machine.settlesForever == (second >= 40))
    }
    #expect(counts == [.failure, .failure, .failure, .failure])
    let slot = Self.slot + 300_000
    counts = machine.answered(.idle(slot: slot, due: slot + 60_000), redisTime: slot, at: Self.at(300_000), jitter: 0)
    #expect(counts == [.failure, .skippedLock] && !machine.settlesForever)
  }

  /// A replica with a lease of five minutes made the record, or Redis loses it again and again.
  @Test func onceEndsWhereANewRecordOutlastsTwoLeases() {
    var machine = SweeperStateMachineTests.machine(once: true)
    var now = Int64(0)
    while case .take = machine.next(at: Self.at(now), isDraining: false), now < 1_000_000 {
      _ = machine.answered(
        .settling(slot: Self.slot, notBefore: Self.slot + now + 15_000), redisTime: Self.slot + now, at: Self.at(now),
        jitter: 0)
      guard case .wait(let until) = machine.next(at: Self.at(now), isDraining: false) else { break }
      now += Self.at(now).duration(to: until).milliseconds
    }
    #expect(machine.timedOutSettling && machine.next(at: Self.at(now), isDraining: false) == .end)
    #expect((40_000...56_000).contains(now))
  }
}
