// The program: reads the command line and runs its command. Invariant: a fault is a JSON line on stderr and an exit
// status of sysexits.h, before any server is contacted. Called by main.

import Logging
import Reactor

/// The program: secrets-bridge-worker.
package enum Program {
  /// Runs the command in the arguments, and returns the process's exit status.
  ///
  /// - Parameter confine: gives up what the worker does not need once it has started.
  package static func run(_ arguments: [String], confine: @escaping Sandbox.Confine) -> Int32 {
    // The clock of the process, which is passed to everything below.
    let clock = EventLoop.clock
    let context = CommandContext(
      readEnvironment: { HostProcess.environment }, clock: clock, log: LogOutput.standardError(clock),
      isTerminal: StandardStream.output.isTerminal, confine: confine)
    switch Invocation.parse(arguments) {
    case .run(let verb, let arguments): return verb.perform(arguments, context)
    case .help(nil): return context.show(HelpText.text(rows: SettingRow.all))
    case .help(let verb?): return context.show(HelpText.text(of: verb))
    case .helpAsMarkdown: return context.show(HelpText.markdown(rows: SettingRow.all))
    case .manualPage: return context.show(ManualPage.text(rows: SettingRow.all))
    case .version: return context.show(Version.text + "\n")
    case .fault(let text):
      Logger.worker(output: context.log).error("invalid command line", metadata: ["error": .string(text)])
      return Invocation.faultExitStatus
    }
  }
}
