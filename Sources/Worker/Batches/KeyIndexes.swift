// The indexes that can find due rows, and which rows each contains, as a pure struct.
// Invariant: an index serves a condition only if each part of its predicate is literally a part of the condition.
// PostgreSQL can prove more; in those cases pages are scanned, which finds every row.

/// A table's valid btree indexes that begin with the key and can be scanned in its order in both directions.
struct KeyIndexes: Equatable, Sendable {
  /// The predicate of each, as PostgreSQL prints it; empty if the index has every row.
  let predicates: [String]
  /// The sum of the OIDs of the table's usable indexes. It changes when an index is added or dropped.
  let sum: Int

  /// - Parameter predicates: one per line; nil if there is no such index.
  init(predicates text: String?, sum: Int) {
    predicates = text?.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) ?? []
    self.sum = sum
  }

  /// Whether an index has every row that meets the condition.
  func serve(_ condition: String) -> Bool {
    let parts = Self.parts(of: condition)
    return predicates.contains { predicate in
      predicate.isEmpty || Self.parts(of: predicate).allSatisfy(parts.contains)
    }
  }

  /// The operands of a condition's ANDs, without parentheses, spaces and the type of a text.
  static func parts(of condition: String) -> [String] {
    var parts: [String] = []
    var part = ""
    var words = condition.split(separator: " ")[...]
    while let word = words.popFirst() {
      if word == "AND" {
        parts.append(part)
        part = ""
      } else {
        part += plain(word)
      }
    }
    return parts + [part]
  }

  private static func plain(_ word: Substring) -> String {
    var text = String(decoding: word.utf8.filter { $0 != UInt8(ascii: "(") && $0 != UInt8(ascii: ")") }, as: UTF8.self)
    if text.utf8.count > textType.utf8.count, text.hasSuffix(textType) { text.removeLast(textType.count) }
    return text
  }

  private static let textType = "::text"
}
