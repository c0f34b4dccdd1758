// The character classes of RFC 9110 and RFC 3986, and case-insensitive comparisons of bytes. Pure; used by the HTTP
// parser.

enum ASCII {
  static var lineFeed: UInt8 { 0x0a }
  static var carriageReturn: UInt8 { 0x0d }
  static var tab: UInt8 { 0x09 }
  static var space: UInt8 { 0x20 }
  static var comma: UInt8 { 0x2c }
  static var dot: UInt8 { 0x2e }
  static var slash: UInt8 { 0x2f }
  static var zero: UInt8 { 0x30 }
  static var colon: UInt8 { 0x3a }
  static var questionMark: UInt8 { 0x3f }

  static func isDigit(_ byte: UInt8) -> Bool {
    byte &- zero < 10
  }

  /// The number of decimal digits of a non-negative number.
  static func digitCount(of number: Int) -> Int {
    var count = 1
    var rest = number
    while rest >= 10 {
      rest /= 10
      count += 1
    }
    return count
  }

  /// `tchar` of RFC 9110, 5.6.2: letters, digits and !#$%&'*+-.^_`|~. One bit a character, 0...63 and 64...127.
  static func isToken(_ byte: UInt8) -> Bool {
    isIn(low: 0x03ff_6cfa_0000_0000, high: 0x57ff_ffff_c7ff_fffe, byte)
  }

  /// Characters of a Host and of an authority without user information (RFC 3986, 3.2): unreserved, sub-delims, %:[].
  static func isHost(_ byte: UInt8) -> Bool {
    isIn(low: 0x2fff_7ff2_0000_0000, high: 0x47ff_fffe_afff_fffe, byte)
  }

  /// Visible characters without "#": a request target has no fragment (RFC 9112, 3.2).
  static func isTarget(_ byte: UInt8) -> Bool {
    byte > space && byte < 0x7f && byte != 0x23
  }

  /// RFC 9110, 5.5: no control characters but the tab, so no NUL and no lone CR; bytes from 0x80 pass unread.
  static func isFieldValue(_ byte: UInt8) -> Bool {
    byte >= space ? byte != 0x7f : byte == tab
  }

  private static func isIn(low: UInt64, high: UInt64, _ byte: UInt8) -> Bool {
    byte < 128 && (byte < 64 ? low : high) >> UInt64(byte & 63) & 1 == 1
  }

  static func equal(_ bytes: Span<UInt8>, _ range: Range<Int>, _ word: StaticString) -> Bool {
    guard range.count == word.utf8CodeUnitCount else { return false }
    for offset in 0..<range.count where bytes[range.lowerBound + offset] != word.utf8Start[offset] { return false }
    return true
  }

  /// - Parameter word: in lower case.
  static func equalIgnoringCase(_ bytes: Span<UInt8>, _ range: Range<Int>, _ word: StaticString) -> Bool {
    guard range.count == word.utf8CodeUnitCount else { return false }
    for offset in 0..<range.count {
      let byte = bytes[range.lowerBound + offset]
      let lowered = byte &- 0x41 < 26 ? byte | 0x20 : byte
      if lowered != word.utf8Start[offset] { return false }
    }
    return true
  }

  /// Without leading and trailing spaces and tabs.
  static func trimmed(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Range<Int> {
    var start = range.lowerBound
    var end = range.upperBound
    while start < end, bytes[start] == space || bytes[start] == tab { start += 1 }
    while end > start, bytes[end - 1] == space || bytes[end - 1] == tab { end -= 1 }
    return start..<end
  }

  /// Removes the next element of a comma-separated list from `rest` and returns it trimmed.
  static func nextElement(_ bytes: Span<UInt8>, _ rest: inout Range<Int>) -> Range<Int>? {
    guard !rest.isEmpty else { return nil }
    var end = rest.lowerBound
    while end < rest.upperBound, bytes[end] != comma { end += 1 }
    let element = trimmed(bytes, rest.lowerBound..<end)
    rest = min(end + 1, rest.upperBound)..<rest.upperBound
    return element
  }
}
