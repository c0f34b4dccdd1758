// The deliberately broken builds: a change that moves what a patch breaks has to move the patch as well.
// `scripts/chaos --broken all` shows that each is caught; that takes minutes, and is no part of the tests.

import Foundation
import TestSupport
import Testing

@testable import Chaos

@Suite struct BrokenBuildTests {
  private static let directory = Repository.root.appendingPathComponent("scripts/dev/broken")
  private static let patches = (try? FileManager.default.contentsOfDirectory(atPath: directory.path))?.sorted() ?? []

  @Test func eachPromiseOfTheIssueHasItsBrokenBuild() {
    let names = [
      "deadline-removed", "epoch-from-one", "margin-negative", "random-ids", "references-ignored", "renewal-off",
      "retention-too-early", "reveal-unnoticed", "token-check-removed", "wraps-left-readable",
    ]
    #expect(Self.patches == names.map { "\($0).patch" })
  }

  @Test(arguments: patches)
  func theWorkerCanStillBeBrokenBy(patch: String) async throws {
    let file = Self.directory.appendingPathComponent(patch)
    let process = try await WorkerProcess.start(
      ["-C", Repository.root.path, "apply", "--check", file.path], environment: [:], executable: "/usr/bin/git")
    let ending = try await process.waitForExit()
    #expect(ending == .exited(0), "\(process.everything)")
  }

  @Test(arguments: patches)
  func saysWhatCatchesIt(patch: String) throws {
    let text = try String(contentsOf: Self.directory.appendingPathComponent(patch), encoding: .utf8)
    for name in ["Subject", "Caught by", "Run with"] {
      #expect(text.contains("\n\(name): ") || text.hasPrefix("\(name): "))
    }
    let runs = text.split(separator: "\n").filter { $0.hasPrefix("Run with: ") }
    for run in runs {
      let arguments = run.dropFirst("Run with: ".count).split(separator: " ").map(String.init)
      // A plan is only printed, so no worker is needed.
      let options = try Options(arguments + ["--plan"])
      #expect(
        !FaultPlan.draw(
          seed: options.seed, length: .seconds(options.seconds), replicas: options.replicas, kinds: options.kinds
        ).loads.isEmpty)
    }
  }
}
