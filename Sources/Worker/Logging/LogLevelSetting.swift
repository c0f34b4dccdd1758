// Which lines are logged.

/// The minimum level that is logged.
enum LogLevelSetting: String, CaseIterable, Sendable {
  case debug, info, warn, error
}

extension Setting where Value == LogLevelSetting {
  static var logLevel: Setting {
    var setting = Setting(
      name: "LOG_LEVEL", kind: "debug, info, warn or error", absence: .text("info"),
      help: "Minimum log level, in any case."
    ) { text in
      if let level = LogLevelSetting(rawValue: text.lowercased()) { return .accepted(level) }
      return .accepted(.info, warnings: ["not debug, info, warn or error: it counts as info"])
    }
    setting.keepsQuotationMarks = true
    return setting
  }
}
