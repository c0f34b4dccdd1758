// The parts of a JSON text as slices of that text, in order and with every occurrence of a key, which a parsed document
// does not preserve. Pure. Invariant: a slice is passed on byte for byte, so no value changes.

/// A value inside a text that `JSONDocument` has accepted; undefined for other texts.
public struct JSONSlice: Sendable {
  private let bytes: [UInt8]
  private let range: Range<Int>

  /// The whole `text`.
  public init(_ text: String) {
    bytes = Array(text.utf8)
    range = 0..<bytes.count
  }

  private init(_ bytes: [UInt8], _ range: Range<Int>) {
    self.bytes = bytes
    self.range = range
  }

  /// The slice as it is in the text.
  public var text: String { String(decoding: bytes[range], as: UTF8.self) }

  /// The kind of the value, from its first character.
  public var kind: JSONValue.Kind {
    let start = afterBlanks(range.lowerBound)
    guard start < range.upperBound else { return .null }
    return switch bytes[start] {
    case UInt8(ascii: "{"): .object
    case UInt8(ascii: "["): .array
    case UInt8(ascii: "\""): .string
    case UInt8(ascii: "t"), UInt8(ascii: "f"): .boolean
    case UInt8(ascii: "n"): .null
    default: .number
    }
  }

  /// The text that a string denotes; nil for other values.
  public var string: String? {
    guard kind == .string else { return nil }
    do {
      return try JSONDocument(text).root.string
    } catch {
      // Cannot occur in an accepted text.
      return nil
    }
  }

  /// The elements of an array; empty for other values.
  public var elements: [JSONSlice] {
    guard kind == .array else { return [] }
    return parts()
  }

  /// The members of an object, with keys as written and repeated keys repeated; empty for other values.
  public var members: [(key: JSONSlice, value: JSONSlice)] {
    guard kind == .object else { return [] }
    let parts = parts()
    return stride(from: 0, to: parts.count - 1, by: 2).map { (parts[$0], parts[$0 + 1]) }
  }

  /// The contents of the brackets, split at commas and colons.
  private func parts() -> [JSONSlice] {
    var parts: [JSONSlice] = []
    var place = afterBlanks(afterBlanks(range.lowerBound) + 1)
    while place < range.upperBound, !isClosing(bytes[place]) {
      let end = endOfValue(from: place)
      parts.append(JSONSlice(bytes, place..<end))
      place = afterBlanks(end)
      if place < range.upperBound, bytes[place] == ASCII.comma || bytes[place] == ASCII.colon {
        place = afterBlanks(place + 1)
      }
    }
    return parts
  }

  private func endOfValue(from start: Int) -> Int {
    var depth = 0
    var place = start
    while place < range.upperBound {
      switch bytes[place] {
      case UInt8(ascii: "\""):
        place = endOfString(from: place)
        if depth == 0 { return place }
        continue
      case UInt8(ascii: "{"), UInt8(ascii: "["):
        depth += 1
      case UInt8(ascii: "}"), UInt8(ascii: "]"):
        if depth == 0 { return place }
        depth -= 1
        if depth == 0 { return place + 1 }
      case ASCII.comma, ASCII.colon:
        if depth == 0 { return place }
      case let byte where isBlank(byte):
        if depth == 0 { return place }
      default:
        break
      }
      place += 1
    }
    return place
  }

  private func endOfString(from quote: Int) -> Int {
    var place = quote + 1
    while place < range.upperBound, bytes[place] != UInt8(ascii: "\"") {
      place += bytes[place] == UInt8(ascii: "\\") ? 2 : 1
    }
    return min(place + 1, range.upperBound)
  }

  private func afterBlanks(_ start: Int) -> Int {
    var place = start
    while place < range.upperBound, isBlank(bytes[place]) { place += 1 }
    return place
  }

  private func isBlank(_ byte: UInt8) -> Bool {
    byte == ASCII.space || byte == ASCII.tab || byte == ASCII.lineFeed || byte == ASCII.carriageReturn
  }

  private func isClosing(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: "}") || byte == UInt8(ascii: "]")
  }
}
