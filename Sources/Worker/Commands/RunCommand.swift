// The verb run: the worker itself, or one run of every sweeper that is due.

import Reactor

extension CommandOption {
  static let once = CommandOption(
    name: "once", help: "Run every sweeper that is due, then exit. Exit status 1 if any failed.")
  static let force = CommandOption(name: "force", help: "With --once: run every sweeper, due or not.")
  static let table = CommandOption(
    name: "table", help: "With --once: print what each run found and changed as a table.")
  static let onceJSON = CommandOption(
    name: CommandOption.json.name, help: "With --once: print what each run found and changed as JSON.")
}

extension Verb {
  static let run = Verb(
    name: "run", help: "Run the sweepers until SIGTERM or SIGINT. This is the default command.",
    options: [.once, .force, .table, .onceJSON],
    statuses: [
      ExitStatus(0, "Shut down by SIGTERM or SIGINT; with --once, no run failed."),
      ExitStatus(1, "With --once: a sweep failed or was interrupted, or a server did not answer."),
      ExitStatus(
        ConfigurationFaults.exitStatus, "Invalid configuration, or the listen address is in use or not local."),
      ExitStatus(143, "Ended at once by a second signal."),
    ],
    fault: { arguments in
      for option in [CommandOption.force, .table, .onceJSON] where arguments.has(option) && !arguments.has(.once) {
        return "--\(option.name) goes with --once only"
      }
      return nil
    },
    perform: { arguments, context in
      guard let settings = context.settings() else { return ConfigurationFaults.exitStatus }
      let options = RunOptions(arguments)
      let sandbox = Sandbox(settings, environment: context.environment, confine: context.confine)
      return context.withNotifications(settings) { notifications in
        let service = Service(
          settings, notifications: notifications, sandbox: sandbox, clock: context.clock, log: context.log,
          logger: context.logger(settings), readEnvironment: context.readEnvironment)
        return options.once ? await service.runOnce(options) : await service.run()
      }
    })
}

/// How to run the worker.
struct RunOptions: Equatable, Sendable {
  /// Runs every due sweeper once and exits.
  var once = false
  /// Also runs what is not due. Only with `once`.
  var force = false
  /// How the results are printed; nil if they are not. Only with `once`.
  var output: ReportTable.Format?

  init(_ arguments: CommandArguments) {
    once = arguments.has(.once)
    force = arguments.has(.force)
    output = arguments.has(.onceJSON) ? .json : arguments.has(.table) ? .text : nil
  }
}
