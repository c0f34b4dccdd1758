// Numbers as they are measured, compared and printed. Pure.

import Foundation

/// A measured value and its text: what is printed is what was compared.
struct Figure: Comparable, CustomStringConvertible, Sendable {
  let value: Double
  let description: String

  init(_ value: Int) {
    self.value = Double(value)
    description = String(value)
  }

  init(_ value: Double, decimals: Int) {
    description = String(format: "%.\(decimals)f", value)
    self.value = Double(description) ?? value
  }

  /// A number as another program printed it; nil unless it is one.
  init?(_ text: some StringProtocol) {
    guard let value = Double(text), value.isFinite else { return nil }
    self.value = value
    description = String(text)
  }

  func percent(of other: Figure) -> Figure { Figure(100 * value / other.value, decimals: 0) }

  static func == (one: Figure, other: Figure) -> Bool { one.value == other.value }
  static func < (one: Figure, other: Figure) -> Bool { one.value < other.value }
}

enum Statistics {
  /// The middle one; of an even number of values the lower of the two. nil without values.
  static func median<Value: Comparable>(_ values: [Value]) -> Value? {
    values.isEmpty ? nil : values.sorted()[(values.count - 1) / 2]
  }

  /// The smallest value that `percent` percent of the values do not exceed. nil without values.
  static func percentile<Value: Comparable>(_ percent: Int, of values: [Value]) -> Value? {
    guard !values.isEmpty else { return nil }
    return values.sorted()[max(0, (values.count * percent + 99) / 100 - 1)]
  }

  /// `whole / parts`, to the nearest, halves up.
  static func rounded(_ whole: Int, per parts: Int) -> Int { (whole + parts / 2) / parts }

  /// What one of `parts` costs, for printing; 0 of none.
  static func share(_ whole: Int, per parts: Int) -> Figure {
    Figure(parts == 0 ? 0 : Double(whole) / Double(parts), decimals: 2)
  }
}

extension String {
  /// At least `width` characters, filled with spaces on the left.
  func right(_ width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
  /// At least `width` characters, filled with spaces on the right.
  func left(_ width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
  /// Without spaces at its end.
  var trimmedEnd: String { String(reversed().drop { $0 == " " }.reversed()) }
}

/// JSON with its keys in the order in which they were written.
enum OrderedJSON {
  static func object(_ members: [(key: String, value: String)]) -> String {
    "{" + members.map { "\(string($0.key)): \($0.value)" }.joined(separator: ", ") + "}"
  }

  static func string(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case "\u{0}"..<" ": quoted += String(format: "\\u%04x", scalar.value)
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }
}
