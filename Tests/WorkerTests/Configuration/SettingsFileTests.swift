// The settings file: what is taken from it, and what is wrong with one.

import Foundation
import Reactor
import Testing

@testable import Worker

@Suite struct SettingsFileTests {
  private static func withFile<Value>(_ text: String, _ body: (String) throws -> Value) throws -> Value {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("settings-\(UUID().uuidString)")
    try Data(text.utf8).write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    return try body(file.path)
  }

  private static func faults(_ text: String, _ changes: [String: String] = [:]) throws -> [String] {
    try withFile(text) { path in
      SettingsTests.faults(changes.merging([SettingsFile.variable: path]) { $1 })
    }
  }

  @Test func itsSettingsAreTakenLikeTheEnvironments() throws {
    let text =
      "# comment\r\n\r\n \t# indented\r\n \r\n  LOG_LEVEL=debug\r\nSB_WORKER_PACE=1/4\n"
      + "SB_WORKER_WRAPS_EXPIRED_INTERVAL=\n"
    try Self.withFile(text) { path in
      let (settings, warnings) = try SettingsTests.load([SettingsFile.variable: path])
      #expect(settings[.logLevel] == .debug && settings[.pace] == .onePart(of: 4))
      #expect(settings[.wrapsExpiredInterval] == .seconds(60))
      #expect(warnings.isEmpty)
      let report = ConfigReport(environment: SettingsTests.required.merging([SettingsFile.variable: path]) { $1 })
      #expect(report.isValid)
      #expect(report.rows.first { $0.name == "SB_WORKER_PACE" }?.source == .settingsFile)
    }
  }

  @Test func theEnvironmentTakesPrecedenceWithAWarning() throws {
    try Self.withFile("LOG_LEVEL=debug\nSB_WORKER_WEBHOOK_URL=http://a/\n") { path in
      let secret = FileManager.default.temporaryDirectory.appendingPathComponent("url-\(UUID().uuidString)")
      try Data("http://b/".utf8).write(to: secret)
      defer { try? FileManager.default.removeItem(at: secret) }
      let (settings, warnings) = try SettingsTests.load([
        SettingsFile.variable: path, "LOG_LEVEL": "warn", "SB_WORKER_WEBHOOK_URL_FILE": secret.path,
      ])
      #expect(settings[.logLevel] == .warn && settings[.webhookURL] == "http://b/")
      #expect(warnings.map(\.variable) == ["LOG_LEVEL", "SB_WORKER_WEBHOOK_URL"])
    }
  }

  @Test func everyFaultNamesItsLineAndRepeatsNothingOfIt() throws {
    let text = """
      SB_WORKER_PACE=fast
      planted
      PLANTED=1
      SB_WORKER_WRAPS_EXPIRED_INTERVALL=1m
      SB_WORKER_SANDBOX=off
      LOG_LEVEL=info
      LOG_LEVEL=debug
      export SB_WORKER_PACE=1/4
      SB_WORKER_PACE = 1/4
      """
    let faults = try Self.faults(text)
    #expect(
      faults == [
        "SB_WORKER_SETTINGS_FILE line 2 is not of the form NAME=value",
        "SB_WORKER_SETTINGS_FILE line 3: no setting has this name",
        "SB_WORKER_SETTINGS_FILE line 4: no setting has this name. Did you mean SB_WORKER_WRAPS_EXPIRED_INTERVAL?",
        "SB_WORKER_SETTINGS_FILE line 5: SB_WORKER_SANDBOX must be set in the environment",
        "SB_WORKER_SETTINGS_FILE line 7: LOG_LEVEL is set in line 6, too",
        "SB_WORKER_SETTINGS_FILE line 8: must be NAME=value without export",
        "SB_WORKER_SETTINGS_FILE line 9: must have no space before =",
        """
        SB_WORKER_PACE must be full, a part of the time from 1/2 to 1/100, or a rate such as 5000/s (got "fast")
        """,
      ])
  }

  @Test func aFileThatCannotBeReadIsAFault() {
    #expect(
      SettingsTests.faults([SettingsFile.variable: "/nowhere"]) == [
        "SB_WORKER_SETTINGS_FILE names a file that cannot be read: no such file or directory"
      ])
  }

  /// A binary file, a log, a list of something else: told in a few lines, and not read for minutes.
  @Test func anotherKindOfFileHasItsFirstFaultsReported() throws {
    let clock = ContinuousClock()
    let began = clock.now
    let faults = try Self.faults(String(repeating: "SB_WORKER_PLANTED=1\n", count: 200_000))
    #expect(faults.count == 21 && faults.last == "SB_WORKER_SETTINGS_FILE was read up to line 20")
    #expect(clock.now - began < .seconds(2))
  }

  @Test func aFaultInAnotherLineKeepsNoLoginOut() throws {
    try Self.withFile("PLANTED=1\nplanted\nREDIS_URL=redis://h/1\n") { path in
      let row = Setting.redisURL.row
      let file = SettingsFile(mergedInto: [SettingsFile.variable: path], rows: [row], checksOtherLines: false)
      let (settings, _) = try Settings.load(file, rows: [row])
      #expect(settings[.redisURL].redactedURL == "redis://h:6379/1")
    }
  }

  @Test func aPartOfTheTableLeavesOutTheOtherSettings() throws {
    try Self.withFile("SB_WORKER_PACE=fast\nLOG_LEVEL=debug\n") { path in
      let (settings, warnings) = try Settings.load(
        environment: [SettingsFile.variable: path], rows: [Setting.logLevel.row])
      #expect(settings[.logLevel] == .debug && warnings.isEmpty)
    }
  }
}
