// Mail addresses and client names, as settings give them. Pure.

/// Validates mail addresses, which are copied unchanged to a header and an SMTP command.
enum MailAddress {
  static let countLimit = 50

  static func isOne(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    guard bytes.count <= 254, let at = bytes.lastIndex(of: UInt8(ascii: "@")), at > 0, at < bytes.count - 1 else {
      return false
    }
    return bytes.allSatisfy { (0x21...0x7E).contains($0) && !"<>()[],;:\\\"".utf8.contains($0) }
  }

  /// Whether a mail server may accept this as a client's name (RFC 5321, 4.1.3): a name with a dot, or an address.
  static func isClientName(_ text: String) -> Bool {
    var name = Array(text.utf8)
    guard name.count <= 255 else { return false }
    let isLiteral = name.first == UInt8(ascii: "[") && name.last == UInt8(ascii: "]") && name.count > 2
    if isLiteral { name = Array(name[1..<(name.count - 1)]) }
    let others: String.UTF8View = isLiteral ? ".:".utf8 : "-._".utf8
    let isSpelledWell = name.allSatisfy { byte in
      let letter = byte | 0x20
      return (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(letter)
        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || others.contains(byte)
    }
    let dots = name.indices.filter { name[$0] == UInt8(ascii: ".") }
    let isDotted = !dots.isEmpty && dots.first != 0 && dots.last != name.count - 1
    return isSpelledWell && (isLiteral || isDotted)
  }

  /// The trimmed elements of a list.
  static func list(_ text: String) -> [String] {
    var addresses: [String] = []
    var address = ""
    for character in text + "," {
      guard character == "," else {
        // Skips leading blanks; trailing ones are removed below.
        if character != " " || !address.isEmpty { address.append(character) }
        continue
      }
      while address.last == " " { address.removeLast() }
      addresses.append(address)
      address = ""
    }
    return addresses
  }
}
