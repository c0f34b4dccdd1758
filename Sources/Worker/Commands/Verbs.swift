// The table of verbs and options, from which the command line is parsed and --help generated. Pure.

import Reactor

/// An option of the command line.
struct CommandOption: Sendable {
  let name: String
  var letter: UInt8?
  /// The argument's name in the help; nil if the option takes none.
  var argument: String?
  let help: String

  static let once = CommandOption(
    name: "once", help: "Run every sweeper that is due, then exit. Exit status 1 if any failed.")
  static let force = CommandOption(name: "force", help: "With --once: run every sweeper, due or not.")
  static let table = CommandOption(
    name: "table", help: "With --once: print what each run found and changed as a table.")
  static let help = CommandOption(
    name: "help", letter: UInt8(ascii: "h"), argument: "markdown",
    help: "Show this help, or the settings as a Markdown table.")
  static let version = CommandOption(name: "version", help: "Show the version.")

  /// Options that are valid without a verb or with any.
  static let general: [CommandOption] = [.help, .version]
}

/// The verbs.
struct Verb: Sendable {
  let name: String
  let help: String
  let options: [CommandOption]
  /// The operands of which one may follow; the first is the default.
  var operands: [String] = []

  static let run = Verb(
    name: "run", help: "Run the sweepers until SIGTERM or SIGINT. This is the default command.",
    options: [.once, .force, .table])

  static let notifyTest = Verb(
    name: "notify-test",
    help: "Send a test notification to every sink and print each result. Exit status 1 if any failed.",
    options: [])

  static let probe = Verb(
    name: "probe",
    help:
      "Query a probe of the worker at SB_WORKER_LOCAL_ADDR and print its response. Exit status 0 if healthy, else 1.",
    options: [], operands: ["readyz", "healthz"])

  /// In the order in which they are shown; the first is the default.
  static let all: [Verb] = [.run, .notifyTest, .probe]
}

/// How to run the worker.
struct RunOptions: Equatable, Sendable {
  /// Runs every due sweeper once and exits.
  var once = false
  /// Also runs what is not due. Only with `once`.
  var force = false
  /// Prints the results as a table. Only with `once`.
  var table = false
}
