// The simulator: seeds without a violation, the same trace for the same seed, and left-out rules that it notices.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Simulation

@Suite(.serialized) struct SimulationTests {
  /// scripts/simulate runs many more, in a release build.
  @Test func someSeedsKeepEveryPromise() async throws {
    for seed in UInt64(1)...15 {
      let report = try await onLoop { await Simulation.run(seed: seed) }
      #expect(report.violations == [], "seed \(seed)")
      #expect(report.runs > 0)
    }
  }

  private static func trace(_ seed: UInt64) async throws -> [String] {
    try await onLoop {
      var lines: [String] = []
      _ = await Simulation.run(seed: seed) { lines.append($0) }
      return lines
    }
  }

  /// One without later sweepers, and one with each kind of them.
  @Test(arguments: [7, 8, 4])
  func aSeedIsReplayedExactly(seed: UInt64) async throws {
    let first = try await Self.trace(seed)
    #expect(first.count > 100)
    #expect(try await Self.trace(seed) == first)
  }

  /// Each process hashes in a way of its own, and has its memory elsewhere.
  @Test func anotherProcessReplaysASeedExactly() async throws {
    let directory = Bundle.allBundles.map(\.bundleURL).first { $0.pathExtension == "xctest" }?
      .deletingLastPathComponent()
    let program = (directory ?? URL(filePath: CommandLine.arguments[0]).deletingLastPathComponent())
      .appending(path: "simulate")
    let process = Process()
    let output = Pipe()
    process.executableURL = program
    process.arguments = ["--seed", "7", "--seeds", "1", "--trace"]
    process.standardOutput = output
    try process.run()
    let text = String(decoding: try output.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
    process.waitUntilExit()
    // The last line has the totals.
    let lines = text.split(separator: "\n").dropLast().map(String.init)
    #expect(try await Self.trace(7) == lines)
  }

  /// Those that are noticed soon; scripts/simulate --mutations looks for all of them.
  @Test(arguments: [
    Mutation.renewalOff, .noDeadline, .epochFromOne, .randomIDs, .noNotBefore, .noAdvisoryLock, .verdictIgnored,
    .noRelease, .pauseIgnored, .wrapsLeft, .nothingDue, .lossUnnoticed, .connectionLockIgnored, .runningIgnored,
    .queuedIgnored, .givenUpEarly, .liveDeleted, .youngDeleted, .referencesIgnored, .unlockedDeleted,
  ])
  func aRuleThatIsLeftOutIsNoticed(mutation: Mutation) async throws {
    for seed in UInt64(1)...100 {
      let report = try await onLoop { await Simulation.run(seed: seed, mutation: mutation) }
      if !report.violations.isEmpty { return }
    }
    Issue.record("no seed notices \(mutation.rawValue)")
  }

  @Test func theCommandKnowsEveryRuleThatCanBeLeftOut() throws {
    let script = try Repository.text("scripts/simulate")
    for mutation in Mutation.allCases { #expect(script.contains(mutation.rawValue)) }
  }

  /// While nothing goes wrong, each of many replicas asks once a slot: it does not meet the run, and knows Redis's
  /// clock well enough, also an hour after the last slot, not to be refused as too late.
  @Test func anIdleFleetAsksOnceAReplicaAndSlot() async throws {
    for seed in UInt64(1)...2 {
      let report = try await onLoop { await Simulation.run(seed: seed, hours: 3, calmFleet: 50) }
      #expect(report.violations == [], "seed \(seed)")
      let load = try #require(report.calmLoad)
      #expect(load < 1.005, "seed \(seed)")
    }
  }
}
