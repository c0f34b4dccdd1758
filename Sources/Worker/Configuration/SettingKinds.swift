// The kinds of settings: duration, whole number, boolean, choice. A refusal states the rule that the text breaks.
// Pure; used in the declarations of settings.

import Reactor

extension Setting where Value == Duration {
  /// The range of most durations: above zero, and short enough that no arithmetic on instants overflows (10 years).
  static var aboveZero: ClosedRange<Duration> { .milliseconds(1)...(.seconds(87_600 * 3_600)) }
  /// The same, including zero.
  static var zeroOrMore: ClosedRange<Duration> { .zero...(.seconds(87_600 * 3_600)) }

  /// A duration in Go's notation, within `range`.
  static func duration(
    _ name: String, default absent: Duration, in range: ClosedRange<Duration> = aboveZero, help: String
  ) -> Setting {
    let bounds = "from \(GoDuration.text(range.lowerBound)) to \(GoDuration.text(range.upperBound))"
    return Setting(name: name, kind: "duration", absence: .text(GoDuration.text(absent)), help: help) { text in
      guard let value = GoDuration.parse(text), range.contains(value) else {
        return .mustBe("a duration \(bounds), such as 90s or 2m30s")
      }
      return .accepted(value)
    }
  }
}

/// The meaning of zero and below for a duration of the existing worker.
enum ZeroOrBelow {
  case refused, isDefault, isZero
}

extension Setting where Value == Duration {
  /// A duration that the existing worker also has. Whatever it accepts is accepted, clamped with a warning.
  static func inheritedDuration(
    _ name: String, default absent: Duration, zeroOrBelow: ZeroOrBelow = .refused, help: String
  ) -> Setting {
    Setting(name: name, kind: "duration", absence: .text(GoDuration.text(absent)), help: help) { text in
      guard let value = GoDuration.parse(text) else { return .mustBe("a duration, such as 90s or 2m30s") }
      guard value <= .zero else {
        let counted = min(max(value, aboveZero.lowerBound), aboveZero.upperBound)
        return .accepted(counted, warnings: counted == value ? [] : ["it counts as \(GoDuration.text(counted))"])
      }
      switch zeroOrBelow {
      case .refused:
        return .mustBe("a duration above zero, such as 90s or 2m30s")
      case .isDefault:
        return .accepted(
          absent, warnings: ["a duration of zero or below counts as the default, \(GoDuration.text(absent))"])
      case .isZero:
        return .accepted(.zero, warnings: value < .zero ? ["a duration below zero counts as 0s"] : [])
      }
    }
  }
}

extension Setting where Value == Duration? {
  /// The text that turns a sweeper off.
  static var off: String { "off" }
}

extension Setting {
  /// What `given` reads, or nil for "off".
  ///
  /// - Parameter absent: the default's text.
  static func orOff<Given>(_ given: Setting<Given>, absent: String) -> Setting where Value == Given? {
    let off = Setting<Duration?>.off
    return Setting(name: given.name, kind: "\(given.kind) or off", absence: .text(absent), help: given.help) { text in
      if text == off { return .accepted(nil) }
      return switch given.read(text) {
      case .accepted(let value, let warnings): .accepted(value, warnings: warnings)
      case .refused(let rules): .refused(rules.map { $0 + ", or off" })
      }
    }
  }
}

extension Setting where Value == Duration? {
  /// A sweeper's interval; nil if it is off. Whatever the existing worker accepts is accepted, clamped with a warning.
  ///
  /// - Parameter absent: the default; nil if the sweeper is off by default.
  static func interval(_ name: String, default absent: Duration?, help: String) -> Setting {
    .orOff(
      .inheritedDuration(name, default: absent ?? .seconds(60), help: help),
      absent: absent.map { GoDuration.text($0) } ?? off)
  }
}

extension Setting where Value == Int {
  /// A whole number that the existing worker also has. Zero and below mean the default and larger values the maximum,
  /// each with a warning.
  static func inheritedInteger(_ name: String, default absent: Int, upTo limit: Int, help: String) -> Setting {
    Setting(name: name, kind: "number", absence: .text("\(absent)"), help: help) { text in
      guard let value = Int(text) else { return .mustBe("a whole number") }
      if value <= 0 { return .accepted(absent, warnings: ["zero and below count as the default, \(absent)"]) }
      if value > limit { return .accepted(limit, warnings: ["it counts as \(limit), the maximum"]) }
      return .accepted(value)
    }
  }

  /// A whole number within `range`, with an optional sign.
  static func integer(
    _ name: String, default absent: Int, in range: ClosedRange<Int>, help: String
  ) -> Setting {
    Setting(name: name, kind: "number", absence: .text("\(absent)"), help: help) { text in
      guard let value = Int(text), range.contains(value) else {
        return .mustBe("a whole number from \(range.lowerBound) to \(range.upperBound)")
      }
      return .accepted(value)
    }
  }
}

extension Setting where Value == Int {
  /// A share in whole percent, from 1% to 100%.
  static func percentage(_ name: String, default absent: Int, help: String) -> Setting {
    Setting(name: name, kind: "percentage", absence: .text("\(absent)%"), help: help) { text in
      guard text.utf8.last == UInt8(ascii: "%"), let value = Int(text.dropLast()), (1...100).contains(value) else {
        return .mustBe("a whole percentage from 1% to 100%, such as 50%")
      }
      return .accepted(value)
    }
  }
}

/// Booleans in the notation of Go's `strconv.ParseBool`.
enum GoBoolean {
  static func parse(_ text: String) -> Bool? {
    switch text {
    case "1", "t", "T", "TRUE", "true", "True": true
    case "0", "f", "F", "FALSE", "false", "False": false
    default: nil
    }
  }
}

extension Setting where Value == Bool {
  /// A boolean in the notation of Go's `strconv.ParseBool`.
  static func boolean(_ name: String, default absent: Bool, help: String) -> Setting {
    Setting(name: name, kind: "true or false", absence: .text(absent ? "true" : "false"), help: help) { text in
      if let value = GoBoolean.parse(text) { return .accepted(value) }
      return .mustBe("true or false (also 1, t, T, TRUE, True, 0, f, F, FALSE, False)")
    }
  }
}

extension Setting where Value: RawRepresentable & CaseIterable, Value.RawValue == String {
  /// A case of the type, by its raw value.
  static func choice(_ name: String, default absent: Value, help: String) -> Setting {
    var words = ""
    for (index, value) in Value.allCases.enumerated() {
      words += (index == 0 ? "" : index == Value.allCases.count - 1 ? " or " : ", ") + value.rawValue
    }
    return Setting(name: name, kind: words, absence: .text(absent.rawValue), help: help) { [words] text in
      guard let value = Value(rawValue: text) else { return .mustBe(words) }
      return .accepted(value)
    }
  }
}

extension Setting where Value == String? {
  /// A text that is unset by default. `check` returns nil or what was expected.
  static func optional(
    _ name: String, kind: String, isSecret: Bool = false, help: String,
    check: @escaping @Sendable (String) -> String?
  ) -> Setting {
    Setting(name: name, kind: kind, absence: .value(nil), help: help, isSecret: isSecret) { text in
      if let what = check(text) { return .mustBe(what) }
      return .accepted(text)
    }
  }
}
