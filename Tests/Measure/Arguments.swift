// The arguments of a subcommand, taken one after the other, and what is wrong with them.

/// A mistake of the caller.
struct Misuse: Error, Equatable, CustomStringConvertible {
  /// EX_USAGE of sysexits.h.
  static let status: Int32 = 64
  let description: String
}

/// A failure of what the measurement needs.
struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// What is left of the command line.
struct Arguments {
  private var rest: ArraySlice<String>

  init(_ arguments: some Sequence<String>) { rest = Array(arguments)[...] }

  mutating func next() -> String? { rest.popFirst() }

  /// The value that follows an option; `kind` names it: "a file".
  mutating func value(of option: String, _ kind: String) throws -> String {
    guard let value = rest.popFirst() else { throw Misuse(description: "\(option) needs \(kind)") }
    return value
  }

  static func unknown(_ option: String) -> Misuse { Misuse(description: "no such option: \(option)") }
}

/// [SCENARIO] [--seconds N] and further options, as all perf-* take them.
struct ScenarioArguments {
  var scenario: Scenario
  /// nil unless given.
  var seconds: Int?
  /// The further options that were given; an option without a value has an empty one.
  private(set) var options: [String: String] = [:]

  /// `scenario` is the default. `flags` are options without a value; `valued` are options with one, and what it is.
  init(
    _ arguments: inout Arguments, scenario: Scenario, flags: [String] = [], valued: [String: String] = [:]
  ) throws {
    var name = scenario.rawValue
    while let argument = arguments.next() {
      if argument == "--seconds" {
        let text = try arguments.value(of: argument, "a number")
        guard text.allSatisfy(\.isASCII), let number = Int(text), number > 0, text.first != "+" else {
          throw Misuse(description: "--seconds needs a number")
        }
        seconds = number
      } else if flags.contains(argument) {
        options[argument] = ""
      } else if let kind = valued[argument] {
        options[argument] = try arguments.value(of: argument, kind)
      } else if argument.hasPrefix("-") {
        throw Arguments.unknown(argument)
      } else {
        name = argument
      }
    }
    guard let named = Scenario(rawValue: name) else {
      throw Misuse(description: "no such scenario: \(name); there are \(Scenario.names)")
    }
    self.scenario = named
  }
}
