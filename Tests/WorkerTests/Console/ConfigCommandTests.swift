// What the verb config shows of an environment.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct ConfigCommandTests {
  private static let servers = [
    "DATABASE_URL": "postgres://worker:hunter2@db.example:5433/control?sslmode=disable",
    "REDIS_URL": "redis://:hunter2@redis.example:6380/2",
  ]

  private func report(_ environment: [String: String]) -> ConfigReport {
    ConfigReport(environment: Self.servers.merging(environment) { $1 })
  }

  private func row(_ name: String, _ environment: [String: String]) throws -> ConfigReport.Row {
    try #require(report(environment).rows.first { $0.name == name })
  }

  @Test func everySettingIsARow() {
    let report = report([:])
    #expect(report.isValid && report.unknown.isEmpty)
    #expect(report.rows.map(\.name) == SettingRow.all.map(\.name))
    #expect(report.rows.filter(\.isDifferent).map(\.name) == ["DATABASE_URL", "REDIS_URL"])
  }

  @Test func noSecretIsShown() throws {
    let environment = [
      "SB_WORKER_WEBHOOK_URL": "https://me:hunter2@hooks.example:8443/hunter2?key=hunter2",
      "SB_WORKER_PAGERDUTY_ROUTING_KEY": "hunter2", "SB_DISCOVER_TARGETS_JSON": #"[{"hunter2": 1}]"#,
      "SB_WORKER_SMTP_URL": "smtps://hunter2:hunter2@mail.example", "SB_WORKER_SMTP_FROM": "a@example.com",
      "SB_WORKER_SMTP_TO": "b@example.com", "SB_WORKER_SLACK_WEBHOOK_URL": "hunter2://hunter2",
    ]
    let report = report(environment)
    for format in [ReportTable.Format.text, .json] { #expect(!report.text(as: format).contains("hunter2")) }
    #expect(try row("DATABASE_URL", [:]).value == "postgresql://worker@db.example:5433/control")
    #expect(try row("REDIS_URL", [:]).value == "redis://:***@redis.example:6380/2")
    #expect(try row("SB_WORKER_WEBHOOK_URL", environment).value == "https://hooks.example:8443/…")
    #expect(try row("SB_WORKER_SMTP_URL", environment).value == "smtps://mail.example")
    #expect(try row("SB_WORKER_PAGERDUTY_ROUTING_KEY", environment).value == ConfigReport.hidden)
    #expect(try row("SB_WORKER_SLACK_WEBHOOK_URL", environment).value == ConfigReport.hidden)
  }

  @Test func theSourceIsTheVariableAFileOrTheDefault() throws {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("url-\(UUID().uuidString)").path
    try Data((Self.servers["DATABASE_URL"]! + "\n").utf8).write(to: URL(fileURLWithPath: path))
    defer { unlink(path) }
    let environment = ["DATABASE_URL": "", "DATABASE_URL_FILE": path, "LOG_LEVEL": "debug"]
    #expect(try row("DATABASE_URL", environment).source == .file)
    #expect(try row("DATABASE_URL", environment).value == "postgresql://worker@db.example:5433/control")
    #expect(try row("LOG_LEVEL", environment).source == .environment)
    #expect(try row("SB_WORKER_LEASE", environment).source == .default)
    #expect(try row("SB_WORKER_LEASE", environment).value == "15s")
    let missing = try row("DATABASE_URL", ["DATABASE_URL": "", "DATABASE_URL_FILE": path + "-missing"])
    #expect(missing.source == .file && missing.value == nil && missing.faults.count == 1)
  }

  @Test func aValueThatMeansTheDefaultIsNoDifference() throws {
    #expect(try !row("SB_WORKER_LEASE", ["SB_WORKER_LEASE": "15000ms"]).isDifferent)
    #expect(try row("SB_WORKER_LEASE", ["SB_WORKER_LEASE": "16s"]).isDifferent)
    #expect(try !row("SB_WORKER_RUN_ON_START", ["SB_WORKER_RUN_ON_START": "F"]).isDifferent)
  }

  @Test func faultsAndWarningsStandBesideTheirRows() throws {
    let report = report(["SB_WORKER_LEASE": "1h", "SB_WORKER_LEAS": "3s", "DATABASE_MAX_CONNS": "0"])
    #expect(!report.isValid)
    let text = report.text(as: .text)
    let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("SB_WORKER_LEASE ") })
    #expect(line.contains("1h") && line.hasSuffix("invalid: must be a duration from 3s to 5m, such as 90s or 2m30s"))
    #expect(text.contains("warning: zero and below count as the default, 10\n"))
    #expect(text.hasSuffix("warning: SB_WORKER_LEAS: no setting has this name. Did you mean SB_WORKER_LEASE?\n"))
    let json = try #require(
      JSONSerialization.jsonObject(with: Data(report.text(as: .json).utf8)) as? [String: Any])
    #expect(json["valid"] as? Bool == false)
    let rows = try #require(json["settings"] as? [[String: Any]])
    #expect((rows.first { $0["setting"] as? String == "SB_WORKER_LEASE" }?["faults"] as? [String])?.count == 1)
    #expect((json["unknown"] as? [[String: String]])?.first?["variable"] == "SB_WORKER_LEAS")
  }

  @Test func theProgramShowsItAndItsStatusSaysWhetherItIsValid() async throws {
    let well = try await WorkerProcess.start(
      ["config", "--diff"], environment: Self.servers.merging(["SB_WORKER_LEASE": "20s"]) { $1 })
    #expect(try await well.waitForExit() == .exited(0))
    let names = well.output.split(separator: "\n").compactMap { $0.split(separator: " ").first.map(String.init) }
    #expect(names == ["setting", "DATABASE_URL", "REDIS_URL", "SB_WORKER_LOCAL_ADDR", "SB_WORKER_LEASE"])
    #expect(well.log.isEmpty && !well.output.contains("\u{1B}"))
    let ill = try await WorkerProcess.start(["config", "REDIS_URL", "--json"], environment: [:])
    #expect(try await ill.waitForExit() == .exited(78))
    #expect(ill.output.contains(#""faults":["is required: set a Redis URL"]"#))
    #expect(!ill.output.contains("LOG_LEVEL") && ill.log.isEmpty)
  }

  @Test func itShowsTheSettingsInWhichReplicasDifferIfRedisAnswers() async throws {
    let stage = try await WorkerStage.set()
    let environment = try await stage.environment
    func config(_ more: [String: String] = [:], _ options: String...) async throws -> (status: Int32, output: String) {
      let command = try await WorkerProcess.start(
        ["config", "REDIS_URL", "--replicas"] + options, environment: environment.merging(more) { $1 })
      guard case .exited(let status) = try await command.waitForExit() else { return (-1, command.everything) }
      return (status, command.everything)
    }
    let nobody = try await config()
    #expect(nobody.status == 0 && nobody.output.hasSuffix("\n\nNo replica is known to run.\n"), "\(nobody)")
    let first = try await stage.start()
    let second = try await stage.start(["SB_WORKER_AGENTS_STALE_AFTER": "10m"])
    let names = [first, second].map { "\(HostProcess.hostName):\($0.probePort)" }
    try await onLoop {
      try await eventually("both are listed") {
        try names.allSatisfy { try stage.replicas("agents-stale").contains("\($0) ") }
      }
    }
    let differ = try await config()
    #expect(differ.status == 2, "\(differ)")
    for name in names {
      let line = try #require(differ.output.split(separator: "\n").first { $0.hasPrefix("\(name) ") })
      #expect(line.hasSuffix("differs: SB_WORKER_AGENTS_STALE_AFTER"))
    }
    let json = try #require(
      JSONSerialization.jsonObject(with: Data(try await config([:], "--json").output.utf8)) as? [String: Any])
    let rows = try #require(json["replicas"] as? [[String: Any]])
    #expect(rows.compactMap { $0["replica"] as? String } == names.sorted())
    #expect(rows.allSatisfy { $0["differing_settings"] as? [String] == ["SB_WORKER_AGENTS_STALE_AFTER"] })
    for worker in [first, second] { #expect(try await worker.stop() == .exited(0)) }
    stage.redisProxy.admission = .refuse
    let away = try await config()
    let reason = "Redis cannot say in which settings the replicas differ: "
    #expect(away.status == 1 && away.output.hasSuffix("\n\n\(reason)connection refused\n"), "\(away)")
    let invalid = try await config(["REDIS_URL": "http://redis"])
    #expect(invalid.status == 78 && invalid.output.contains(reason), "\(invalid)")
  }
}
