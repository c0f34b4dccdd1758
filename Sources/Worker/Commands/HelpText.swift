// The text of --help, generated from the tables of verbs and settings; the settings also in Markdown, for the README.
// Pure: what is shown is what is parsed.

/// The description of the command line and the settings.
enum HelpText {
  /// The line width in columns.
  static let width = 100

  /// The complete text, for a terminal.
  static func text(verbs: [Verb] = Verb.all, rows: [SettingRow]) -> String {
    var text = """
      \(Version.program): background worker of the Secrets Bridge control plane.

      Usage: \(Version.program) [command] [options]

      Commands (`COMMAND --help` also lists the exit statuses):

      """
    for verb in verbs {
      text += entry(Self.heading(verb), verb.help, indent: 2)
      for option in verb.options { text += entry(Self.heading(option), option.help, indent: 4) }
    }
    text += "\nOptions:\n"
    for option in CommandOption.general { text += entry(heading(option), option.help, indent: 2) }
    text += """

      Settings are environment variables; an empty variable counts as unset. Where [_FILE] is shown,
      NAME_FILE can be set instead to the path of a file that contains the value:

      """
    for row in rows {
      let name = row.name + (row.fileVariable == nil ? "" : "[_FILE]")
      text += entry("\(name)  \(row.kind), \(absence(row))", row.help, indent: 2)
    }
    return text
  }

  /// The help of one verb, with its exit statuses.
  static func text(of verb: Verb) -> String {
    var text = "Usage: \(Version.program) \(heading(verb)) [options]\n\n"
    for line in wrapped(verb.help, width: width) { text += line + "\n" }
    text += "\nOptions:\n"
    for option in verb.options + [.help] { text += entry(heading(option), option.help, indent: 2) }
    text += "\nExit statuses:\n"
    for status in verb.allStatuses { text += entry("\(status.status)", status.meaning, indent: 2) }
    return text
  }

  /// The settings as a Markdown table.
  static func markdown(rows: [SettingRow]) -> String {
    var text = "| variable | type | default | meaning |\n|---|---|---|---|\n"
    for row in rows {
      let absence = row.defaultText.map { "`\($0)`" } ?? absence(row)
      let names = row.fileVariable.map { "`\(row.name)`, `\($0)`" } ?? "`\(row.name)`"
      text += "| \(names) | \(cell(row.kind)) | \(cell(absence)) | \(cell(row.help)) |\n"
    }
    return text
  }

  /// `text` wrapped at spaces to at most `width` columns; a longer word gets its own line.
  static func wrapped(_ text: String, width: Int) -> [String] {
    var lines: [String] = []
    var line = ""
    var word = ""
    for character in text + " " {
      guard character == " " || character == "\n" else {
        word.append(character)
        continue
      }
      if !line.isEmpty, line.count + 1 + word.count > width {
        lines.append(line)
        line = word
      } else {
        line += line.isEmpty ? word : " " + word
      }
      word = ""
    }
    return line.isEmpty ? lines : lines + [line]
  }

  private static func entry(_ heading: String, _ help: String, indent: Int) -> String {
    let margin = String(repeating: " ", count: indent)
    var text = margin + heading + "\n"
    for line in wrapped(help, width: width - indent - 4) { text += "\(margin)    \(line)\n" }
    return text
  }

  private static func heading(_ verb: Verb) -> String {
    verb.name + (verb.operands.usage.isEmpty ? "" : " " + verb.operands.usage)
  }

  static func heading(_ option: CommandOption) -> String {
    let letter = option.letter.map { "-" + String(UnicodeScalar($0)) + ", " } ?? ""
    let argument = option.argument.map { option.isArgumentOptional ? "[=\($0)]" : " \($0)" } ?? ""
    return letter + "--" + option.name + argument
  }

  static func absence(_ row: SettingRow) -> String {
    if row.isRequired { return "required" }
    return row.defaultText.map { "default \($0)" } ?? "unset"
  }

  /// A bar would end the table cell.
  private static func cell(_ text: String) -> String {
    var cell = ""
    for character in text { cell += character == "|" ? "\\|" : String(character) }
    return cell
  }
}
