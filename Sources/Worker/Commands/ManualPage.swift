// The manual page, secrets-bridge-worker(1), generated from the tables of verbs and settings, in man(7)'s language.
// Pure. Printed by --help=man, for packages.

/// The manual page.
enum ManualPage {
  static func text(verbs: [Verb] = Verb.all, rows: [SettingRow]) -> String {
    var page = """
      .TH SECRETS\\-BRIDGE\\-WORKER 1 "" "\(escaped(Version.program)) \(Version.number)" "User Commands"
      .SH NAME
      \(escaped(Version.program)) \\- background worker of the Secrets Bridge control plane
      .SH SYNOPSIS
      .B \(escaped(Version.program))
      [\\fIcommand\\fR] [\\fIoptions\\fR]
      .SH DESCRIPTION
      Purges expired wraps, marks stale secrets and silent agents, recovers stuck jobs and enqueues discovery in the
      control plane's PostgreSQL, coordinated by locks in its Redis. Replicas share the work.
      .SH COMMANDS

      """
    for verb in verbs {
      page += entry(verb.name + (verb.operands.usage.isEmpty ? "" : " " + verb.operands.usage), verb.help)
      guard !verb.options.isEmpty else { continue }
      page += ".RS\n"
      for option in verb.options { page += entry(HelpText.heading(option), option.help) }
      page += ".RE\n"
    }
    page += ".SH OPTIONS\n"
    for option in CommandOption.general { page += entry(HelpText.heading(option), option.help) }
    page += ".SH EXIT STATUS\n"
    for verb in verbs {
      page += ".SS \(escaped(verb.name))\n"
      for status in verb.allStatuses { page += entry("\(status.status)", status.meaning) }
    }
    page += """
      .SH ENVIRONMENT
      An empty variable counts as unset. Where [_FILE] is shown, the variable with that ending can be set instead to the
      path of a file that contains the value.

      """
    for row in rows {
      let name = row.name + (row.fileVariable == nil ? "" : "[_FILE]")
      page += entry("\(name)  (\(row.kind), \(HelpText.absence(row)))", row.help)
    }
    return page + """
      .SH SIGNALS
      .TP
      \\fBSIGTERM\\fR, \\fBSIGINT\\fR
      Shut down: running batches finish. A second one ends the process at once.
      .TP
      \\fBSIGHUP\\fR
      Read the settings file, files with secrets and certificates again. If anything is invalid, nothing changes. Log
      level, notifications, sweepers, and the user and password of both servers take effect; other settings do at the
      next start.
      .SH SEE ALSO
      .BR systemd.exec (5)
      for credentials,
      .BR getent (1)
      for how this host resolves names.

      """
  }

  /// A paragraph under a tag.
  private static func entry(_ tag: String, _ text: String) -> String {
    ".TP\n\\fB\(escaped(tag))\\fR\n\(escaped(text))\n"
  }

  /// Escapes requests, font changes and typographic hyphens.
  static func escaped(_ text: String) -> String {
    var escaped = ""
    var isLineStart = true
    for character in text {
      if isLineStart, character == "." || character == "'" { escaped += "\\&" }
      switch character {
      case "\\": escaped += "\\e"
      case "-": escaped += "\\-"
      default: escaped.append(character)
      }
      isLineStart = character == "\n"
    }
    return escaped
  }
}
