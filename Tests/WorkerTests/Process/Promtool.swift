// Prometheus' own checker of metrics. Invariant: where it is not there, the tests that need it are skipped with that
// reason, not passed. Used by the tests of /metrics.

import Foundation
import TestSupport

enum Promtool {
  /// Installed with Prometheus, or fetched by scripts/test.
  private static let path = [
    "/usr/bin/promtool", House.root.appendingPathComponent(".local/tools/promtool").path,
  ].first { FileManager.default.isExecutableFile(atPath: $0) }

  static var isThere: Bool { path != nil }

  /// What `promtool check metrics` has to say of `text`: nothing where all is well.
  static func findings(in text: String) async throws -> String {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("metrics-\(UUID().uuidString)")
    try text.write(to: file, atomically: false, encoding: .utf8)
    defer { unlink(file.path) }
    let command = ["-c", #""$0" check metrics <"$1""#, path ?? "promtool", file.path]
    let process = try await WorkerProcess.start(command, environment: [:], executable: "/bin/sh")
    let ending = try await process.waitForExit()
    return ending == .exited(0) ? process.everything : "\(ending): \(process.everything)"
  }
}
