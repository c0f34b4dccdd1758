// The help and the README come from the tables that are parsed.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct HelpTextTests {
  private static let rows = SettingRow.all

  @Test func theHelpShowsEveryVerbOptionAndSetting() {
    let lines = HelpText.text(rows: Self.rows).split(separator: "\n").map(String.init)
    for verb in Verb.all {
      #expect(lines.contains { $0 == "  \(verb.name)" || $0 == "  \(verb.name) \(verb.operands.usage)" })
      for option in verb.options {
        #expect(lines.contains("    --\(option.name)" + (option.argument.map { " \($0)" } ?? "")))
      }
    }
    #expect(lines.contains("  -h, --help[=markdown|man]"))
    for row in Self.rows {
      let line = lines.first { $0.hasPrefix("  \(row.name)\(row.isSecret ? "[_FILE]" : "")  ") }
      #expect(line?.contains(row.kind) == true)
      if let text = row.defaultText { #expect(line?.hasSuffix("default \(text)") == true) }
    }
    #expect(lines.contains("  DATABASE_URL[_FILE]  PostgreSQL URL, required"))
    #expect(lines.contains("  SB_WORKER_WEBHOOK_URL[_FILE]  http or https URL, unset"))
  }

  @Test func noLineOfTheHelpIsWiderThanATerminal() {
    for text in [HelpText.text(rows: Self.rows)] + Verb.all.map(HelpText.text(of:)) {
      for line in text.split(separator: "\n") { #expect(line.count <= HelpText.width, "\(line)") }
    }
  }

  @Test func aVerbsHelpListsItsOptionsAndExitStatuses() {
    for verb in Verb.all {
      let text = HelpText.text(of: verb)
      #expect(text.hasPrefix("Usage: secrets-bridge-worker \(verb.name)"))
      for option in verb.options { #expect(text.contains("\n  --\(option.name)")) }
      for status in [0, 64] { #expect(text.contains("\n  \(status)\n")) }
      #expect(text.contains("\n  78\n") == verb.needsValidSettings)
    }
    #expect(HelpText.text(of: .run).contains("\n  143\n"))
  }

  @Test func theManualPageShowsEveryVerbOptionAndSettingAndNothingIsTakenForARequest() {
    let page = ManualPage.text(rows: Self.rows)
    for verb in Verb.all {
      #expect(page.contains(".TP\n\\fB\(ManualPage.escaped(verb.name))"))
      for option in verb.options { #expect(page.contains("\\fB" + ManualPage.escaped(HelpText.heading(option)))) }
    }
    for row in Self.rows { #expect(page.contains("\\fB" + ManualPage.escaped(row.name)), "\(row.name)") }
    let requests: Set = [".TH", ".SH", ".SS", ".TP", ".RS", ".RE", ".B", ".BR"]
    for line in page.split(separator: "\n") where line.hasPrefix(".") || line.hasPrefix("'") {
      #expect(requests.contains(String(line.prefix { $0 != " " })), "\(line)")
    }
    #expect(ManualPage.escaped(".a\n'b -\\") == "\\&.a\n\\&'b \\-\\e")
  }

  @Test func textIsWrappedAtSpaces() {
    #expect(HelpText.wrapped("aa bb cc", width: 5) == ["aa bb", "cc"])
    #expect(HelpText.wrapped("aa bbbbbbbb cc", width: 5) == ["aa", "bbbbbbbb", "cc"])
    #expect(HelpText.wrapped("", width: 5) == [])
  }

  @Test func theReadmesTableIsTheSettingsTable() throws {
    let readme = try Repository.text("README.md")
    let parts = readme.components(separatedBy: "<!-- settings -->\n")
    try #require(parts.count == 2, "README.md has one <!-- settings --> line")
    let table = parts[1].components(separatedBy: "<!-- /settings -->")[0]
    #expect(
      table == HelpText.markdown(rows: Self.rows),
      "put the output of `secrets-bridge-worker --help=markdown` between the README's settings markers")
  }
}
