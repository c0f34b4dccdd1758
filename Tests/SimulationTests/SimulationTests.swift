// The simulator itself: seeds without a violation, the same trace for the same seed, left-out rules that it notices.

import Foundation
import TestSupport
import Testing

@testable import Simulation

@Suite struct SimulationTests {
  /// scripts/simulate runs many more, in a release build.
  @Test func someSeedsKeepEveryPromise() {
    for seed in UInt64(1)...25 {
      #expect(Simulation.run(seed: seed).violations == [], "seed \(seed)")
    }
  }

  @Test func aSeedIsReplayedExactly() {
    func trace() -> [String] {
      var lines: [String] = []
      _ = Simulation.run(seed: 7, hours: 0.5) { lines.append($0) }
      return lines
    }
    let first = trace()
    #expect(first.count > 100)
    #expect(first == trace())
  }

  /// Those that are noticed soon; scripts/simulate --mutations looks for all of them.
  @Test(arguments: [
    Mutation.renewalOff, .noDeadline, .epochFromOne, .randomIDs, .noNotBefore, .noAdvisoryLock, .noEviction,
    .verdictIgnored,
    .accountsDropped,
  ])
  func aRuleThatIsLeftOutIsNoticed(mutation: Mutation) {
    let seed = (UInt64(1)...200).first { !Simulation.run(seed: $0, mutation: mutation).violations.isEmpty }
    #expect(seed != nil, "no seed notices \(mutation.rawValue)")
  }

  @Test func theCommandKnowsEveryRuleThatCanBeLeftOut() throws {
    let script = try Repository.text("scripts/simulate")
    for mutation in Mutation.allCases { #expect(script.contains(mutation.rawValue)) }
  }

  /// While nothing goes wrong, each of a hundred replicas asks once a slot: it does not meet the run, and knows Redis's
  /// clock well enough, also an hour after the last slot, not to be refused as too late.
  @Test func anIdleFleetAsksOnceAReplicaAndSlot() throws {
    for seed in UInt64(1)...3 {
      let report = Simulation.run(seed: seed, hours: 6, calmFleet: 100)
      #expect(report.violations == [], "seed \(seed)")
      let load = try #require(report.calmLoad)
      #expect(load < 1.005, "seed \(seed)")
    }
  }
}
