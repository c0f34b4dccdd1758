// The commands of the documents that need no more than a PostgreSQL, a Redis and a worker run as they are printed.
// InstallDocumentTests looks at those that install and deploy.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct DocumentCommandTests {
  private static let documents = ["README.md", "docs/install.md", "docs/migrating.md", "docs/on-call.md"]
  private static let programs = ["secrets-bridge-worker ", "psql ", "redis-cli "]
  /// What these ask for is not there: a sink, a slow Redis, a cluster.
  private static let unplayed = [
    "secrets-bridge-worker notify-test", "redis-cli SLOWLOG GET", "redis-cli --latency", "redis-cli --cluster check",
  ]

  /// Shell blocks, indented lines, and text in backquotes, if it is a command of these programs.
  private static func commands(in document: String) throws -> [String] {
    var commands: [String] = []
    var block: [String]?
    for line in try Repository.text(document).components(separatedBy: "\n") {
      if line.hasPrefix("```") {
        if let block, isRunnable(block) { commands.append(block.joined(separator: "\n")) }
        block = line == "```sh" ? [] : nil
      } else if block != nil {
        block?.append(line)
      } else if line.hasPrefix("    ") {
        let command = line.trimmingCharacters(in: .whitespaces)
        if isCommand(command) { commands.append(command) }
      } else {
        commands += line.matches(of: /`([^`]*)`/).map { String($0.1) }.filter(isCommand)
      }
    }
    return commands.filter { !unplayed.contains($0) }
  }

  private static func isCommand(_ text: String) -> Bool { programs.contains { text.hasPrefix($0) } }

  private static func isRunnable(_ block: [String]) -> Bool {
    block.contains(where: isCommand)
      && block.allSatisfy { isCommand($0) || $0.hasPrefix(" ") || $0.firstMatch(of: /^[a-z]+=/) != nil }
  }

  @Test func theCommandsOfTheDocumentsDoWhatTheyAreFor() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start()
    var environment = try await stage.environment
    environment["SB_WORKER_LOCAL_ADDR"] = "127.0.0.1:\(worker.probePort)"
    let programs = URL(fileURLWithPath: WorkerProcess.executable).deletingLastPathComponent().path
    environment["PATH"] = "\(programs):\(ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin")"
    try await onLoop {
      try await worker.answersReadyz(200)
      try await eventually("it sweeps") {
        for sweeper in WorkerStage.sweepers {
          if try await worker.runs(sweeper, "success") == 0 { return false }
        }
        return true
      }
    }
    var ran: [String] = []
    for command in try Self.documents.flatMap(Self.commands) where !ran.contains(command) {
      ran.append(command)
      let script = "cd '\(stage.redis.directory)'; set -eu; \(command)"
      let shell = try await WorkerProcess.start(["-c", script], environment: environment, executable: "/bin/sh")
      let ending = try await shell.waitForExit()
      // 2: something needs attention, such as a sweeper that is paused.
      #expect([.exited(0), .exited(2)].contains(ending), "\(command): \(ending) \(shell.everything)")
      #expect(!shell.everything.isEmpty || command.hasPrefix("redis-cli "), "\(command) printed nothing")
    }
    #expect(ran.count >= 15, "\(ran)")
    #expect(try await worker.stop() == .exited(0))
  }
}
