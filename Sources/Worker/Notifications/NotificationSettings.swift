// The settings that all sinks share, and the table of notifications. Each sink declares its own settings.
// Invariant: every setting that can hold a credential is a secret, including URLs with their paths.

import Reactor

extension Setting where Value == Event.Severity {
  static var notifyMinSeverity: Setting {
    .choice(
      "SB_WORKER_NOTIFY_MIN_SEVERITY", default: .info,
      help: "Minimum severity of notifications. A recovery is sent wherever its failure was sent.")
  }
}

extension Setting where Value == Event.Severity? {
  /// The minimum severity of one sink.
  static func minSeverity(_ name: String, of sink: String, default absent: Event.Severity? = nil) -> Setting {
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

extension Setting where Value == String? {
  static var notifyAuthorityFile: Setting {
    .optional(
      "SB_WORKER_NOTIFY_CA_FILE", kind: "path",
      help: "PEM file of CA certificates for verifying notification servers. Defaults to the system's."
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
}

extension Setting where Value == Duration {
  static var outageAfter: Setting {
    .duration(
      "SB_WORKER_OUTAGE_AFTER", default: .seconds(60),
      help: "Notify after PostgreSQL or Redis has been unavailable for this long.")
  }
}

extension SettingRow {
  /// The settings of notifications, in the order in which they are shown.
  static let notifications: [SettingRow] =
    [Setting.notifyMinSeverity.row, Setting.notifyAuthorityFile.row, Setting.outageAfter.row]
    + webhook + slack + pagerDuty + mail
}
