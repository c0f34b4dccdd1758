// Parses the command line by the table of verbs. Pure but for getopt's own state; called once by main.

import Reactor

/// A parsed command line, or why it is invalid.
enum Invocation: Sendable {
  case run(Verb, CommandArguments)
  /// The help of a verb; nil: of the program.
  case help(Verb?)
  case helpAsMarkdown
  case manualPage
  case version
  /// Invalid, and why.
  case fault(String)

  /// EX_USAGE of sysexits.h: the exit status for an invalid command line.
  static let faultExitStatus: Int32 = 64

  /// Parses the arguments, without the program's name.
  static func parse(_ arguments: [String]) -> Invocation {
    // As a container starts it: the table of verbs is not needed.
    if arguments.isEmpty { return .run(.run, CommandArguments()) }
    let verbs = Verb.all
    let options = everyOption(of: verbs)
    var given = CommandArguments()
    for piece in OptionParser(options).parse(arguments) {
      switch piece {
      case .option(let name, let argument): given.options.append(.init(name: name, argument: argument))
      case .operand(let text): given.operands.append(text)
      case .unknown(let text): return .fault(unknownOption(text, options))
      case .missingArgument(let name): return .fault("option --\(name) needs an argument")
      }
    }
    let verbName = given.operands.first ?? verbs[0].name
    let verb = verbs.first { $0.name == verbName }
    if given.has(.help) { return help(given.argument(of: .help), of: given.operands.isEmpty ? nil : verb) }
    if given.has(.version) { return .version }
    guard let verb else { return .fault(unknownVerb(verbName, verbs)) }
    given.operands = Array(given.operands.dropFirst())
    if let fault = fault(of: given, for: verb) { return .fault(fault) }
    return .run(verb, given)
  }

  private static func fault(of given: CommandArguments, for verb: Verb) -> String? {
    let words = verb.operands.words()
    for (index, word) in given.operands.enumerated() {
      if index >= verb.operands.count.upperBound { return "\(shown(word)) was not expected" }
      guard !words.isEmpty, !words.contains(word) else { continue }
      return "\(shown(word)) was not expected"
        + (NearestName.of(word, among: words).map { ", did you mean \($0)?" } ?? "")
    }
    for option in given.options where !verb.options.contains(where: { $0.name == option.name }) {
      return "\(verb.name) has no option --\(option.name)"
    }
    if given.operands.count < verb.operands.count.lowerBound {
      return "\(verb.name) needs \(verb.operands.name), see \(verb.name) --help"
    }
    return verb.fault(given)
  }

  private static func help(_ argument: String?, of verb: Verb?) -> Invocation {
    switch argument {
    case nil: .help(verb)
    case "markdown": .helpAsMarkdown
    case "man": .manualPage
    default: .fault("--help knows \"markdown\" and \"man\" only")
    }
  }

  /// Verbs can share an option's name: its kind is the same for both.
  private static func everyOption(of verbs: [Verb]) -> [OptionParser.Option] {
    var options: [OptionParser.Option] = []
    for option in CommandOption.general + verbs.flatMap(\.options)
    where !options.contains(where: { $0.name == option.name }) {
      options.append(OptionParser.Option(option.name, letter: option.letter, argument: option.arity))
    }
    return options
  }

  private static func unknownOption(_ text: String, _ options: [OptionParser.Option]) -> String {
    let nearest = NearestName.of(text, among: options.map { "--" + $0.name })
    return "unknown option \(NearestName.shortened(text))" + (nearest.map { ", did you mean \($0)?" } ?? ", see --help")
  }

  private static func unknownVerb(_ name: String, _ verbs: [Verb]) -> String {
    let nearest = NearestName.of(name, among: verbs.map(\.name))
    let hint = nearest.map { ", did you mean \($0)?" } ?? ", see --help"
    return "unknown command \(shown(name))" + hint
  }

  /// A word as given. Anything but a plain word is not repeated: it could be a URL with a password.
  private static func shown(_ operand: String) -> String {
    for byte in operand.utf8 {
      let isLetter = (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
      guard isLetter || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_") else { return "(not shown)" }
    }
    return "\"\(NearestName.shortened(operand))\""
  }
}

extension CommandOption {
  /// Whether it takes an argument, in getopt's terms.
  var arity: OptionParser.Option.Argument {
    argument == nil ? .none : isArgumentOptional ? .optional : .required
  }
}
