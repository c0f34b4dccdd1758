// A setting's text as it was given, in a variable or in a file, and what surrounds it by mistake. Pure but for reading
// the file. Invariant: no text and no path is repeated in a fault. Used by Setting and Settings.

import Reactor

extension SettingRow {
  /// The longest text that is read from a file. A variable is as long as the kernel lets it be, which is 128 KiB.
  static let byteLimit = 4 << 20

  /// The variable that names a file with the text instead; nil for what is no secret.
  var fileVariable: String? { isSecret ? name + "_FILE" : nil }

  /// What an environment gives for a row.
  enum Given {
    case nothing
    /// The text, and the variable that it comes from.
    case text(String, from: String)
    case fault(ConfigurationFault)
  }

  /// Looks into the variable or the file that the other variable names; an empty variable counts as unset.
  func given(in environment: [String: String]) -> Given {
    let text = environment[name].flatMap { $0.isEmpty ? nil : $0 }
    guard let fileVariable, let path = environment[fileVariable], !path.isEmpty else {
      return text.map { .text($0, from: name) } ?? .nothing
    }
    func fault(_ rule: String) -> Given {
      .fault(ConfigurationFault(variable: fileVariable, rule: rule, given: nil))
    }
    if text != nil { return fault("must not be set together with \(name)") }
    do {
      let bytes = try SmallFile.contents(of: path, byteLimit: Self.byteLimit)
      if FileText.isUTF16(bytes) { return fault("names a file in UTF-16; it must be in UTF-8") }
      let content = FileText.content(of: bytes)
      if content.isEmpty { return fault("names an empty file") }
      return .text(String(decoding: content, as: UTF8.self), from: fileVariable)
    } catch {
      if GivenText.hasQuotationMark(path) { return fault("must be a path, but \(GivenText.quotedText)") }
      return fault("names a file that cannot be read: \(error.reason)")
    }
  }
}

/// What editors and shells put around the text in a file.
enum FileText {
  /// Without the byte order mark at the front and the line ends behind: neither is part of a credential.
  static func content(of bytes: [UInt8]) -> ArraySlice<UInt8> {
    var content = bytes[...]
    if content.starts(with: [0xEF, 0xBB, 0xBF]) { content = content.dropFirst(3) }
    while let last = content.last, last == UInt8(ascii: "\n") || last == UInt8(ascii: "\r") { content.removeLast() }
    return content
  }

  /// Whether a file begins with the byte order mark of UTF-16, in either order: Windows' shells write such files.
  static func isUTF16(_ bytes: [UInt8]) -> Bool {
    bytes.starts(with: [0xFF, 0xFE]) || bytes.starts(with: [0xFE, 0xFF])
  }
}

/// What stands around a text by mistake.
enum GivenText {
  /// Completes "must be …, but".
  static let quotedText = """
    the value is in quotation marks: remove them (Docker's env files keep them)
    """

  /// Whether a text begins with a quotation mark, straight or curved. None of our values does.
  static func hasQuotationMark(_ text: String) -> Bool {
    guard let first = text.unicodeScalars.first else { return false }
    return "\"'`\u{201C}\u{201D}\u{201E}\u{2018}\u{2019}\u{AB}".unicodeScalars.contains(first)
  }

  /// Whether whitespace stands before or behind a text.
  static func hasWhitespaceAround(_ text: String) -> Bool {
    guard let first = text.unicodeScalars.first, let last = text.unicodeScalars.last else { return false }
    return first.properties.isWhitespace || last.properties.isWhitespace || first == "\u{FEFF}"
  }

  /// The rules that a text breaks: what surrounds it by mistake if anything does, else what its reader says.
  static func cause(of text: String, refusedAs rules: [String]) -> [String] {
    if hasQuotationMark(text) { return ["must be a bare value, but \(quotedText)"] }
    if hasWhitespaceAround(text) {
      return rules.map { "\($0); the value begins or ends with whitespace or a line break" }
    }
    return rules
  }
}
