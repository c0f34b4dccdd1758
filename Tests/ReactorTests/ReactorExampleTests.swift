// The documented example, run as a process of its own: the library needs nothing of the worker, and one thread.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct ReactorExampleTests {
  @Test func theExampleTicksOnOneThreadAndStopsAtATerm() throws {
    let example = try ExampleProcess()
    defer { example.kill() }
    let client = try HTTPTestClient(port: example.port)
    let first = try client.get("/ticks")
    #expect(first.status == 200)
    let deadline = Date(timeIntervalSinceNow: 10)
    while try client.get("/ticks").body == first.body { try #require(Date() < deadline) }
    #expect(try example.status("Threads:") == 1)
    example.process.terminate()
    #expect(try client.hasEnded())
    example.process.waitUntilExit()
    #expect(example.process.terminationReason == .exit)
    #expect(example.process.terminationStatus == 0)
  }

  @Test func withoutDescriptorsTheOldestGiveWayInsteadOfSpinning() throws {
    let example = try ExampleProcess(descriptorLimit: 20)
    defer { example.kill() }
    // More than it has descriptors for, all in the middle of a request.
    var busy: [HTTPTestClient] = []
    for _ in 0..<40 {
      busy.append(try HTTPTestClient(port: example.port))
      try busy.last?.send("GET /ticks HTTP/1.1\r\n")
    }
    for client in busy.suffix(5) {
      try client.send("Host: a\r\n\r\n")
      #expect(try client.response().status == 200)
    }
    let before = try example.processorTicks()
    Thread.sleep(forTimeInterval: 1)
    // 100 ticks are a second of one core; ten a second are the example's own timer and then some.
    #expect(try example.processorTicks() - before < 20)
    #expect(try busy[0].hasEnded())
    #expect(try HTTPTestClient(port: example.port).get("/ticks").status == 200)
  }
}

private struct ExampleProcess {
  let process = Process()
  let port: UInt16

  /// Starts it on a free port and waits until it answers.
  init(descriptorLimit: Int = 256) throws {
    // Beside the test bundle, whose path is the first argument.
    let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? CommandLine.arguments[0]
    let directory = URL(fileURLWithPath: bundle).deletingLastPathComponent()
    port = try freePort()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = [
      "-c", "ulimit -n \(descriptorLimit); exec \"$0\" \"$1\"",
      directory.appendingPathComponent("ReactorExample").path, "127.0.0.1:\(port)",
    ]
    try process.run()
    let deadline = Date(timeIntervalSinceNow: 10)
    while true {
      do {
        _ = try HTTPTestClient(port: port).get("/ticks")
        return
      } catch {
        guard Date() < deadline, process.isRunning else { throw error }
      }
    }
  }

  func kill() {
    Foundation.kill(process.processIdentifier, SIGKILL)
    process.waitUntilExit()
  }

  func status(_ key: String) throws -> Int? {
    let text = try String(contentsOfFile: "/proc/\(process.processIdentifier)/status", encoding: .utf8)
    let line = text.components(separatedBy: "\n").first { $0.hasPrefix(key) }
    return line.flatMap { Int($0.dropFirst(key.count).trimmingCharacters(in: .whitespaces)) }
  }

  /// User and system time so far, in hundredths of a second.
  func processorTicks() throws -> Int {
    let text = try String(contentsOfFile: "/proc/\(process.processIdentifier)/stat", encoding: .utf8)
    let fields = text.components(separatedBy: ") ")[1].components(separatedBy: " ")
    return Int(fields[11])! + Int(fields[12])!
  }
}
