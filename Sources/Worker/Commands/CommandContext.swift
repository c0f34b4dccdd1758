// What a command uses from the process: environment, streams, clock, and the settings read from the environment.
// Invariant: a command takes these from here and not from the process, so that tests can substitute them.

import Logging
import Reactor

/// A command's context.
struct CommandContext: Sendable {
  /// Reads the environment when needed, so that no copy of its secrets stays in memory.
  let readEnvironment: @Sendable () -> [String: String]
  let clock: LoopClock
  /// Where log lines go.
  let log: LogOutput
  /// Whether standard output is a terminal.
  let isTerminal: Bool
  /// Confines this process; does nothing in a test.
  var confine: Sandbox.Confine = { _ in [] }

  var environment: [String: String] { readEnvironment() }

  /// Whether output may be coloured: on a terminal that knows colours, and unless NO_COLOR is set
  /// (https://no-color.org).
  var isColoured: Bool {
    guard isTerminal else { return false }
    let environment = environment
    return environment["TERM"] != "dumb" && environment["NO_COLOR"]?.isEmpty ?? true
  }

  /// The settings of these rows; nil if they have faults, each of which is logged.
  ///
  /// - Parameter isAlone: whether all other variables are ignored because they belong to other rows.
  func settings(_ rows: [SettingRow] = SettingRow.all, isAlone: Bool = false) -> Settings? {
    let all = environment
    let environment =
      isAlone
      ? all.filter { name, _ in
        name == SettingsFile.variable || rows.contains { $0.variables.contains(name) }
      } : all
    return Boot.settings(environment: environment, rows: rows, output: log)
  }

  func logger(_ settings: Settings) -> Logger { Logger.worker(level: settings[.logLevel].level, output: log) }

  /// Prints to standard output, blocking on a slow reader: nothing else runs in this process.
  ///
  /// - Returns: 0, or 1 if the reader has exited.
  func show(_ text: String) -> Int32 {
    let bytes = Array(text.utf8)
    return StandardStream.output.write(bytes[...], patience: .seconds(60 * 60), on: clock) == bytes.count ? 0 : 1
  }

  /// Runs `body` on the loop with the sinks of these settings.
  func withNotifications(
    _ settings: Settings, _ body: @escaping @EventLoop @Sendable (Notifications) async -> Int32
  ) -> Int32 {
    let proxies = ProxyRules(environment: environment)
    return EventLoop.run {
      do throws(TransferLibrary.Missing) {
        return await body(try Notifications(settings, proxies: proxies, clock: clock))
      } catch {
        logger(settings).error(
          "notifications cannot be sent without libcurl", metadata: ["error": "\(error.description)"])
        return ConfigurationFaults.exitStatus
      }
    }
  }
}
