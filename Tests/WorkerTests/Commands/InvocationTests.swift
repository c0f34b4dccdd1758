// How command lines are parsed.

import Testing

@testable import Worker

@Suite struct InvocationTests {
  /// The verb with its options and operands, or what else the command line asks for.
  private func parsed(_ arguments: [String]) -> String {
    switch Invocation.parse(arguments) {
    case .run(let verb, let given):
      let options = given.options.map { "--" + $0.name + ($0.argument.map { "=\($0)" } ?? "") }
      return ([verb.name] + options + given.operands).joined(separator: " ")
    case .help(let verb): return "help" + (verb.map { " of \($0.name)" } ?? "")
    case .helpAsMarkdown: return "help as Markdown"
    case .manualPage: return "manual page"
    case .version: return "version"
    case .fault(let text): return "fault: \(text)"
    }
  }

  @Test func runIsTheDefaultVerb() {
    #expect(parsed([]) == "run")
    #expect(parsed(["run"]) == "run")
    #expect(parsed(["--once"]) == "run --once")
    #expect(parsed(["--once", "run", "--table", "--force"]) == "run --once --table --force")
  }

  @Test func theOptionsOfARunAreRead() {
    func options(_ names: String...) -> RunOptions {
      RunOptions(CommandArguments(options: names.map { .init(name: $0, argument: nil) }))
    }
    #expect(options() == RunOptions(CommandArguments()) && !options().once)
    let table = options("once", "force", "table")
    #expect(table.once && table.force && table.output == .text)
    #expect(options("once", "json").output == .json && options("once").output == nil)
  }

  @Test func aProbeTakesOneOfTwoWords() {
    #expect(parsed(["probe"]) == "probe")
    #expect(parsed(["probe", "readyz"]) == "probe readyz")
    #expect(parsed(["probe", "healthz"]) == "probe healthz")
    #expect(parsed(["probe", "metrics"]) == "fault: \"metrics\" was not expected")
    #expect(parsed(["probe", "readyz", "readyz"]) == "fault: \"readyz\" was not expected")
    #expect(parsed(["probe", "--once"]) == "fault: probe has no option --once")
  }

  @Test func operandsAreCountedAndSuggested() {
    #expect(parsed(["config", "REDIS_URL", "LOG_LEVEL", "--diff"]) == "config --diff REDIS_URL LOG_LEVEL")
    #expect(parsed(["config", "REDIS_URK"]) == "fault: \"REDIS_URK\" was not expected, did you mean REDIS_URL?")
    #expect(parsed(["completion"]) == "fault: completion needs bash|zsh, see completion --help")
    #expect(parsed(["completion", "zsh"]) == "completion zsh")
  }

  @Test func helpAndVersionAreValidAnywhere() {
    #expect(parsed(["--help"]) == "help")
    #expect(parsed(["-h"]) == "help")
    #expect(parsed(["--once", "--help"]) == "help")
    #expect(parsed(["run", "--once", "--help"]) == "help of run")
    #expect(parsed(["--help", "completion"]) == "help of completion")
    #expect(parsed(["--help=markdown"]) == "help as Markdown")
    #expect(parsed(["--help=man"]) == "manual page")
    #expect(parsed(["--version"]) == "version")
  }

  @Test func anOptionsNameIsOfOneKindInEveryVerb() {
    var kinds: [String: String] = [:]
    for verb in Verb.all {
      for option in CommandOption.general + verb.options {
        let kind = "\(option.arity)"
        #expect(kinds.updateValue(kind, forKey: option.name) ?? kind == kind, "--\(option.name) of \(verb.name)")
      }
    }
  }

  @Test(arguments: [
    (["--onse"], "unknown option --onse, did you mean --once?"), (["-x"], "unknown option -x, see --help"),
    (["--password=hunter2"], "unknown option --password, see --help"),
    (["rum"], "unknown command \"rum\", did you mean run?"),
    (["postgres://u:hunter2@h/"], "unknown command (not shown), see --help"),
    (["run", "twice"], "\"twice\" was not expected"), (["--force"], "--force goes with --once only"),
    (["--table"], "--table goes with --once only"), (["--json"], "--json goes with --once only"),
    (["--help=html"], "--help knows \"markdown\" and \"man\" only"),
    (["--once=hunter2"], "unknown option --once, did you mean --once?"), ([""], "unknown command \"\", see --help"),
  ]) func anInvalidCommandLineIsAFault(arguments: [String], text: String) {
    #expect(parsed(arguments) == "fault: \(text)")
  }
}
