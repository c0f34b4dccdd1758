// Which slots chaos requires to run, and what excuses a failure.

import Reactor
import TestSupport
import Testing

@testable import Chaos

@Suite struct PromisedSlotsTests {
  private static let base = Moment(milliseconds: 1_700_000_000_000)

  private func at(_ seconds: Double) -> Moment { Self.base.advanced(by: .milliseconds(Int64(seconds * 1_000))) }

  private func incident(
    _ kind: FaultKind, _ span: ClosedRange<Double>, replica: Int? = nil, table: String? = nil
  ) -> Incident {
    var fault = PlannedFault(number: 1, kind: kind, start: .zero, length: .zero)
    fault.replica = replica
    fault.table = table
    return Incident(fault: fault, began: at(span.lowerBound), ended: at(span.upperBound))
  }

  private func promised(_ incidents: [Incident], loads: [LoadIncident] = [], stalls: [ClosedRange<Moment>] = []) -> Int
  {
    Disturbances(incidents: incidents, loads: loads, stalls: stalls, replicas: 3)
      .promised(.agents, in: at(0)...at(60)).count
  }

  @Test func inPeaceEverySlotIsPromisedOnceALeaseHasPassed() {
    #expect((20...22).contains(promised([])))
  }

  @Test func aServersFaultTakesTheSlotsThatFeelIt() {
    // 30 s less the traces before and after leave 8 s to 9 s on each side.
    let left = promised([incident(.pauseRedis, 20...40)])
    #expect((7...11).contains(left), "\(left)")
  }

  @Test func oneReplicasFaultLeavesTheSlotsToTheOthers() {
    #expect(promised([incident(.freeze, 10...50, replica: 0)]) > 15)
    let all = (0..<3).map { incident(.freeze, 10...50, replica: $0) }
    #expect(promised(all) < 4)
  }

  @Test func aTablesFaultTouchesItsSweepersOnly() {
    let inPeace = promised([])
    #expect(promised([incident(.lockTable, 5...55, table: "secrets")]) == inPeace)
    #expect(promised([incident(.lockTable, 5...55, table: "agents")]) == 0)
  }

  @Test func aStallOrALoadTakesSlotsToo() {
    let inPeace = promised([])
    #expect(promised([], stalls: [at(30)...at(31)]) < inPeace)
    let load = LoadIncident(load: PlannedLoad(start: .zero, table: "agents"), began: at(30))
    #expect(promised([], loads: [load]) < inPeace)
  }

  /// Two loads on one table that stood behind a fault are swept one after the other once it is over.
  @Test func loadsThatPiledUpAreGivenTheTimeOfEach() {
    let loads = [(2.0, "agents"), (9, "agents"), (3, "secrets")].map {
      LoadIncident(load: PlannedLoad(start: .zero, table: $0.1), began: at($0.0))
    }
    let each = Workload.loadTime
    func end(_ incidents: [Incident], _ loads: [LoadIncident]) -> Moment? {
      Disturbances(incidents: incidents, loads: loads, stalls: [], replicas: 3).loadsEnd
    }
    #expect(end([], []) == nil)
    #expect(end([], loads) == at(10).advanced(by: each))
    #expect(end([incident(.readOnly, 1...16)], loads) == at(16).advanced(by: each + each))
    #expect(end([incident(.readOnly, 40...50)], loads) == at(10).advanced(by: each))
  }

  /// The second load is swept after the first, so the sweeper's slots are late for longer than after either.
  @Test func slotsOfPiledUpLoadsAreNotPromised() {
    func loads(_ count: Int) -> [LoadIncident] {
      (0..<count).map { LoadIncident(load: PlannedLoad(start: .zero, table: "agents"), began: at(5 + Double($0))) }
    }
    #expect(promised([], loads: loads(2)) < promised([], loads: loads(1)))
    #expect(promised([incident(.delay, 12...15, replica: 0)], loads: loads(1)) < promised([], loads: loads(1)))
  }

  @Test func aFaultExplainsWhatItsTracesTouch() {
    let disturbances = Disturbances(
      incidents: [incident(.lockTable, 10...12, table: "agents")], loads: [], stalls: [], replicas: 3)
    #expect(disturbances.explain("agents-stale", at(13)...at(14)))
    #expect(!disturbances.explain("agents-stale", at(5)...at(9)))
    #expect(!disturbances.explain("agents-stale", at(20)...at(21)))
    #expect(!disturbances.explain("secrets-stale", at(11)...at(12)))
  }
}
