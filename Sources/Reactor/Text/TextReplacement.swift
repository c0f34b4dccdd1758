// Replaces one occurrence in a text, to assemble statements and scripts. Pure.

extension String {
  /// The text with the first occurrence of `pattern` replaced. (The standard library's `replacing` adds a megabyte of
  /// regular expressions.)
  package func replacingFirst(_ pattern: String, with replacement: String) -> String {
    let text = Array(utf8)
    let sought = Array(pattern.utf8)
    guard !sought.isEmpty, text.count >= sought.count else { return self }
    for start in 0...(text.count - sought.count) where text[start..<(start + sought.count)].elementsEqual(sought) {
      let tail = text[(start + sought.count)...]
      return String(decoding: text[..<start], as: UTF8.self) + replacement + String(decoding: tail, as: UTF8.self)
    }
    return self
  }
}
