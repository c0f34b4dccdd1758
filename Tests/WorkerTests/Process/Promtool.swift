// Prometheus' own checker of metrics and alerts. Invariant: where it is not there, the tests that need it are skipped
// with that reason, not passed. Used by the tests of /metrics.

import Foundation
import TestSupport

enum Promtool {
  /// Installed with Prometheus, or fetched by scripts/test.
  private static let path = [
    "/usr/bin/promtool", Repository.root.appendingPathComponent(".local/tools/promtool").path,
  ].first { FileManager.default.isExecutableFile(atPath: $0) }

  static var isThere: Bool { path != nil }

  /// What `promtool check metrics` has to say of `text`: nothing where all is well.
  static func findings(in text: String) async throws -> String {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("metrics-\(UUID().uuidString)")
    try text.write(to: file, atomically: false, encoding: .utf8)
    defer { unlink(file.path) }
    let (isWell, said) = try await run(#""$0" check metrics <"$1""#, file.path)
    return isWell && said.isEmpty ? "" : "found: \(said)"
  }

  /// What `promtool check rules` has to say of a file of alerts: nothing where all is well.
  static func findings(inRules file: String) async throws -> String {
    let (isWell, said) = try await run(#""$0" check rules "$1""#, file)
    return isWell ? "" : "found: \(said)"
  }

  private static func run(_ script: String, _ file: String) async throws -> (isWell: Bool, said: String) {
    let process = try await WorkerProcess.start(
      ["-c", script, path ?? "promtool", file], environment: [:], executable: "/bin/sh")
    return (try await process.waitForExit() == .exited(0), process.everything)
  }
}
