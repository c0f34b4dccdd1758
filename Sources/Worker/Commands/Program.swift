// The program: reads the command line, then the settings, then runs the command. Invariant: a fault is a JSON line
// on stderr and an exit status of sysexits.h, before any server is contacted. Called by main.

import Logging
import Reactor

/// The program: secrets-bridge-worker.
package enum Program {
  /// The clock of the process, which is passed to everything below.
  private static let clock = EventLoop.clock
  private static let output = LogOutput.standardError(clock)

  /// Does what the arguments ask for, and returns the process's exit status.
  package static func run(_ arguments: [String]) -> Int32 {
    let rows = SettingRow.all
    switch Invocation.parse(arguments) {
    case .help: return show(HelpText.text(rows: rows))
    case .helpAsMarkdown: return show(HelpText.markdown(rows: rows))
    case .version: return show(Version.text + "\n")
    case .fault(let text):
      Logger.worker(output: output).error("invalid command line", metadata: ["error": .string(text)])
      return Invocation.faultExitStatus
    case .probe(let name):
      // The other settings concern only the queried worker.
      let rows = [Setting.localAddress.row, Setting.logLevel.row]
      let environment = HostProcess.environment.filter { variable in rows.contains { $0.name == variable.key } }
      guard let settings = Boot.settings(environment: environment, rows: rows, output: output) else {
        return ConfigurationFaults.exitStatus
      }
      return EventLoop.run {
        await ProbeCommand.ask(
          "/" + name, at: settings[.localAddress], clock: clock, logger: Logger.worker(output: output))
      }
    case .run(let options):
      return configured(rows) { settings, notifications, logger in
        let service = Service(settings, notifications: notifications, clock: clock, logger: logger)
        return options.once ? await service.runOnce(options) : await service.run()
      }
    case .notifyTest:
      return configured(rows) { _, notifications, _ in await NotificationTest.run(notifications, clock: clock) }
    }
  }

  /// Runs `body` on the loop with the settings, if they are valid.
  private static func configured(
    _ rows: [SettingRow], _ body: @escaping @EventLoop @Sendable (Settings, Notifications, Logger) async -> Int32
  ) -> Int32 {
    let environment = HostProcess.environment
    guard let settings = Boot.settings(environment: environment, rows: rows, output: output) else {
      return ConfigurationFaults.exitStatus
    }
    let logger = Logger.worker(level: settings[.logLevel].level, output: output)
    let proxies = ProxyRules(environment: environment)
    return EventLoop.run {
      do throws(TransferLibrary.Missing) {
        return await body(settings, try Notifications(settings, proxies: proxies, clock: clock), logger)
      } catch {
        logger.error("notifications cannot be sent without libcurl", metadata: ["error": "\(error.description)"])
        return ConfigurationFaults.exitStatus
      }
    }
  }

  /// Prints `text` to stdout, however long its reader takes: nothing else runs in this process.
  private static func show(_ text: String) -> Int32 {
    let bytes = Array(text.utf8)
    return StandardStream.output.write(bytes[...], patience: .seconds(60 * 60), on: clock) == bytes.count ? 0 : 1
  }
}
