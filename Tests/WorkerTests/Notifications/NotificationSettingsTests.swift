// The settings of notifications, and secrets in files: accepted values, and every reason for a refusal.

import Foundation
import Reactor
import Testing

@testable import Worker

@Suite struct NotificationSettingsTests {
  static func load(_ more: [String: String]) throws -> Settings {
    try SettingsTests.load(more).settings
  }

  static func faults(_ more: [String: String]) -> [String] {
    SettingsTests.faults(more)
  }

  /// A temporary file.
  static func withFile(_ content: String, _ body: (String) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("secret-\(UUID().uuidString)").path
    try Data(content.utf8).write(to: URL(fileURLWithPath: path))
    // A file that is left behind does not fail the test.
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
  }

  @Test func withoutSettingsThereIsNoSink() throws {
    let settings = try Self.load([:])
    #expect(settings[.webhookURL] == nil && settings[.slackURL] == nil && settings[.pagerDutyRoutingKey] == nil)
    #expect(settings[.smtpURL] == nil && settings[.smtpTo] == [] && settings[.smtpStartTLS] == .required)
    #expect(settings[.notifyMinSeverity] == .info && settings[.webhookMinSeverity] == nil)
    #expect(settings[.pagerDutyMinSeverity] == .error && settings[.outageAfter] == .seconds(60))
  }

  @Test func aMailServerRequiresASenderAndRecipients() {
    #expect(
      Self.faults(["SB_WORKER_SMTP_URL": "smtp://mail:587"]) == [
        "SB_WORKER_SMTP_FROM is required when SB_WORKER_SMTP_URL is set",
        "SB_WORKER_SMTP_TO is required when SB_WORKER_SMTP_URL is set",
      ])
    let complete = [
      "SB_WORKER_SMTP_URL": "smtps://u:p@mail:465", "SB_WORKER_SMTP_FROM": "w@x.y", "SB_WORKER_SMTP_TO": "a@x.y, b@x.y",
    ]
    #expect(Self.faults(complete) == [])
    #expect(try! Self.load(complete)[.smtpTo] == ["a@x.y", "b@x.y"])
  }

  @Test(arguments: ["a", "@b", "a@", "a b@c", "a@c\r\nBcc: d@e", "<a@b>", "a@b,", "ä@b"])
  func whatCouldForgeAHeaderIsNoAddress(text: String) {
    #expect(Self.faults(["SB_WORKER_SMTP_FROM": text]).count == 1)
    #expect(Self.faults(["SB_WORKER_SMTP_TO": "ok@x.y,\(text)"]).count == 1)
  }

  @Test(arguments: [
    ("worker.example.com", true), ("[192.0.2.1]", true), ("[IPv6:2001:db8::1]", true), ("a_b.example.com", true),
    ("worker", false), ("", true), (".x", false), ("x.", false), ("a b.c", false), ("a.b\r\nMAIL", false),
    ("[]", false),
    ("[a.b", false), ("a.b>", false), ("ä.b", false),
  ]) func aMailServersClientHasANameWithADotOrAnAddress(text: String, isGood: Bool) {
    #expect(Self.faults(["SB_WORKER_SMTP_HELO": text]).isEmpty == isGood)
  }

  @Test func theEHLONameComesFromTheSettingTheURLOrTheHost() throws {
    func name(_ more: [String: String]) throws -> String? {
      let mail = [
        "SB_WORKER_SMTP_URL": "smtp://mail:587", "SB_WORKER_SMTP_FROM": "w@x.y", "SB_WORKER_SMTP_TO": "a@x.y",
      ]
      let origin = NotificationOrigin(replica: "r", namespace: "n")
      let sinks = SinkSet(try Self.load(mail.merging(more) { $1 }), origin: origin).sinks
      return try #require(sinks.first as? MailSink).clientName
    }
    #expect(try name(["SB_WORKER_SMTP_HELO": "a.b", "SB_WORKER_SMTP_URL": "smtp://mail/c.d"]) == "a.b")
    #expect(try name(["SB_WORKER_SMTP_URL": "smtp://mail/c.d"]) == nil)
    #expect(MailAddress.isClientName(try #require(try name([:]))))
    #expect(HostProcess.addressLiteral.hasPrefix("[") && MailAddress.isClientName(HostProcess.addressLiteral))
  }

  @Test(arguments: ["http://mail", "smtp:mail", "smtp://", "smtp://mail:0"])
  func whatIsNoMailServersURLIsRefused(url: String) {
    #expect(
      Self.faults(["SB_WORKER_SMTP_URL": url, "SB_WORKER_SMTP_FROM": "a@b", "SB_WORKER_SMTP_TO": "a@b"]).count == 1)
  }

  @Test func aWebhooksSecretIsBase64WithOrWithoutItsPrefix() throws {
    let key = [UInt8](0..<24)
    for text in ["whsec_" + Base64.text(key), Base64.text(key)] {
      #expect(try Self.load(["SB_WORKER_WEBHOOK_SECRET": text])[.webhookSecret] == key)
    }
    for text in ["whsec_", "whsec_short", "whsec_" + Base64.text([UInt8](0..<23)), "no base64 at all"] {
      #expect(Self.faults(["SB_WORKER_WEBHOOK_SECRET": text]).count == 1, "\(text)")
    }
  }

  @Test func theCertificateFileIsCheckedAtBoot() throws {
    #expect(
      Self.faults(["SB_WORKER_NOTIFY_CA_FILE": "/no/such/file"]) == [
        "SB_WORKER_NOTIFY_CA_FILE must be a readable file, but: no such file or directory "
          + "(got \"/no/such/file\")"
      ])
    try Self.withFile("nothing of the kind") { path in
      #expect(Self.faults(["SB_WORKER_NOTIFY_CA_FILE": path]).count == 1)
    }
    try Self.withFile("-----BEGIN CERTIFICATE-----\n") { path in
      #expect(Self.faults(["SB_WORKER_NOTIFY_CA_FILE": path]) == [])
    }
  }

  // MARK: Secrets in files

  @Test(arguments: ["https://h/planted", "https://h/planted\n", "https://h/planted\r\n"])
  func aFileHoldsTheSecretWithoutTheEndOfItsLine(content: String) throws {
    try Self.withFile(content) { path in
      let settings = try Self.load(["SB_WORKER_WEBHOOK_URL_FILE": path])
      #expect(settings[.webhookURL] == "https://h/planted")
    }
  }

  @Test func everySecretCanBeReadFromAFileAndErrorsNameTheVariableThatWasSet() throws {
    try Self.withFile("\u{1}planted") { path in
      for row in SettingRow.all where row.isSecret {
        var environment = SettingsTests.required
        environment[row.name] = nil
        environment[row.name + "_FILE"] = path
        let faults = #expect(throws: ConfigurationFaults.self) {
          _ = try Settings.load(environment: environment)
        }
        let texts = faults?.faults.map(\.description) ?? []
        #expect(texts.contains { $0.hasPrefix(row.name + "_FILE ") }, "\(row.name): \(texts)")
        #expect(!texts.contains { $0.contains("planted") })
      }
    }
  }

  @Test func aSecretAndItsFileTogetherAreRefused() throws {
    try Self.withFile("https://h/planted") { path in
      #expect(
        Self.faults(["SB_WORKER_WEBHOOK_URL": "https://h/planted", "SB_WORKER_WEBHOOK_URL_FILE": path])
          == ["SB_WORKER_WEBHOOK_URL_FILE must not be set together with SB_WORKER_WEBHOOK_URL"])
    }
  }

  @Test func aMissingOrEmptyFileIsRefused() throws {
    #expect(
      Self.faults(["SB_WORKER_WEBHOOK_URL_FILE": "/no/such/file"])
        == ["SB_WORKER_WEBHOOK_URL_FILE names a file that cannot be read: no such file or directory"])
    try Self.withFile("\n") { path in
      #expect(
        Self.faults(["SB_WORKER_WEBHOOK_URL_FILE": path])
          == ["SB_WORKER_WEBHOOK_URL_FILE names an empty file"])
    }
  }

  @Test func aRequiredSettingMayBeReadFromAFileAndItsVariableIsKnown() throws {
    try Self.withFile("postgres://h/d\n") { path in
      let (_, warnings) = try Settings.load(
        environment: ["DATABASE_URL_FILE": path, "REDIS_URL": "redis://h", "SB_WORKER_SMTP_URL_FILE": ""])
      #expect(warnings == [])
    }
  }
}
