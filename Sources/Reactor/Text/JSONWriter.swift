// Writes JSON: appends values to a buffer. For any input the result is valid JSON and valid UTF-8. Imports nothing.
// Used for log lines and for the bodies of probes and notifications.

/// Writes one JSON text, value by value; commas are added automatically.
///
///     var json = JSONWriter()
///     json.beginObject()
///     json.field("status", "ok")
///     json.endObject()
///     // json.bytes is {"status":"ok"}
///
/// The caller must balance brackets and put a key before each member: that is not checked.
public struct JSONWriter {
  /// The output so far.
  public private(set) var bytes: [UInt8] = []
  private var needsComma = false

  public init() {}

  /// Starts over and keeps the buffer's memory.
  public mutating func removeAll() {
    bytes.removeAll(keepingCapacity: true)
    needsComma = false
  }

  public mutating func beginObject() { open(0x7b) }
  public mutating func endObject() { close(0x7d) }
  public mutating func beginArray() { open(0x5b) }
  public mutating func endArray() { close(0x5d) }

  /// Writes the key of the next value.
  public mutating func key(_ name: String) {
    string(name)
    bytes.append(0x3a)
    needsComma = false
  }

  public mutating func string(_ value: String) {
    separate()
    var value = value
    value.withUTF8 { appendQuoted($0) }
  }

  /// A string from bytes that may not be UTF-8; invalid ones become U+FFFD, as in `String(decoding:as:)`.
  public mutating func string(utf8 value: UnsafeBufferPointer<UInt8>) {
    separate()
    appendQuoted(value)
  }

  public mutating func int(_ value: some FixedWidthInteger) {
    separate()
    if value < 0 { bytes.append(0x2d) }
    appendDigits(UInt64(value.magnitude))
  }

  /// The shortest text that reads back as `value`; null for infinity and NaN, which JSON lacks.
  public mutating func double(_ value: Double) {
    guard value.isFinite else { return null() }
    separate()
    bytes.append(contentsOf: value.description.utf8)
  }

  public mutating func bool(_ value: Bool) {
    append(value ? "true" : "false")
  }

  public mutating func null() {
    append("null")
  }

  /// A JSON text that is known to be valid.
  public mutating func raw(_ text: [UInt8]) {
    separate()
    bytes.append(contentsOf: text)
  }

  // Members of an object, in one call.

  public mutating func field(_ name: String, _ value: String) {
    key(name)
    string(value)
  }

  public mutating func field(_ name: String, _ value: some FixedWidthInteger) {
    key(name)
    int(value)
  }

  public mutating func field(_ name: String, _ value: Double) {
    key(name)
    double(value)
  }

  public mutating func field(_ name: String, _ value: Bool) {
    key(name)
    bool(value)
  }

  private mutating func open(_ bracket: UInt8) {
    separate()
    bytes.append(bracket)
    needsComma = false
  }

  private mutating func close(_ bracket: UInt8) {
    bytes.append(bracket)
    needsComma = true
  }

  private mutating func separate() {
    if needsComma { bytes.append(0x2c) }
    needsComma = true
  }

  private mutating func append(_ word: StaticString) {
    separate()
    word.withUTF8Buffer { bytes.append(contentsOf: $0) }
  }

  private mutating func appendDigits(_ value: UInt64) {
    if value >= 10 { appendDigits(value / 10) }
    bytes.append(0x30 + UInt8(value % 10))
  }

  /// Runs of bytes that need no escape are copied at once.
  private mutating func appendQuoted(_ text: UnsafeBufferPointer<UInt8>) {
    bytes.append(0x22)
    var copied = 0
    var index = 0
    while index < text.count {
      let byte = text[index]
      if byte < 0x80 {
        guard byte < 0x20 || byte == 0x22 || byte == 0x5c || byte == 0x7f else {
          index += 1
          continue
        }
        append(text, copied..<index)
        appendEscaped(byte)
        index += 1
      } else {
        let sequence = UTF8Sequence(text, at: index)
        if sequence.isValid {
          index += sequence.length
          continue
        }
        append(text, copied..<index)
        bytes.append(0xef)
        bytes.append(0xbf)
        bytes.append(0xbd)
        index += sequence.length
      }
      copied = index
    }
    append(text, copied..<text.count)
    bytes.append(0x22)
  }

  private mutating func append(_ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) {
    bytes.append(contentsOf: UnsafeBufferPointer(rebasing: text[range]))
  }

  private mutating func appendEscaped(_ byte: UInt8) {
    bytes.append(0x5c)
    switch byte {
    case 0x22, 0x5c: bytes.append(byte)
    case 0x08: bytes.append(0x62)
    case 0x09: bytes.append(0x74)
    case 0x0a: bytes.append(0x6e)
    case 0x0c: bytes.append(0x66)
    case 0x0d: bytes.append(0x72)
    default:
      bytes.append(0x75)
      bytes.append(0x30)
      bytes.append(0x30)
      bytes.append(Self.hexadecimal(byte >> 4))
      bytes.append(Self.hexadecimal(byte & 15))
    }
  }

  private static func hexadecimal(_ digit: UInt8) -> UInt8 {
    digit < 10 ? 0x30 + digit : 0x61 + digit - 10
  }
}

/// The sequence of bytes at an index: a character, or the longest prefix of one (Unicode 3.9, the maximal subpart),
/// which is replaced as a whole.
private struct UTF8Sequence {
  var isValid: Bool
  var length: Int

  /// - Parameter index: the index of a byte from 0x80.
  init(_ text: UnsafeBufferPointer<UInt8>, at index: Int) {
    // Determined by the first byte: how many bytes follow, and which second bytes exclude overlong forms, surrogates
    // and values beyond U+10FFFF (Unicode, table 3-7).
    let following: Int
    var second: ClosedRange<UInt8> = 0x80...0xbf
    switch text[index] {
    case 0xc2...0xdf: following = 1
    case 0xe0...0xef:
      following = 2
      if text[index] == 0xe0 { second = 0xa0...0xbf }
      if text[index] == 0xed { second = 0x80...0x9f }
    case 0xf0...0xf4:
      following = 3
      if text[index] == 0xf0 { second = 0x90...0xbf }
      if text[index] == 0xf4 { second = 0x80...0x8f }
    default: following = 0
    }
    length = 1
    while length <= following, index + length < text.count,
      (length == 1 ? second : 0x80...0xbf).contains(text[index + length])
    {
      length += 1
    }
    isValid = following > 0 && length == following + 1
  }
}
