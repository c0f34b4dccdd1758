// Loads the configuration at startup and logs its faults. Called by main, before any server is contacted.

import Logging

/// The configuration check at startup.
enum Boot {
  /// The settings; nil if they have faults, each of which is logged on its own line.
  static func settings(
    environment: [String: String], rows: [SettingRow], output: LogOutput
  ) -> Settings? {
    do {
      let (settings, warnings) = try Settings.load(environment: environment, rows: rows)
      log(warnings, to: Logger.worker(level: settings[.logLevel].level, output: output))
      return settings
    } catch {
      let logger = Logger.worker(output: output)
      log(error.warnings, to: logger)
      for fault in error.faults {
        logger.error(
          "invalid configuration",
          metadata: ["variable": .string(fault.variable), "error": .string(fault.description)])
      }
      return nil
    }
  }

  private static func log(_ warnings: [ConfigurationWarning], to logger: Logger) {
    for warning in warnings {
      logger.warning(
        "configuration warning",
        metadata: ["variable": .string(warning.variable), "detail": .string(warning.text)])
    }
  }
}
