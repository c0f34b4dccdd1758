// A mail's bytes: headers of RFC 5322 with RFC 2047's encoded words, and a body that survives any mail server. Pure.
// Invariant: whatever the input, no header can be forged, no line is too long and all bytes are ASCII.

import Reactor

/// A mail: headers, then the body.
struct MailMessage {
  /// The limit of a line in bytes, without its end, that RFC 5322 (2.1.1) recommends.
  private static let lineLimit = 78
  /// The limit of an encoded word's content in bytes: a header line with one has at most 76 characters (RFC 2047, 2).
  private static let wordLimit = 39

  private var bytes: [UInt8] = []

  /// Adds a header with any text. Non-ASCII text is encoded, including line breaks, and so is text that looks encoded
  /// or is too long for a line.
  mutating func header(_ name: String, _ value: String) {
    let isShort = name.utf8.count + 2 + value.utf8.count <= Self.lineLimit
    let isPlain = value.utf8.allSatisfy { (0x20...0x7E).contains($0) } && !Self.looksEncoded(value)
    line("\(name): " + (isPlain && isShort ? value : Self.encodedWords(value)))
  }

  /// Adds a header for machines, such as an id. It is ASCII and not encoded.
  mutating func identifier(_ name: String, _ value: String) {
    line("\(name): \(value)")
  }

  private static func looksEncoded(_ value: String) -> Bool {
    var previous: UInt8 = 0
    for byte in value.utf8 {
      if previous == UInt8(ascii: "="), byte == UInt8(ascii: "?") { return true }
      previous = byte
    }
    return false
  }

  /// Adds a header of addresses, one per line.
  mutating func addresses(_ name: String, _ addresses: [String]) {
    line("\(name): " + addresses.joined(separator: ",\r\n "))
  }

  /// The complete mail with this body.
  func bytes(text: String) -> [UInt8] {
    var mail = self
    let isPlain = Self.isPlain(text)
    mail.header("MIME-Version", "1.0")
    mail.header("Content-Type", "text/plain; charset=utf-8")
    mail.header("Content-Transfer-Encoding", isPlain ? "7bit" : "quoted-printable")
    mail.line("")
    for byte in isPlain ? Array(text.utf8) : Self.quotedPrintable(text) {
      if byte == UInt8(ascii: "\n") { mail.bytes.append(UInt8(ascii: "\r")) }
      mail.bytes.append(byte)
    }
    return mail.bytes
  }

  private mutating func line(_ text: String) {
    bytes += text.utf8
    bytes += "\r\n".utf8
  }

  /// Encoded words of whole characters, each within its limit, separated by folds.
  static func encodedWords(_ text: String) -> String {
    var words: [String] = []
    var word: [UInt8] = []
    for character in text.unicodeScalars {
      let encoded = Array(String(character).utf8)
      if word.count + encoded.count > wordLimit {
        words.append(Base64.text(word))
        word = []
      }
      word += encoded
    }
    words.append(Base64.text(word))
    return words.map { "=?utf-8?B?\($0)?=" }.joined(separator: "\r\n ")
  }

  private static func isPlain(_ text: String) -> Bool {
    var length = 0
    for byte in text.utf8 {
      length = byte == UInt8(ascii: "\n") ? 0 : length + 1
      guard length <= lineLimit, byte == UInt8(ascii: "\n") || (0x20...0x7E).contains(byte) else { return false }
    }
    return true
  }

  /// RFC 2045, 6.7: lines of at most 76 characters.
  static func quotedPrintable(_ text: String) -> [UInt8] {
    var out: [UInt8] = []
    var length = 0
    func isPlain(_ byte: UInt8) -> Bool { (0x20...0x7E).contains(byte) && byte != UInt8(ascii: "=") }
    let bytes = Array(text.utf8)
    for (index, byte) in bytes.enumerated() {
      if byte == UInt8(ascii: "\n") {
        out.append(byte)
        length = 0
        continue
      }
      // A trailing blank would get lost.
      let isLast = index + 1 == bytes.count || bytes[index + 1] == UInt8(ascii: "\n")
      let isEscaped = !isPlain(byte) || (byte == 0x20 && isLast)
      if length + (isEscaped ? 3 : 1) > 75 {
        out += "=\n".utf8
        length = 0
      }
      if isEscaped {
        let digits = Array("0123456789ABCDEF".utf8)
        out += [UInt8(ascii: "="), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
      } else {
        out.append(byte)
      }
      length += isEscaped ? 3 : 1
    }
    return out
  }
}
