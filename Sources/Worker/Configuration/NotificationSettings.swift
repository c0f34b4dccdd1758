// The settings of notifications: where each sink sends to, and what it is told. Read through Settings.
// Invariant: whatever holds a credential is a secret, a URL with its path included.

import Reactor

extension Setting where Value == String? {
  static var webhookURL: Setting {
    .optional(
      "SB_WORKER_WEBHOOK_URL", kind: "http or https URL", isSecret: true,
      help: "Where notifications are posted to as JSON. Without any sink they are log lines only.",
      check: { WebURL.expectation($0) })
  }

  static var slackURL: Setting {
    .optional(
      "SB_WORKER_SLACK_WEBHOOK_URL", kind: "http or https URL", isSecret: true,
      help: "An incoming webhook of Slack, which gets notifications as Block Kit messages.",
      check: { WebURL.expectation($0) })
  }

  static var pagerDutyRoutingKey: Setting {
    .optional(
      "SB_WORKER_PAGERDUTY_ROUTING_KEY", kind: "routing key", isSecret: true,
      help: "The integration key of a PagerDuty service (Events API v2): failures trigger, recoveries resolve."
    ) { isVisibleASCII($0) && $0.utf8.count <= 100 ? nil : "at most 100 visible ASCII characters" }
  }

  static var smtpURL: Setting {
    var setting = Setting.optional(
      "SB_WORKER_SMTP_URL", kind: "smtp or smtps URL", isSecret: true,
      help: "The mail server that sends notifications: smtp://user:password@host:587 or smtps://….",
      check: { WebURL.expectation($0, schemes: ["smtp", "smtps"]) })
    setting.needs = ["SB_WORKER_SMTP_FROM", "SB_WORKER_SMTP_TO"]
    return setting
  }

  static var smtpFrom: Setting {
    .optional("SB_WORKER_SMTP_FROM", kind: "mail address", help: "The sender of the mails.") {
      MailAddress.isOne($0) ? nil : "an address such as worker@example.com"
    }
  }

  static var notifyAuthorityFile: Setting {
    .optional(
      "SB_WORKER_NOTIFY_CA_FILE", kind: "path",
      help: "Certificates in PEM that the sinks' servers are verified against, instead of the system's."
    ) { path in
      do throws(SmallFile.Unreadable) {
        let text = try SmallFile.contents(of: path, byteLimit: 4 << 20)
        let isPEM = String(decoding: text, as: UTF8.self).contains("-----BEGIN CERTIFICATE-----")
        return isPEM ? nil : "a file with certificates in PEM"
      } catch {
        return "a file that can be read, but: \(error.reason)"
      }
    }
  }

  private static func isVisibleASCII(_ text: String) -> Bool {
    text.utf8.allSatisfy { (0x21...0x7E).contains($0) }
  }
}

extension Setting where Value == [String] {
  static var smtpTo: Setting {
    Setting(
      name: "SB_WORKER_SMTP_TO", kind: "mail addresses", absence: .value([]),
      help: "Who gets the mails: addresses parted by commas."
    ) { text in
      let addresses = MailAddress.list(text)
      let areGood = !addresses.isEmpty && addresses.count <= MailAddress.countLimit
      guard areGood, addresses.allSatisfy(MailAddress.isOne) else {
        return .expected("1 to \(MailAddress.countLimit) addresses such as ops@example.com, parted by commas")
      }
      return .accepted(addresses)
    }
  }
}

extension Setting where Value == [UInt8]? {
  /// The key's bytes.
  static var webhookSecret: Setting {
    Setting(
      name: "SB_WORKER_WEBHOOK_SECRET", kind: "whsec_ and base64", absence: .value(nil),
      help: "Signs what the webhook gets, as Standard Webhooks has it, so that the receiver can verify it.",
      isSecret: true
    ) { text in
      // https://www.standardwebhooks.com: between 24 and 64 bytes, in base64 behind a prefix.
      let prefix = "whsec_"
      let encoded = text.hasPrefix(prefix) ? String(text.dropFirst(prefix.utf8.count)) : text
      guard let key = Base64.bytes(encoded), (24...64).contains(key.count) else {
        return .expected("24 to 64 bytes in base64, with or without \(prefix) before them")
      }
      return .accepted(key)
    }
  }
}

extension Setting where Value == String {
  static var pagerDutyURL: Setting {
    Setting(
      name: "SB_WORKER_PAGERDUTY_URL", kind: "http or https URL",
      absence: .text("https://events.pagerduty.com/v2/enqueue"),
      help: "Where PagerDuty takes events: another one for the EU's service region, or for tests.", isSecret: true
    ) { text in
      WebURL.expectation(text).map { .expected($0) } ?? .accepted(text)
    }
  }
}

extension Setting where Value == Bool {
  static var webhookSlackFormat: Setting {
    .boolean(
      "SB_WORKER_WEBHOOK_SLACK_FORMAT", default: false,
      help: "Whether the webhook gets Slack's {\"text\": …} instead of the flat JSON object.")
  }
}

extension Setting where Value == TransferRequest.MailEncryption {
  static var smtpStartTLS: Setting {
    .choice(
      "SB_WORKER_SMTP_STARTTLS", default: .required,
      help: "Whether mail goes to an smtp:// server without encryption: never, where it has no STARTTLS, or always.")
  }
}

extension Setting where Value == Duration {
  static var outageAfter: Setting {
    .duration(
      "SB_WORKER_OUTAGE_AFTER", default: .seconds(60),
      help: "PostgreSQL or Redis being away is notified after this long.")
  }
}

extension Setting where Value == Event.Severity {
  static var notifyMinSeverity: Setting {
    .choice(
      "SB_WORKER_NOTIFY_MIN_SEVERITY", default: .info,
      help: "The least severe events that sinks get. A recovery goes where its failure went.")
  }
}

extension Setting where Value == Event.Severity? {
  static var webhookMinSeverity: Setting { .minSeverity("SB_WORKER_WEBHOOK_MIN_SEVERITY", of: "the webhook") }
  static var slackMinSeverity: Setting { .minSeverity("SB_WORKER_SLACK_MIN_SEVERITY", of: "Slack") }
  static var smtpMinSeverity: Setting { .minSeverity("SB_WORKER_SMTP_MIN_SEVERITY", of: "e-mail") }
  /// Whoever is paged is woken: by default only for what needs hands.
  static var pagerDutyMinSeverity: Setting {
    .minSeverity("SB_WORKER_PAGERDUTY_MIN_SEVERITY", of: "PagerDuty", default: .error)
  }

  private static func minSeverity(_ name: String, of sink: String, default absent: Event.Severity? = nil) -> Setting {
    let choice = Setting<Event.Severity>.choice(
      name, default: absent ?? .info,
      help: "The same for \(sink) alone\(absent == nil ? "; unset: as for all" : "").")
    return Setting(
      name: name, kind: choice.kind, absence: absent.map { .text($0.rawValue) } ?? .value(nil), help: choice.help
    ) { text in
      switch choice.read(text) {
      case .accepted(let severity, _): .accepted(severity)
      case .refused(let expected): .refused(expected)
      }
    }
  }
}

/// Mail addresses, as far as a boot can check them: one stands in a header and in an SMTP command as it is.
enum MailAddress {
  static let countLimit = 50

  static func isOne(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    guard bytes.count <= 254, let at = bytes.lastIndex(of: UInt8(ascii: "@")), at > 0, at < bytes.count - 1 else {
      return false
    }
    return bytes.allSatisfy { (0x21...0x7E).contains($0) && !"<>()[],;:\\\"".utf8.contains($0) }
  }

  /// The elements of a list, without the blanks around them.
  static func list(_ text: String) -> [String] {
    var addresses: [String] = []
    var address = ""
    for character in text + "," {
      guard character == "," else {
        // A blank before an address is none of it; one behind it goes below.
        if character != " " || !address.isEmpty { address.append(character) }
        continue
      }
      while address.last == " " { address.removeLast() }
      addresses.append(address)
      address = ""
    }
    return addresses
  }
}

extension SettingRow {
  /// The settings of notifications, in the order in which they are shown.
  static let notifications: [SettingRow] = [
    Setting.notifyMinSeverity.row, Setting.notifyAuthorityFile.row, Setting.outageAfter.row,
    Setting.webhookURL.row, Setting.webhookSlackFormat.row, Setting.webhookSecret.row,
    Setting.webhookMinSeverity.row, Setting.slackURL.row, Setting.slackMinSeverity.row,
    Setting.pagerDutyRoutingKey.row, Setting.pagerDutyURL.row, Setting.pagerDutyMinSeverity.row,
    Setting.smtpURL.row, Setting.smtpStartTLS.row, Setting.smtpFrom.row, Setting.smtpTo.row,
    Setting.smtpMinSeverity.row,
  ]
}
