// The built worker, from outside: exit statuses and what it writes where.

import Foundation
import Testing

@testable import Worker

@Suite struct WorkerBinaryTests {
  private struct Ended {
    let status: Int32
    let output: String
    let log: String
    let seconds: Double

    var lines: [[String: Any]] {
      get throws {
        try log.split(separator: "\n").map {
          try #require(JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any], "no JSON: \($0)")
        }
      }
    }
  }

  /// The worker built with the tests, beside their bundle.
  private static var executable: URL {
    let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? CommandLine.arguments[0]
    return URL(fileURLWithPath: bundle).deletingLastPathComponent().appendingPathComponent("secrets-bridge-worker")
  }

  /// Runs the worker by a shell command, in which `"$0" "$@"` is the worker with its arguments.
  ///
  /// The shell reports the status: Foundation returns 0 if it asks between a child's last file and its end.
  private static func run(
    _ arguments: [String], _ environment: [String: String] = [:], by command: String = #""$0" "$@""#,
    standardError: FileHandle? = nil
  ) throws -> Ended {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = ["-c", command + #"; printf '\n%d' $?"#, executable.path] + arguments
    process.environment = environment
    let output = Pipe()
    let log = Pipe()
    process.standardOutput = output
    process.standardError = standardError ?? log
    let start = Date()
    try process.run()
    if standardError != nil { try log.fileHandleForWriting.close() }
    // What it writes fits a pipe: reading one after the other cannot block it.
    let written = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let logged = String(decoding: log.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    let end = try #require(written.lastIndex(of: "\n"))
    return Ended(
      status: try #require(Int32(written[end...].dropFirst())), output: String(written[..<end]), log: logged,
      seconds: Date().timeIntervalSince(start))
  }

  @Test func aWrongConfigurationEndsItWithinASecondAndEveryFaultIsALine() throws {
    let ended = try Self.run(
      [],
      [
        "DATABASE_URL": "mysql://u:hunter2@127.0.0.1/", "SB_WORKER_LEASE": "1h", "SB_WORKER_LEAS": "hunter2",
        "SB_WORKER_GITOPS_ENABLED": "1", "LOG_LEVEL": "error",
      ])
    #expect(ended.status == 78)
    #expect(ended.seconds < 1)
    #expect(ended.output.isEmpty)
    #expect(!ended.log.contains("hunter2"))
    let faults = try ended.lines.filter { $0["level"] as? String == "ERROR" }
    #expect(
      faults.map { $0["variable"] as? String }
        == ["DATABASE_URL", "REDIS_URL", "SB_WORKER_LEASE", "SB_WORKER_GITOPS_ENABLED"])
    #expect(faults.allSatisfy { $0["time"] is String && $0["msg"] is String && $0["error"] is String })
  }

  @Test func aReaderOfStderrThatHangsDoesNotHoldItUp() throws {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    defer { for end in ends { close(end) } }
    _ = fcntl(ends[1], F_SETFL, O_NONBLOCK)
    var filler = [UInt8](repeating: 0, count: 4_096)
    while write(ends[1], &filler, filler.count) > 0 {}
    _ = fcntl(ends[1], F_SETFL, 0)
    let ended = try Self.run([], standardError: FileHandle(fileDescriptor: ends[1]))
    #expect(ended.status == 78)
    #expect(ended.seconds < 1)
  }

  @Test func closedStandardStreamsDoNotHoldItUp() throws {
    let ended = try Self.run(["--wrong"], by: #""$0" "$@" 0<&- 1>&- 2>&-"#)
    #expect(ended.status == 64)
    #expect(ended.output.isEmpty && ended.log.isEmpty)
  }

  @Test func aWrongCommandLineIsALineOfTheLogAndStatus64() throws {
    let ended = try Self.run(["--wrong=hunter2"])
    #expect(ended.status == 64)
    #expect(ended.output.isEmpty)
    #expect(try ended.lines.count == 1)
    #expect(!ended.log.contains("hunter2"))
  }

  @Test func helpAndVersionGoToStandardOutputAndNeedNoConfiguration() throws {
    let help = try Self.run(["--help"])
    #expect(help.status == 0 && help.log.isEmpty)
    #expect(help.output == HelpText.text(rows: SettingRow.all))
    let version = try Self.run(["--version"])
    #expect(version.status == 0 && version.log.isEmpty)
    #expect(version.output == Version.text + "\n")
  }
}
