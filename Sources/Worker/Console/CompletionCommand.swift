// The verb completion: a script that completes the command line in bash or zsh, generated from the table of verbs.
// Pure text; every word in it is a name from the program's own tables.

extension Verb {
  static let completion = Verb(
    name: "completion",
    help: """
      Print a completion script for the shell. bash: source <(\(Version.program) completion bash). zsh, after \
      compinit: source <(\(Version.program) completion zsh).
      """,
    operands: Operands(name: "bash|zsh", count: 1...1, words: { ["bash", "zsh"] }),
    statuses: [ExitStatus(0, "The script was printed.")],
    needsValidSettings: false,
    perform: { arguments, context in
      context.show(arguments.operands[0] == "zsh" ? Completion.zsh(Verb.all) : Completion.bash(Verb.all))
    })
}

/// The scripts.
enum Completion {
  /// A word that can follow, and what it does.
  private struct Choice {
    let word: String
    let help: String
  }

  static func bash(_ verbs: [Verb]) -> String {
    var text = """
      # bash completion for \(Version.program): source <(\(Version.program) completion bash)
      _secrets_bridge_worker() {
        local current=${COMP_WORDS[COMP_CWORD]} verb='' words='' index
        COMPREPLY=()

      """
    let arguments = optionsWithArgument(verbs)
    if !arguments.isEmpty { text += "  case ${COMP_WORDS[COMP_CWORD - 1]} in \(arguments)) return ;; esac\n" }
    text += """
        for ((index = 1; index < COMP_CWORD; index++)); do
          case ${COMP_WORDS[index]} in \(alternatives(verbs.map(\.name)))) verb=${COMP_WORDS[index]}; break ;; esac
        done
        case $verb in

      """
    for (name, choices) in cases(verbs) {
      text += "    \(name.isEmpty ? "''" : name)) words='\(choices.map(\.word).joined(separator: " "))' ;;\n"
    }
    return text + """
        esac
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
      }
      complete -F _secrets_bridge_worker \(Version.program)

      """
  }

  static func zsh(_ verbs: [Verb]) -> String {
    var text = """
      #compdef \(Version.program)
      # zsh completion for \(Version.program), after compinit: source <(\(Version.program) completion zsh)
      _secrets_bridge_worker() {
        local verb='' word
        local -a choices

      """
    let arguments = optionsWithArgument(verbs)
    if !arguments.isEmpty { text += "  case ${words[CURRENT - 1]} in \(arguments)) return 1 ;; esac\n" }
    text += """
        for word in "${(@)words[2,CURRENT - 1]}"; do
          case $word in \(alternatives(verbs.map(\.name)))) verb=$word; break ;; esac
        done
        case $verb in

      """
    for (name, choices) in cases(verbs) {
      text += "    \(name.isEmpty ? "''" : name)) choices=(\n"
      for choice in choices { text += "      \(quoted(choice.word + ":" + choice.help))\n" }
      text += "    ) ;;\n"
    }
    return text + """
        esac
        _describe '\(Version.program)' choices
      }
      if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
        _secrets_bridge_worker "$@"
      else
        compdef _secrets_bridge_worker \(Version.program)
      fi

      """
  }

  /// What can follow each verb; the empty name has what can follow before any verb.
  private static func cases(_ verbs: [Verb]) -> [(String, [Choice])] {
    let general = CommandOption.general.map { Choice(word: "--" + $0.name, help: summary($0.help)) }
    var cases: [(String, [Choice])] = []
    for verb in verbs {
      let options = verb.options.map { Choice(word: "--" + $0.name, help: summary($0.help)) }
      let operands = verb.operands.words().map { Choice(word: $0, help: verb.operands.name) }
      // The first is the default: its options are valid without it.
      if cases.isEmpty {
        cases.append(("", verbs.map { Choice(word: $0.name, help: summary($0.help)) } + options + general))
      }
      cases.append((verb.name, operands + options + general.prefix(1)))
    }
    return cases
  }

  private static func optionsWithArgument(_ verbs: [Verb]) -> String {
    var names: [String] = []
    for option in verbs.flatMap(\.options) where option.argument != nil && !option.isArgumentOptional {
      let name = "--" + option.name
      if !names.contains(name) { names.append(name) }
    }
    return alternatives(names)
  }

  private static func alternatives(_ words: [String]) -> String { words.joined(separator: " | ") }

  /// The first sentence.
  private static func summary(_ help: String) -> String {
    var summary = ""
    for character in help {
      if character == " ", summary.last == "." { break }
      summary.append(character)
    }
    return summary
  }

  private static func quoted(_ text: String) -> String {
    var quoted = "'"
    for character in text { quoted += character == "'" ? "'\\''" : String(character) }
    return quoted + "'"
  }
}
