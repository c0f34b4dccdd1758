// The command `probe`, which an exec probe runs in a container without a shell.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct ProbeCommandTests {
  @Test func itsStatusIsTheAnswersAndItPrintsWhatIsWrong() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start()
    try await onLoop { try await worker.answersReadyz(200) }
    for (words, answer) in [([], "ready"), (["readyz"], "ready"), (["healthz"], "ok")] {
      let probe = try await ask("127.0.0.1:\(worker.probePort)", words)
      #expect(probe.ending == .exited(0))
      #expect(probe.output == "{\"status\":\"\(answer)\"}\n")
      #expect(probe.log.isEmpty)
    }
    stage.redisProxy.goAway()
    try await onLoop { try await worker.answersReadyz(503) }
    let unready = try await ask("127.0.0.1:\(worker.probePort)")
    #expect(unready.ending == .exited(1))
    #expect(unready.output == "{\"status\":\"not_ready\",\"failing\":{\"redis\":\"connection refused\"}}\n")
    #expect(try await ask("127.0.0.1:\(worker.probePort)", ["healthz"]).ending == .exited(0))
    try await worker.stop()
  }

  @Test(arguments: ["0.0.0.0", "", "[::]"])
  func aWorkerOnEveryInterfaceIsAskedOverLoopback(host: String) async throws {
    let port = try freePort()
    let servers = ["DATABASE_URL": "postgres://u@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1"]
    let address = ["SB_WORKER_LOCAL_ADDR": "\(host):\(port)"]
    let worker = try await WorkerProcess.start(environment: servers.merging(address) { $1 })
    try await onLoop {
      try await eventually("it answers") { try await ask("\(host):\(port)", ["healthz"]).ending == .exited(0) }
    }
    try await worker.stop()
  }

  @Test func whoIsNotThereOrHangsOrSpeaksSomethingElseFailsItWithinItsLimit() async throws {
    let silent = try ScriptedPeer { $0.hang() }
    let other = try ScriptedPeer { connection in
      connection.expect("GET")
      connection.send("220 mail.example.com ESMTP\r\n")
    }
    let endless = try ScriptedPeer { connection in
      connection.send("HTTP/1.1 200 OK\r\n\r\n")
      while connection.send(String(repeating: "x", count: 65_536)) {}
    }
    let cases = [
      (try freePort(), "Connection refused"), (silent.port, "timed out"),
      (other.port, "the listener does not speak HTTP"),
    ]
    for (port, reason) in cases {
      let probe = try await ask("127.0.0.1:\(port)")
      #expect(probe.ending == .exited(1))
      #expect(probe.output.isEmpty)
      #expect(probe.log.first?["error"] == reason)
    }
    let bounded = try await ask("127.0.0.1:\(endless.port)")
    #expect(bounded.ending == .exited(0) && bounded.output.utf8.count < 100_000)
  }

  @Test func anAddressThatIsNoneIsAFaultOfTheConfigurationAndNothingElseMatters() async throws {
    let probe = try await ask("nowhere", more: ["SB_WORKER_LEASE": "nonsense", "SB_WORKER_UNKNOWN": "1"])
    #expect(probe.ending == .exited(78))
    #expect(probe.log.map { $0["variable"] } == ["SB_WORKER_LOCAL_ADDR"])
  }

  /// As in a sandbox that has no /proc.
  @Test(
    .enabled("takes the right to mount") { await OwnMounts.arePermitted() },
    .enabled(if: !Sanitizer.isOn, "a sanitizer needs /proc"))
  func theCommandLineIsUnderstoodWithoutProc() async throws {
    let version = try await OwnMounts.start(["--version"], environment: [:], after: "mount -t tmpfs none /proc")
    #expect(try await version.waitForExit(within: .seconds(10)) == .exited(0))
    #expect(version.output == Version.text + "\n")
  }

  private func ask(
    _ address: String, _ words: [String] = [], more: [String: String] = [:]
  ) async throws -> (ending: WorkerProcess.Ending, output: String, log: [WorkerProcess.LogLine]) {
    let environment = more.merging(["SB_WORKER_LOCAL_ADDR": address]) { $1 }
    let process = try await WorkerProcess.start(["probe"] + words, environment: environment)
    let ending = try await process.waitForExit(within: .seconds(10))
    return (ending, process.output, process.log)
  }
}
