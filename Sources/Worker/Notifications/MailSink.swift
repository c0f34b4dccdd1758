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
