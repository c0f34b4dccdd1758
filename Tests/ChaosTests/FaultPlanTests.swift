// The chaos plan: what a seed draws.

import Reactor
import TestSupport
import Testing

@testable import Chaos

@Suite struct FaultPlanTests {
  private static func plan(_ seed: UInt64, kinds: [FaultKind] = FaultKind.allCases) -> FaultPlan {
    FaultPlan.draw(seed: seed, length: .seconds(120), replicas: 3, kinds: kinds)
  }

  @Test func theSameSeedDrawsTheSamePlan() {
    #expect(Self.plan(7) == Self.plan(7))
    #expect(Self.plan(7) != Self.plan(8))
  }

  @Test func everyKindOfFaultIsDrawnSoonerOrLater() {
    let drawn = Set((UInt64(0)..<40).flatMap { Self.plan($0).faults.map(\.kind) })
    #expect(drawn == Set(FaultKind.allCases))
  }

  @Test func onlyTheKindsThatWereAskedForAreDrawn() {
    let plan = Self.plan(1, kinds: [.freeze, .flushRedis])
    #expect(!plan.faults.isEmpty)
    #expect(plan.faults.allSatisfy { [.freeze, .flushRedis].contains($0.kind) })
  }

  @Test func eachRedisHasItsFaults() throws {
    let (single, cluster) = (FaultKind.all(on: .single), FaultKind.all(on: .cluster))
    #expect(Set(single + cluster) == Set(FaultKind.allCases))
    #expect(!single.contains(.moveSlot) && cluster.contains(.moveSlot) && !cluster.contains(.failOverRedis))
    #expect(try Options(["--plan"]).kinds == single)
    #expect(try Options(["--plan", "--redis", "cluster"]).kinds == cluster)
    #expect(throws: Options.Misuse.self) { try Options(["--plan", "--faults", "move-slot"]) }
    let plan = FaultPlan.draw(seed: 1, length: .seconds(600), replicas: 3, kinds: cluster, links: [.postgres])
    #expect(plan.faults.contains { $0.kind == .moveSlot && $0.table != nil })
    #expect(plan.faults.allSatisfy { $0.link != .redis })
  }

  @Test func thereIsALoadBeforeTheFirstFaultAndPeaceForIt() {
    for seed in UInt64(0)..<200 {
      let plan = Self.plan(seed)
      #expect(plan.loads.first?.start ?? .seconds(99) < .seconds(1), "seed \(seed)")
      #expect(plan.faults.allSatisfy { $0.start > FaultPlan.quietStart }, "seed \(seed)")
    }
  }

  @Test func aProcessIsBrokenByOneFaultAtATime() {
    for seed in UInt64(0)..<200 {
      let processes = Self.plan(seed).faults.filter { [.kill, .terminate, .freeze].contains($0.kind) }
      for (one, other) in zip(processes, processes.dropFirst()) where one.replica == other.replica {
        #expect(one.start + one.length <= other.start, "seed \(seed), #\(one.number) and #\(other.number)")
      }
    }
  }

  @Test func faultsOnOneWayAddUpToTheWorstOfThem() {
    let delay = LinkFault(toServer: .delay(.milliseconds(5)))
    let hole = LinkFault(toServer: .blackHole)
    let away = LinkFault(isRefused: true)
    let sum = FaultyLinks.sum([1: hole, 2: delay, 3: away])
    #expect(sum.toServer == .blackHole && sum.toClient == .pass && sum.isRefused)
    #expect(FaultyLinks.sum([:]).toServer == .pass)
  }
}
