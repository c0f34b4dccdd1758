// One setting: its name, its parser and its description. A row of the settings table.
// Invariant: a default is text that is parsed like the environment's. Used by Settings.

import Reactor

/// The result of parsing a setting's text.
enum Reading<Value: Sendable>: Sendable {
  /// Warnings are complete sentences, without the variable's name and without a secret.
  case accepted(Value, warnings: [String] = [])
  /// The rules that the text breaks, one per fault. Each completes the variable's name: "must be …", "is …".
  case refused([String])

  static func mustBe(_ what: String) -> Reading { .refused(["must be \(what)"]) }
}

/// A typed key into `Settings`, and the row that describes it.
struct Setting<Value: Sendable>: Sendable {
  /// The value if the variable is unset or empty.
  enum Absence: Sendable {
    /// A fault at startup.
    case fault
    /// This text, parsed like a given one.
    case text(String)
    /// This value, which no text denotes.
    case value(Value)
  }

  /// The environment variable.
  let name: String
  /// The kind of text for people: `duration`, `true or false`, `URL`.
  let kind: String
  let absence: Absence
  /// A description in one or two lines.
  let help: String
  /// Whether the text may contain a credential: it is then never shown, not even in a fault.
  var isSecret = false
  /// Settings that are required if this one is set.
  var needs: [String] = []
  /// The value of another setting without which this one must not be set.
  var requiredValue: RequiredValue?
  /// The boolean setting without which the text is not validated.
  var onlyWith: String?
  /// Whether a quoted text is accepted unchanged, with a warning, as the existing worker does for every value.
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
      needs: needs, requiredValue: requiredValue, onlyWith: onlyWith, load: { load($0) })
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
    case .accepted(let value, let warnings): return .accepted(SettingValue(value: value), warnings: warnings)
    case .refused(let rules): return .refused(rules)
    }
  }

  private func checked(_ given: String) -> Reading<Value> {
    // The replacement character stands for invalid UTF-8. Silent repair would make it another password.
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

/// A setting, and one of its texts.
struct RequiredValue: Sendable {
  let name: String
  let text: String
}

/// A row of the settings table: a setting without its static type.
struct SettingRow: Sendable {
  let name: String
  let kind: String
  /// Nil if the setting is required or unset by default.
  let defaultText: String?
  let isRequired: Bool
  let help: String
  let isSecret: Bool
  let needs: [String]
  let requiredValue: RequiredValue?
  let onlyWith: String?
  /// Parses the given text, or nil for an absent variable. An accepted value is a `SettingValue`.
  let load: @Sendable (_ given: String?) -> Reading<any Sendable>
}

/// A box for a value of its type, so that an optional stays an optional.
struct SettingValue<Value: Sendable>: Sendable {
  let value: Value
}

/// A value that can be compared with another setting's.
protocol ComparableValue {
  func isEqual(to other: any Sendable) -> Bool
}

extension SettingValue: ComparableValue where Value: Equatable {
  func isEqual(to other: any Sendable) -> Bool { (other as? SettingValue<Value>)?.value == value }
}
