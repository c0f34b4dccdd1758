// Writes HTML. Pure. Invariant: text from outside is escaped, so it can neither begin an element nor leave an
// attribute, and `isolated` keeps its direction to itself.

/// Bytes of an HTML document.
struct HTMLWriter {
  /// The most bytes of one text from outside.
  private static let textLimit = 600

  private(set) var bytes: [UInt8] = []

  /// Markup: written as it is.
  mutating func markup(_ text: StaticString) {
    text.withUTF8Buffer { bytes.append(contentsOf: $0) }
  }

  mutating func number(_ number: Int) {
    if number < 0 { bytes.append(UInt8(ascii: "-")) }
    digits(number.magnitude)
  }

  private mutating func digits(_ number: UInt) {
    if number >= 10 { digits(number / 10) }
    bytes.append(UInt8(ascii: "0") + UInt8(number % 10))
  }

  /// Text, also for quoted attributes; truncated if long. Control characters become U+FFFD.
  mutating func text(_ text: String) {
    var count = 0
    for scalar in text.unicodeScalars {
      if count >= Self.textLimit { return bytes.append(contentsOf: "…".utf8) }
      count += 1
      switch scalar {
      case "&": markup("&amp;")
      case "<": markup("&lt;")
      case ">": markup("&gt;")
      case "\"": markup("&quot;")
      case "'": markup("&#39;")
      case _ where scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value): markup("\u{FFFD}")
      default: bytes.append(contentsOf: UTF8.encode(scalar)!)
      }
    }
  }

  /// Text in its own element, which isolates its direction.
  mutating func isolated(_ text: String) {
    markup("<bdi>")
    self.text(text)
    markup("</bdi>")
  }
}
