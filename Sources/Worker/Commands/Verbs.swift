// The table of verbs and options: what the command line understands and what --help shows. Pure.

import Reactor

/// An option of the command line.
struct CommandOption: Sendable {
  let name: String
  var letter: UInt8?
  /// What an optional argument is called in the help; nil where the option takes none.
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

  /// Options that stand without a verb, or with any.
  static let general: [CommandOption] = [.help, .version]
}

/// What the worker can be told to do.
struct Verb: Sendable {
  let name: String
  let help: String
  let options: [CommandOption]
  /// The words of which one may follow; the first is meant where none does.
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

/// How a worker is to run.
struct RunOptions: Equatable, Sendable {
  /// Attends every sweeper once and ends.
  var once = false
  /// Runs what is not due, too. Only with `once`.
  var force = false
  /// Prints what the runs did as a table. Only with `once`.
  var table = false
}
