// The way in: reads the command line, then the settings, then hands over. Invariant: whatever is wrong is a JSON line
// on stderr and an exit status of sysexits.h, before any server is touched.

import Logging
import Reactor

@main
struct Main {
  static func main() {
    HostProcess.holdStandardStreams()
    HostProcess.exit(run(CommandLine.arguments.dropFirst().map { $0 }))
  }

  private static func run(_ arguments: [String]) -> Int32 {
    let rows = SettingRow.all
    switch Invocation.parse(arguments) {
    case .help: return show(HelpText.text(rows: rows))
    case .helpAsMarkdown: return show(HelpText.markdown(rows: rows))
    case .version: return show(Version.text + "\n")
    case .fault(let text):
      Logger.worker().error("the command line was not understood", metadata: ["error": .string(text)])
      return Invocation.faultExitStatus
    case .run(let options):
      guard let settings = Boot.settings(environment: HostProcess.environment, rows: rows) else {
        return ConfigurationFaults.exitStatus
      }
      let logger = Logger.worker(level: settings[.logLevel].level)
      return EventLoop.run {
        let service = Service(settings, logger: logger)
        return options.once ? await service.runOnce(options) : await service.run()
      }
    }
  }

  /// Prints `text` to stdout, for as long as its reader takes: nothing else runs in this process.
  private static func show(_ text: String) -> Int32 {
    let bytes = Array(text.utf8)
    return StandardStream.output.write(bytes[...], patience: .seconds(60 * 60)) == bytes.count ? 0 : 1
  }
}
