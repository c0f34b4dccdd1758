// The existing worker's environments: read the same way, with a warning about odd values.

import Foundation
import Reactor
import Testing

@testable import Worker

@Suite struct DropInTests {
  /// The settings, and the variables that were warned about.
  private static func load(_ changes: [String: String]) throws -> (settings: Settings, warned: [String]) {
    let (settings, warnings) = try SettingsTests.load(changes)
    return (settings, warnings.map(\.variable))
  }

  // MARK: Values

  @Test(arguments: [
    ("INFO", LogLevelSetting.info), ("Debug", .debug), ("WARN", .warn), ("eRRoR", .error), ("error", .error),
  ])
  func aLogLevelIsReadInAnyCase(text: String, level: LogLevelSetting) throws {
    let (settings, warned) = try Self.load(["LOG_LEVEL": text])
    #expect(settings[.logLevel] == level && warned.isEmpty)
  }

  @Test(arguments: ["warning", "trace", "0", " info", "\"debug\"", "информация"])
  func anUnknownLogLevelMeansInfoWithAWarning(text: String) throws {
    let (settings, warned) = try Self.load(["LOG_LEVEL": text])
    #expect(settings[.logLevel] == .info && !warned.isEmpty && Set(warned) == ["LOG_LEVEL"])
  }

  @Test(arguments: ["0", "-1", "-0", "-99999999999"])
  func aPoolOfZeroOrLessIsTheDefaultWithAWarning(text: String) throws {
    let (settings, warned) = try Self.load(["DATABASE_MAX_CONNS": text, "REDIS_POOL_SIZE": text])
    #expect(settings[.databaseMaxConnections] == 10 && settings[.redisPoolSize] == 10)
    #expect(warned == ["DATABASE_MAX_CONNS", "REDIS_POOL_SIZE"])
  }

  @Test func aPoolBeyondWhatThereCanBeIsTheMost() throws {
    let (settings, warned) = try Self.load(["DATABASE_MAX_CONNS": "2147483647", "REDIS_POOL_SIZE": "2147483647"])
    #expect(settings[.databaseMaxConnections] == 262_143 && warned == ["DATABASE_MAX_CONNS"])
  }

  @Test(arguments: ["0", "0s", "-1s", "-30m"])
  func aLifetimeOfZeroOrLessIsTheDefaultWithAWarning(text: String) throws {
    let (settings, warned) = try Self.load(["DATABASE_CONN_LIFETIME": text])
    #expect(settings[.databaseConnectionLifetime] == .seconds(1_800) && warned == ["DATABASE_CONN_LIFETIME"])
  }

  @Test func theGraceMayBeZero() throws {
    for (text, warnings) in [("0s", 0), ("0", 0), ("-5s", 1)] {
      let (settings, warned) = try Self.load(["SB_WORKER_SHUTDOWN_GRACE": text])
      #expect(settings[.shutdownGrace] == .zero && warned.count == warnings, "\(text)")
    }
  }

  @Test func aDurationBeyondOurRangeIsTheNearestOfIt() throws {
    for name in ["SB_WORKER_DISCOVER_INTERVAL", "SB_WORKER_AGENTS_STALE_AFTER", "DATABASE_CONN_LIFETIME"] {
      let (_, warned) = try Self.load([name: "200000h"])
      #expect(warned == [name])
    }
    #expect(
      try Self.load(["SB_WORKER_DISCOVER_INTERVAL": "200000h"]).settings[.discoverInterval] == .seconds(315_360_000))
    #expect(try Self.load(["SB_WORKER_DISCOVER_INTERVAL": "1us"]).settings[.discoverInterval] == .milliseconds(1))
  }

  @Test func gitOpsSettingsAreValidatedOnlyIfGitOpsIsOn() throws {
    let odd = [
      "SB_WORKER_GITOPS_POLL_INTERVAL": "0s", "SB_WORKER_GITOPS_TIMEOUT_INTERVAL": "soon",
      "SB_WORKER_GITOPS_BATCH_SIZE": "-1", "SB_WORKER_GITOPS_HTTP_TIMEOUT": "",
    ]
    #expect(try Self.load(odd).warned.isEmpty)
    #expect(try Self.load(odd.merging(["SB_WORKER_GITOPS_ENABLED": "f"]) { $1 }).warned.isEmpty)
    let faults = SettingsTests.faults(odd.merging(["SB_WORKER_GITOPS_ENABLED": "1"]) { $1 })
    #expect(faults.count == 4 && faults[0].hasPrefix("SB_WORKER_GITOPS_ENABLED must be "))
    #expect(SettingsTests.faults(odd.merging(["SB_WORKER_GITOPS_ENABLED": "perhaps"]) { $1 }).count == 1)
  }

  // MARK: What stands around a value

  @Test(arguments: [
    ("DATABASE_URL", "\"postgres://worker:hunter2@127.0.0.1/control\""), ("REDIS_URL", "'redis://127.0.0.1:6379'"),
    ("SB_WORKER_LEASE", "\"15s\""), ("DATABASE_MAX_CONNS", "'10'"), ("SB_WORKER_RUN_ON_START", "`true`"),
    ("SB_WORKER_WEBHOOK_URL", "\u{201C}https://hooks.example/hunter2\u{201D}"), ("SB_ENV", "\"dev\""),
    ("SB_DISCOVER_TARGETS_JSON", "'[]'"), ("SB_WORKER_LOCAL_ADDR", "\"127.0.0.1:8091\""),
    ("SB_WORKER_PAGERDUTY_ROUTING_KEY", "\"hunter2\""), ("DATABASE_URL", "\"postgres://127.0.0.1/control"),
  ])
  func aValueInQuotationMarksIsRefusedForThem(name: String, text: String) {
    let faults = SettingsTests.faults([name: text])
    #expect(faults.count == 1 && faults[0].contains("in quotation marks"))
    #expect(!faults[0].contains("hunter2"))
  }

  @Test func whitespaceAroundARefusedValueIsNamed() {
    for (name, text) in [
      ("DATABASE_URL", "postgres://127.0.0.1/control\n"), ("SB_WORKER_LEASE", " 15s"), ("SB_ENV", "dev "),
    ] {
      let faults = SettingsTests.faults([name: text])
      #expect(faults.count == 1 && faults[0].contains("with whitespace or a line break"), "\(name)")
    }
  }

  @Test(arguments: [
    ("\u{FEFF}", ""), ("", "\n"), ("", "\r\n"), ("\u{FEFF}", "\r\n"), ("", "\n\n\n"), ("", "\r\n\r\n"), ("", "\r"),
  ])
  func aMarkAndLineEndsAreNoPartOfAFile(before: String, after: String) throws {
    let url = "redis://:hunter2@127.0.0.1:7000/3"
    try Self.withFile(Array((before + url + after).utf8)) { path in
      let (settings, warned) = try Self.load(["REDIS_URL": "", "REDIS_URL_FILE": path])
      #expect(settings[.redisURL].port == 7_000 && settings[.redisURL].database == 3 && warned.isEmpty)
    }
  }

  @Test func whatIsWrongWithAFileIsSaid() throws {
    func fault(_ bytes: [UInt8]) throws -> String {
      try Self.withFile(bytes) { path in
        SettingsTests.faults(["REDIS_URL": "", "REDIS_URL_FILE": path]).joined(separator: "|")
      }
    }
    #expect(try fault(Array("\"redis://127.0.0.1\"\n".utf8)).contains("in quotation marks"))
    #expect(try fault([0xFF, 0xFE] + Array("r\0e\0".utf8)).contains("UTF-16"))
    #expect(try fault(Array("redis://:".utf8) + [0xE9] + Array("@127.0.0.1".utf8)).contains("UTF-8 text"))
    #expect(try fault(Array("\u{FEFF}\r\n".utf8)).contains("names an empty file"))
    #expect(try fault([UInt8](repeating: 0x61, count: SettingRow.byteLimit + 1)).contains("longer than 4194304 bytes"))
    #expect(try fault(Array("redis://127.0.0.1 \n".utf8)).contains("whitespace"))
    func fault(path: String) -> String {
      SettingsTests.faults(["REDIS_URL": "", "REDIS_URL_FILE": path]).joined(separator: "|")
    }
    #expect(fault(path: "/dev").contains("it is a directory"))
    #expect(fault(path: "/no/such/file").contains("no such file or directory"))
    #expect(fault(path: "\"/etc/hostname\"").contains("in quotation marks"))
  }

  @Test func sixHundredTargetsFitAFile() throws {
    let target = #"{"name":"%","cluster":"c","provider_type":"vault","provider_config":{"note":"#
    let targets = (0..<600).map { "\(target)\"\(String(repeating: "x", count: 220))\"},\"scope\":{\"number\":\($0)}}" }
    let document =
      "[" + targets.enumerated().map { $1.replacing("%", with: "target-\($0)") }.joined(separator: ",\n") + "]\n"
    #expect(document.utf8.count > 176_000)
    try Self.withFile(Array(document.utf8)) { path in
      let (settings, _) = try Self.load(["SB_DISCOVER_TARGETS_JSON_FILE": path])
      #expect(settings[.discoverTargets].targets.count == 600)
    }
  }

  private static func withFile<Result>(_ bytes: [UInt8], _ body: (String) throws -> Result) throws -> Result {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("setting-\(UUID().uuidString)")
    try Data(bytes).write(to: file)
    defer { unlink(file.path) }
    return try body(file.path)
  }

  // MARK: Variables of others

  @Test func theVariablesOfAKubernetesServiceAreLeftAlone() throws {
    let service = [
      "SB_WORKER_SERVICE_HOST": "10.0.0.1", "SB_WORKER_SERVICE_PORT": "8091", "SB_WORKER_SERVICE_PORT_PROBES": "8091",
      "SB_WORKER_SERVICE_PORT_HTTP_METRICS": "8092", "SB_WORKER_PORT": "tcp://10.0.0.1:8091",
      "SB_WORKER_PORT_8091_TCP": "tcp://10.0.0.1:8091", "SB_WORKER_PORT_8091_TCP_PROTO": "tcp",
      "SB_WORKER_PORT_8091_TCP_PORT": "8091", "SB_WORKER_PORT_8091_TCP_ADDR": "10.0.0.1",
      "SB_WORKER_METRICS_SERVICE_HOST": "fd00::1", "SB_WORKER_METRICS_PORT": "udp://[fd00::1]:53",
      "SB_WORKER_METRICS_PORT_53_UDP": "udp://[fd00::1]:53", "SB_WORKER_PORT_9_SCTP_ADDR": "10.0.0.1",
    ]
    #expect(try Self.load(service).warned.isEmpty)
  }

  @Test func aVariableThatLooksAlmostLikeOneIsAWarning() throws {
    let own = [
      "SB_WORKER_PORT": "8091", "SB_WORKER_PORTS": "tcp://10.0.0.1:8091", "SB_WORKER_HOST": "10.0.0.1",
      "SB_WORKER_PORT_X_TCP": "1", "SB_WORKER_PORT_8091": "1", "SB_WORKER_8091_TCP": "1", "SB_WORKER_SERVICE": "1",
      "SB_WORKER_PORT_70000_TCP": "1", "SB_WORKER_SERVICEPORT": "1", "SB_WORKER_PORT_8091_TCP_NAME": "1",
    ]
    #expect(try Self.load(own).warned == own.keys.sorted())
  }
}
