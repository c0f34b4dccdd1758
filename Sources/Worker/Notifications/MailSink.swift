// E-mail: an event as a plain-text mail.

import Reactor

/// Sends mails over SMTP.
struct MailSink: Sink {
  let name = "email"
  let minSeverity: Event.Severity
  let url: String
  let encryption: TransferRequest.MailEncryption
  let sender: String
  let recipients: [String]
  /// The worker's name in EHLO; nil if the URL has it.
  let clientName: String?
  let origin: NotificationOrigin

  func request(for event: Event, at time: WallClockTime) -> TransferRequest {
    TransferRequest(
      url: url,
      content: .mail(
        from: sender, to: recipients, message: message(event, at: time), encryption: encryption,
        clientName: clientName))
  }

  private func message(_ event: Event, at time: WallClockTime) -> [UInt8] {
    var mail = MailMessage()
    mail.identifier("Date", time.rfc5322)
    mail.identifier("From", "\(Version.program) <\(sender)>")
    mail.addresses("To", recipients)
    mail.header("Subject", "[\(origin.namespace)] \(event.severity.rawValue): \(event.title)")
    // The same for every attempt, so that a mail program can show a duplicate once.
    mail.identifier("Message-ID", "<\(event.id)@\(domain)>")
    // Suppresses automatic replies (RFC 3834).
    mail.identifier("Auto-Submitted", "auto-generated")
    return mail.bytes(text: text(event))
  }

  private var domain: Substring {
    sender.lastIndex(of: "@").map { sender[sender.index(after: $0)...] } ?? "localhost"
  }

  private func text(_ event: Event) -> String {
    var rows = [("severity", event.severity.rawValue), ("component", event.component)]
    if !event.detail.isEmpty { rows.append(("detail", event.detail)) }
    for count in event.metadata { rows.append((count.name, "\(count.count)")) }
    rows += [("time", event.time.rfc3339), ("replica", origin.replica), ("namespace", origin.namespace)]
    let width = rows.map { $0.0.utf8.count }.max() ?? 0
    var text = event.title + "\n\n"
    for (name, value) in rows {
      text += "\(name):\(String(repeating: " ", count: width - name.utf8.count + 1))\(value)\n"
    }
    return text + "\n-- \n\(Version.program) \(Version.number)\n"
  }
}

extension Setting where Value == String? {
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
        Client name in EHLO. Defaults to the path of SB_WORKER_SMTP_URL, the host's name if it has a dot, or its \
        address as [192.0.2.1].
        """
    ) {
      MailAddress.isClientName($0) ? nil : "a name with a dot, such as worker.example.com, or an address in brackets"
    }
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

extension Setting where Value == TransferRequest.MailEncryption {
  static var smtpStartTLS: Setting {
    .choice(
      "SB_WORKER_SMTP_STARTTLS", default: .required,
      help:
        "STARTTLS with an smtp:// server: required, preferred (plaintext if not offered) or never."
    )
  }
}

extension Setting where Value == Event.Severity? {
  static var smtpMinSeverity: Setting { .minSeverity("SB_WORKER_SMTP_MIN_SEVERITY", of: "e-mail") }
}

extension SettingRow {
  static let mail: [SettingRow] = [
    Setting.smtpURL.row, Setting.smtpStartTLS.row, Setting.smtpFrom.row, Setting.smtpTo.row, Setting.smtpHelo.row,
    Setting.smtpMinSeverity.row,
  ]
}
