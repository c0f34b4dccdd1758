// Finds or replaces one occurrence of a text. Pure. The standard library's `contains` and `replacing` for texts link
// its regular expressions: a megabyte of code, and 55 kB of private memory.

extension [UInt8] {
  /// The index at which the bytes of `text` first occur; nil if they do not, or if `text` is empty.
  package func firstIndex(ofText text: String) -> Int? {
    let sought = Array(text.utf8)
    guard !sought.isEmpty, count >= sought.count else { return nil }
    return (0...(count - sought.count)).first { self[$0..<($0 + sought.count)].elementsEqual(sought) }
  }
}

extension String {
  /// The text with the first occurrence of `pattern` replaced.
  package func replacingFirst(_ pattern: String, with replacement: String) -> String {
    let text = Array(utf8)
    guard let start = text.firstIndex(ofText: pattern) else { return self }
    let tail = text[(start + pattern.utf8.count)...]
    return String(decoding: text[..<start], as: UTF8.self) + replacement + String(decoding: tail, as: UTF8.self)
  }
}
