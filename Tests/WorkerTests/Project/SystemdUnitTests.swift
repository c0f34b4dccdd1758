// The unit for systemd: valid, hardened, and in agreement with the program.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct SystemdUnitTests {
  private static let path = "deploy/secrets-bridge-worker.service"
  private static let analyzer = "/usr/bin/systemd-analyze"
  private static let isAnalyzed = FileManager.default.isExecutableFile(atPath: analyzer)

  private static func values(of key: String) throws -> [String] {
    try Repository.text(path).split(separator: "\n").filter { $0.hasPrefix(key + "=") }
      .map { String($0.dropFirst(key.count + 1)) }
  }

  private func analyze(_ arguments: [String]) async throws -> (ending: WorkerProcess.Ending, text: String) {
    let process = try await WorkerProcess.start(arguments, environment: [:], executable: Self.analyzer)
    let ending = try await process.waitForExit(within: .seconds(30))
    return (ending, process.everything)
  }

  /// The program is not installed here, so the unit is checked with another one.
  @Test(.enabled(if: isAnalyzed, "systemd is not installed")) func theUnitIsValid() async throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("unit-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: directory) }
    let unit = directory.appendingPathComponent("secrets-bridge-worker.service")
    let text = try Repository.text(Self.path)
    #expect(text.contains("ExecStart=/usr/bin/secrets-bridge-worker run\n"))
    try text.replacingOccurrences(of: "=/usr/bin/secrets-bridge-worker run", with: "=/bin/true run")
      .write(to: unit, atomically: false, encoding: .utf8)
    let (ending, said) = try await analyze(["verify", "--man=no", unit.path])
    #expect(ending == .exited(0), "\(said)")
    #expect(!said.contains("/secrets-bridge-worker.service:"), "\(said)")
  }

  @Test(.enabled(if: isAnalyzed, "systemd is not installed")) func theUnitIsExposedToLittle() async throws {
    let unit = Repository.root.appendingPathComponent(Self.path).path
    let (ending, said) = try await analyze(["security", "--offline=yes", "--no-pager", "--threshold=15", unit])
    #expect(ending == .exited(0), "\(said)")
    #expect(said.contains("Overall exposure level"))
  }

  @Test func theUnitAgreesWithTheProgram() throws {
    #expect(try Self.values(of: "Type") == ["notify"])
    // The name of the credentials is this one and the setting's.
    let credential = try #require(try Self.values(of: "LoadCredential").first).components(separatedBy: ":")[0]
    #expect(Setting.databaseURL.row.credential == "\(credential)_DATABASE_URL")
    let settings = try Settings(environment: ["DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h"])
    let patience = try #require(Int64(try Self.values(of: "TimeoutStopSec").first ?? ""))
    #expect(Duration.seconds(patience) > settings[.shutdownGrace])
    // What a restart does not mend.
    let final = [Invocation.faultExitStatus, ConfigurationFaults.exitStatus].map { "\($0)" }.joined(separator: " ")
    #expect(try Self.values(of: "RestartPreventExitStatus") == [final])
  }
}
