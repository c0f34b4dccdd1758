// The settings of notifications: destinations and thresholds. Read through Settings.
// Invariant: every setting that can hold a credential is a secret, including URLs with their paths.

import Reactor

extension Setting where Value == String? {
  static var webhookURL: Setting {
    .optional(
      "SB_WORKER_WEBHOOK_URL", kind: "http or https URL", isSecret: true,
      help: "URL that notifications are posted to as JSON. Without any sink they are only logged.",
      check: { WebURL.expectation($0) })
  }

  static var slackURL: Setting {
    .optional(
      "SB_WORKER_SLACK_WEBHOOK_URL", kind: "http or https URL", isSecret: true,
      help: "Slack incoming webhook; receives notifications as Block Kit messages.",
      check: { WebURL.expectation($0) })
  }

  static var pagerDutyRoutingKey: Setting {
    .optional(
      "SB_WORKER_PAGERDUTY_ROUTING_KEY", kind: "routing key", isSecret: true,
      help:
        "Integration key of a PagerDuty service (Events API v2). Failures trigger incidents, recoveries resolve them."
    ) { isVisibleASCII($0) && $0.utf8.count <= 100 ? nil : "at most 100 visible ASCII characters" }
  }

  static var smtpURL: Setting {
    var setting = Setting.optional(
      "SB_WORKER_SMTP_URL", kind: "smtp or smtps URL", isSecret: true,
      help: "Mail server for notifications: smtp://user:password@host:587 or smtps://….",
      check: { WebURL.expectation($0, schemes: ["smtp", "smtps"]) })
    setting.needs = ["SB_WORKER_SMTP_FROM", "SB_WORKER_SMTP_TO"]
    return setting
  }

  static var smtpFrom: Setting {
    .optional("SB_WORKER_SMTP_FROM", kind: "mail address", help: "Sender address of notification mails.") {
      MailAddress.isOne($0) ? nil : "an address in ASCII such as worker@example.com"
    }
  }

  static var smtpHelo: Setting {
    .optional(
      "SB_WORKER_SMTP_HELO", kind: "host name",
      help: """
        Client name sent to the mail server in EHLO. Defaults to the path of SB_WORKER_SMTP_URL, the host's name if it \
        has a dot, or its address as [192.0.2.1].
        """
    ) {
      MailAddress.isClientName($0) ? nil : "a name with a dot, such as worker.example.com, or an address in brackets"
    }
  }

  static var notifyAuthorityFile: Setting {
    .optional(
      "SB_WORKER_NOTIFY_CA_FILE", kind: "path",
      help: "PEM file of the CA certificates that notification servers are verified against. Defaults to the system's."
    ) { path in
      do throws(SmallFile.Unreadable) {
        let text = try SmallFile.contents(of: path, byteLimit: 4 << 20)
        let start = text.firstIndex(ofText: "-----BEGIN CERTIFICATE-----")
        return start != nil ? nil : "a file with certificates in PEM"
      } catch {
        return "a readable file, but: \(error.reason)"
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
      help: "Comma-separated recipients of notification mails."
    ) { text in
      let addresses = MailAddress.list(text)
      let areGood = !addresses.isEmpty && addresses.count <= MailAddress.countLimit
      guard areGood, addresses.allSatisfy(MailAddress.isOne) else {
        return .mustBe(
          "1 to \(MailAddress.countLimit) comma-separated ASCII addresses such as ops@example.com")
      }
      return .accepted(addresses)
    }
  }
}

extension Setting where Value == [UInt8]? {
  /// The bytes of the key.
  static var webhookSecret: Setting {
    Setting(
      name: "SB_WORKER_WEBHOOK_SECRET", kind: "whsec_ and base64", absence: .value(nil),
      help: "Key that webhook requests are signed with, as specified by Standard Webhooks.",
      isSecret: true
    ) { text in
      // https://www.standardwebhooks.com: 24 to 64 bytes in base64 after a prefix.
      let prefix = "whsec_"
      let encoded = text.hasPrefix(prefix) ? String(text.dropFirst(prefix.utf8.count)) : text
      guard let key = Base64.bytes(encoded), (24...64).contains(key.count) else {
        return .mustBe("24 to 64 bytes in base64, optionally after \(prefix)")
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
      help: "URL of the Events API. The EU service region has its own.", isSecret: true
    ) { text in
      WebURL.expectation(text).map { .mustBe($0) } ?? .accepted(text)
    }
  }
}

extension Setting where Value == Bool {
  static var webhookSlackFormat: Setting {
    .boolean(
      "SB_WORKER_WEBHOOK_SLACK_FORMAT", default: false,
      help: "Post Slack's {\"text\": …} to the webhook instead of the flat JSON object.")
  }
}

extension Setting where Value == TransferRequest.MailEncryption {
  static var smtpStartTLS: Setting {
    .choice(
      "SB_WORKER_SMTP_STARTTLS", default: .required,
      help:
        "Use of STARTTLS with an smtp:// server: required, preferred (plaintext if it is not offered) or never."
    )
  }
}

extension Setting where Value == Duration {
  static var outageAfter: Setting {
    .duration(
      "SB_WORKER_OUTAGE_AFTER", default: .seconds(60),
      help: "Notify after PostgreSQL or Redis has been unavailable for this long.")
  }
}

extension Setting where Value == Event.Severity {
  static var notifyMinSeverity: Setting {
    .choice(
      "SB_WORKER_NOTIFY_MIN_SEVERITY", default: .info,
      help: "Minimum severity of notifications. A recovery is sent wherever its failure was sent.")
  }
}

extension Setting where Value == Event.Severity? {
  static var webhookMinSeverity: Setting { .minSeverity("SB_WORKER_WEBHOOK_MIN_SEVERITY", of: "the webhook") }
  static var slackMinSeverity: Setting { .minSeverity("SB_WORKER_SLACK_MIN_SEVERITY", of: "Slack") }
  static var smtpMinSeverity: Setting { .minSeverity("SB_WORKER_SMTP_MIN_SEVERITY", of: "e-mail") }
  /// A page wakes people, so only failures are sent by default.
  static var pagerDutyMinSeverity: Setting {
    .minSeverity("SB_WORKER_PAGERDUTY_MIN_SEVERITY", of: "PagerDuty", default: .error)
  }

  private static func minSeverity(_ name: String, of sink: String, default absent: Event.Severity? = nil) -> Setting {
    let choice = Setting<Event.Severity>.choice(
      name, default: absent ?? .info,
      help: "Minimum severity for \(sink)\(absent == nil ? "; defaults to SB_WORKER_NOTIFY_MIN_SEVERITY" : "").")
    return Setting(
      name: name, kind: choice.kind, absence: absent.map { .text($0.rawValue) } ?? .value(nil), help: choice.help
    ) { text in
      switch choice.read(text) {
      case .accepted(let severity, _): .accepted(severity)
      case .refused(let rules): .refused(rules)
      }
    }
  }
}

/// Validates mail addresses, which are copied unchanged to a header and an SMTP command.
enum MailAddress {
  static let countLimit = 50

  static func isOne(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    guard bytes.count <= 254, let at = bytes.lastIndex(of: UInt8(ascii: "@")), at > 0, at < bytes.count - 1 else {
      return false
    }
    return bytes.allSatisfy { (0x21...0x7E).contains($0) && !"<>()[],;:\\\"".utf8.contains($0) }
  }

  /// Whether a mail server may accept this as a client's name (RFC 5321, 4.1.3): a name with a dot, or an address.
  static func isClientName(_ text: String) -> Bool {
    var name = Array(text.utf8)
    guard name.count <= 255 else { return false }
    let isLiteral = name.first == UInt8(ascii: "[") && name.last == UInt8(ascii: "]") && name.count > 2
    if isLiteral { name = Array(name[1..<(name.count - 1)]) }
    let others: String.UTF8View = isLiteral ? ".:".utf8 : "-._".utf8
    let isSpelledWell = name.allSatisfy { byte in
      let letter = byte | 0x20
      return (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(letter)
        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || others.contains(byte)
    }
    let dots = name.indices.filter { name[$0] == UInt8(ascii: ".") }
    let isDotted = !dots.isEmpty && dots.first != 0 && dots.last != name.count - 1
    return isSpelledWell && (isLiteral || isDotted)
  }

  /// The trimmed elements of a list.
  static func list(_ text: String) -> [String] {
    var addresses: [String] = []
    var address = ""
    for character in text + "," {
      guard character == "," else {
        // Skips leading blanks; trailing ones are removed below.
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
    Setting.smtpHelo.row, Setting.smtpMinSeverity.row,
  ]
}
