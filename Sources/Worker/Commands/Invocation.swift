// Parses the command line. Pure but for getopt's own state; called once by main.

import Reactor

/// A parsed command line, or why it is invalid.
enum Invocation: Equatable {
  case run(RunOptions)
  case notifyTest
  /// The probe to query: its path without the slash.
  case probe(String)
  case help
  case helpAsMarkdown
  case version
  /// Invalid, and why.
  case fault(String)

  /// EX_USAGE of sysexits.h: the exit status for an invalid command line.
  static let faultExitStatus: Int32 = 64

  /// Parses the arguments, without the program's name.
  static func parse(_ arguments: [String]) -> Invocation {
    var given: [(name: String, argument: String?)] = []
    var operands: [String] = []
    for piece in OptionParser(everyOption).parse(arguments) {
      switch piece {
      case .option(let name, let argument): given.append((name, argument))
      case .operand(let text): operands.append(text)
      case .unknown(let text): return .fault(unknownOption(text))
      case .missingArgument(let name): return .fault("option --\(name) needs an argument")
      }
    }
    for (name, argument) in given {
      if name == CommandOption.help.name { return help(argument) }
      if name == CommandOption.version.name { return .version }
    }
    let verbName = operands.first ?? Verb.all[0].name
    guard let verb = Verb.all.first(where: { $0.name == verbName }) else { return .fault(unknownVerb(verbName)) }
    let words = operands.dropFirst()
    if let word = words.first(where: { !verb.operands.contains($0) }) ?? words.dropFirst().first {
      return .fault("\(shown(word)) was not expected")
    }
    for (name, _) in given where !verb.options.contains(where: { $0.name == name }) {
      return .fault("\(verb.name) has no option --\(name)")
    }
    switch verb.name {
    case Verb.notifyTest.name: return .notifyTest
    case Verb.probe.name: return .probe(words.first ?? verb.operands[0])
    default: return run(given.map(\.name))
    }
  }

  private static func run(_ names: [String]) -> Invocation {
    let options = RunOptions(
      once: names.contains(CommandOption.once.name), force: names.contains(CommandOption.force.name),
      table: names.contains(CommandOption.table.name))
    if options.force, !options.once { return .fault("--force goes with --once only") }
    if options.table, !options.once { return .fault("--table goes with --once only") }
    return .run(options)
  }

  private static func help(_ argument: String?) -> Invocation {
    switch argument {
    case nil: .help
    case CommandOption.help.argument: .helpAsMarkdown
    default: .fault("--help knows \"markdown\" only")
    }
  }

  private static var everyOption: [OptionParser.Option] {
    var names: [String] = []
    var options: [OptionParser.Option] = []
    for option in CommandOption.general + Verb.all.flatMap(\.options) where !names.contains(option.name) {
      names.append(option.name)
      options.append(
        OptionParser.Option(option.name, letter: option.letter, argument: option.argument == nil ? .none : .optional))
    }
    return options
  }

  private static func unknownOption(_ text: String) -> String {
    let nearest = NearestName.of(text, among: everyOption.map { "--" + $0.name })
    return "unknown option \(NearestName.shortened(text))" + (nearest.map { ", did you mean \($0)?" } ?? ", see --help")
  }

  private static func unknownVerb(_ name: String) -> String {
    let nearest = NearestName.of(name, among: Verb.all.map(\.name))
    let hint = nearest.map { ", did you mean \($0)?" } ?? ", see --help"
    return "unknown command \(shown(name))" + hint
  }

  /// A word as given. Unless it is a plain word it may be a URL with a password, and is not repeated.
  private static func shown(_ operand: String) -> String {
    for byte in operand.utf8 {
      let isLetter = (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
      guard isLetter || byte == UInt8(ascii: "-") else { return "(not shown)" }
    }
    return "\"\(NearestName.shortened(operand))\""
  }
}
