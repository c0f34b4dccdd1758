// The table of verbs: the command line is parsed by it, and --help and the shells' completion come from it.
// Invariant: each verb is declared in the file of the code that runs it, beside its options and exit statuses.

import Reactor

/// An option of the command line.
struct CommandOption: Sendable {
  let name: String
  var letter: UInt8?
  /// The argument's name in the help, such as N; nil if the option takes none.
  var argument: String?
  /// Whether the argument can be left out.
  var isArgumentOptional = false
  let help: String

  static let help = CommandOption(
    name: "help", letter: UInt8(ascii: "h"), argument: "markdown|man", isArgumentOptional: true,
    help:
      "Show this help, the settings as a Markdown table, or the manual page. After a command: show the command's help.")
  static let version = CommandOption(name: "version", help: "Show the version.")
  static let json = CommandOption(name: "json", help: "Print JSON instead of a table.")

  /// Options that are valid without a verb or with any.
  static let general: [CommandOption] = [.help, .version]
}

/// The words that may follow a verb.
struct Operands: Sendable {
  /// One word as shown in the usage: NAME, or the choice `bash|zsh`.
  let name: String
  /// The allowed number of words.
  let count: ClosedRange<Int>
  /// The only words that are accepted; any word if it is empty.
  var words: @Sendable () -> [String] = { [] }

  static let none = Operands(name: "", count: 0...0)

  /// All words as shown in the usage: `NAME`, `[NAME]` or `[NAME...]`.
  var usage: String {
    if count.upperBound == 0 { return "" }
    let words = count.upperBound > 1 ? name + "..." : name
    return count.lowerBound == 0 ? "[\(words)]" : words
  }
}

/// What an exit status of a command means.
struct ExitStatus: Sendable {
  let status: Int32
  let meaning: String

  init(_ status: Int32, _ meaning: String) {
    self.status = status
    self.meaning = meaning
  }

  /// The statuses of every command that reads settings, besides its own.
  static let general = [
    ExitStatus(Invocation.faultExitStatus, "Invalid command line."),
    ExitStatus(ConfigurationFaults.exitStatus, "Invalid configuration."),
  ]
}

/// A verb of the command line.
struct Verb: Sendable {
  let name: String
  let help: String
  var operands = Operands.none
  var options: [CommandOption] = []
  /// Its own exit statuses; those of every command are added.
  let statuses: [ExitStatus]
  /// Whether an invalid configuration ends it.
  var needsValidSettings = true
  /// What is wrong with a combination of valid arguments; nil if nothing.
  var fault: @Sendable (CommandArguments) -> String? = { _ in nil }
  /// Runs it, and returns the process's exit status.
  let perform: @Sendable (CommandArguments, CommandContext) -> Int32

  /// In display order; the first is the default.
  static var all: [Verb] {
    [
      .run, .status, .history, .pause, .resume, .trigger, .check, .grants, .sweep, .config, .notifyTest, .probe,
      .completion,
    ]
  }

  /// All exit statuses, in order.
  var allStatuses: [ExitStatus] {
    let own = statuses.map(\.status) + (needsValidSettings ? [] : [ConfigurationFaults.exitStatus])
    return (statuses + ExitStatus.general.filter { !own.contains($0.status) }).sorted { $0.status < $1.status }
  }
}

/// What followed the verb on the command line.
struct CommandArguments: Equatable, Sendable {
  struct GivenOption: Equatable, Sendable {
    let name: String
    let argument: String?
  }

  var operands: [String] = []
  var options: [GivenOption] = []

  func has(_ option: CommandOption) -> Bool { options.contains { $0.name == option.name } }

  /// The option's last argument; nil if it was not given.
  func argument(of option: CommandOption) -> String? { options.last { $0.name == option.name }?.argument }
}
