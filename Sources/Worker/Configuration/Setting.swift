// One setting: its name, how its text becomes a value, and what a person is told about it. The table's row.
// Invariant: a default is text that goes through the same reading as the environment's. Used by Settings.

import Reactor

/// What reading a setting's text led to.
enum Reading<Value: Sendable>: Sendable {
  /// Warnings are whole sentences, without the variable's name and without a secret.
  case accepted(Value, warnings: [String] = [])
  /// The rules that the text breaks, one a fault. Each completes the variable's name: "must be …", "is …".
  case refused([String])

  static func mustBe(_ what: String) -> Reading { .refused(["must be \(what)"]) }
}

/// A typed key into `Settings`, and the row that describes it.
struct Setting<Value: Sendable>: Sendable {
  /// What holds where the variable is unset or empty.
  enum Absence: Sendable {
    /// A boot fault.
    case fault
    /// This text, read like a given one.
    case text(String)
    /// This value; there is no text that would denote it.
    case value(Value)
  }

  /// The environment variable.
  let name: String
  /// What kind of text is expected, for people: `duration`, `true or false`, `URL`.
  let kind: String
  let absence: Absence
  /// What it does, in a line or two.
  let help: String
  /// Whether the text may carry a credential: it is then never shown, not even in a fault.
  var isSecret = false
  /// Settings that must be given where this one is.
  var needs: [String] = []
  /// The name of a boolean setting without which the text is not looked at.
  var onlyWith: String?
  /// Whether a text in quotation marks is taken as it is, with a warning: the existing worker takes them all so.
  var keepsQuotationMarks = false
  let read: @Sendable (String) -> Reading<Value>

  /// The same setting without its type, for the table.
  var row: SettingRow {
    let defaultText: String? =
      switch absence {
      case .text(let text): text
      case .fault, .value: nil
      }
    let isRequired = if case .fault = absence { true } else { false }
    return SettingRow(
      name: name, kind: kind, defaultText: defaultText, isRequired: isRequired, help: help, isSecret: isSecret,
      needs: needs, onlyWith: onlyWith, load: { load($0) })
  }

  private func load(_ given: String?) -> Reading<any Sendable> {
    let reading: Reading<Value> =
      if let given {
        checked(given)
      } else {
        switch absence {
        case .fault: .refused(["is required: set a \(kind)"])
        case .text(let text): read(text)
        case .value(let value): .accepted(value)
        }
      }
    switch reading {
    case .accepted(let value, let warnings): return .accepted(SettingSlot(value: value), warnings: warnings)
    case .refused(let rules): return .refused(rules)
    }
  }

  private func checked(_ given: String) -> Reading<Value> {
    // What stands for bytes that were no UTF-8: repaired silently, a password would be another one.
    for scalar in given.unicodeScalars where scalar == "\u{FFFD}" { return .mustBe("UTF-8 text") }
    let isQuoted = GivenText.hasQuotationMark(given)
    switch read(given) {
    case .refused(let rules):
      return .refused(GivenText.cause(of: given, refusedAs: rules))
    case .accepted where isQuoted && !keepsQuotationMarks:
      return .refused(GivenText.cause(of: given, refusedAs: []))
    case .accepted(let value, let warnings):
      let odd = isQuoted ? ["the value is in quotation marks, which are taken as part of it"] : []
      return .accepted(value, warnings: warnings + odd)
    }
  }
}

/// A row of the settings table: a setting whose type is known to its reader only.
struct SettingRow: Sendable {
  let name: String
  let kind: String
  /// Nil where the setting is required or unset by default.
  let defaultText: String?
  let isRequired: Bool
  let help: String
  let isSecret: Bool
  let needs: [String]
  let onlyWith: String?
  /// Reads the given text, or nil for an absent variable; an accepted value is a `SettingSlot`.
  let load: @Sendable (_ given: String?) -> Reading<any Sendable>
}

/// A value of the table in a box of its type, so that an optional stays one.
struct SettingSlot<Value: Sendable>: Sendable {
  let value: Value
}
