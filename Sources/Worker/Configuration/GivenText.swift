// A setting's text as given in a variable or a file, without accidental surroundings. Pure except for reading the file.
// Invariant: a fault repeats no text and no path. Used by Setting and Settings.

import Reactor

extension SettingRow {
  /// The longest text that is read from a file. The kernel limits a variable to 128 KiB.
  static let byteLimit = 4 << 20

  /// The variable that names a file with the text; nil if the setting is not a secret.
  var fileVariable: String? { isSecret ? name + "_FILE" : nil }

  /// The variables that can give the value.
  var variables: [String] { [name] + (fileVariable.map { [$0] } ?? []) }

  /// The systemd credential with the text, named as systemd names the files of a directory loaded as `worker`; nil if
  /// the setting is not a secret.
  var credential: String? { isSecret ? "worker_" + name : nil }

  /// The text that an environment gives for a row.
  enum Given {
    case nothing
    /// The text and the variable or credential that it comes from.
    case text(String, from: String)
    case fault(ConfigurationFault)
  }

  /// Reads the variable, the file that the other variable names, or the credential in systemd's directory. An empty
  /// variable counts as unset.
  func given(in environment: [String: String]) -> Given {
    let text = environment[name].flatMap { $0.isEmpty ? nil : $0 }
    let credentialPath = credentialPath(in: environment)
    guard let fileVariable, let path = environment[fileVariable], !path.isEmpty else {
      switch (text, credentialPath) {
      case (let text?, nil): return .text(text, from: name)
      case (nil, let path?): return content(of: path, from: credential ?? name)
      case (nil, nil): return .nothing
      case (_?, _?): return fault("must not be set while there is a credential \(credential ?? "")", of: name)
      }
    }
    if text != nil { return fault("must not be set together with \(name)", of: fileVariable) }
    if credentialPath != nil {
      return fault("must not be set while there is a credential \(credential ?? "")", of: fileVariable)
    }
    return content(of: path, from: fileVariable)
  }

  /// The path of the credential; nil if there is none. systemd sets CREDENTIALS_DIRECTORY if a unit has any.
  private func credentialPath(in environment: [String: String]) -> String? {
    guard let credential, let directory = environment["CREDENTIALS_DIRECTORY"], !directory.isEmpty else { return nil }
    let path = "\(directory)/\(credential)"
    return SmallFile.exists(path) ? path : nil
  }

  /// - Parameter source: the variable or credential that the text comes from.
  private func content(of path: String, from source: String) -> Given {
    func fault(_ rule: String) -> Given { self.fault(rule, of: source) }
    do {
      let bytes = try SmallFile.contents(of: path, byteLimit: Self.byteLimit)
      if FileText.isUTF16(bytes) { return fault("names a file in UTF-16; it must be in UTF-8") }
      let content = FileText.content(of: bytes)
      if content.isEmpty { return fault("names an empty file") }
      return .text(String(decoding: content, as: UTF8.self), from: source)
    } catch {
      if GivenText.hasQuotationMark(path) { return fault("must be a path, but \(GivenText.quotedText)") }
      return fault("names a file that cannot be read: \(error.reason)")
    }
  }

  private func fault(_ rule: String, of source: String) -> Given {
    .fault(ConfigurationFault(variable: source, rule: rule, given: nil))
  }
}

/// Removes what editors and shells add to a file.
enum FileText {
  /// Strips a leading byte order mark and trailing line ends, which are never part of a credential.
  static func content(of bytes: [UInt8]) -> ArraySlice<UInt8> {
    var content = bytes[...]
    if content.starts(with: [0xEF, 0xBB, 0xBF]) { content = content.dropFirst(3) }
    while let last = content.last, last == UInt8(ascii: "\n") || last == UInt8(ascii: "\r") { content.removeLast() }
    return content
  }

  /// Whether a file begins with a UTF-16 byte order mark of either byte order. Windows shells write such files.
  static func isUTF16(_ bytes: [UInt8]) -> Bool {
    bytes.starts(with: [0xFF, 0xFE]) || bytes.starts(with: [0xFE, 0xFF])
  }
}

/// Detects accidental characters around a text.
enum GivenText {
  /// Completes "must be …, but".
  static let quotedText = """
    the value is in quotation marks: remove them (Docker's env files keep them)
    """

  /// Whether a text begins with a quotation mark, straight or curved. No valid value does.
  static func hasQuotationMark(_ text: String) -> Bool {
    guard let first = text.unicodeScalars.first else { return false }
    return "\"'`\u{201C}\u{201D}\u{201E}\u{2018}\u{2019}\u{AB}".unicodeScalars.contains(first)
  }

  /// Whether a text has leading or trailing whitespace.
  static func hasWhitespaceAround(_ text: String) -> Bool {
    guard let first = text.unicodeScalars.first, let last = text.unicodeScalars.last else { return false }
    return first.properties.isWhitespace || last.properties.isWhitespace || first == "\u{FEFF}"
  }

  /// The rules that a text breaks: first those about its surroundings, otherwise those of its parser.
  static func cause(of text: String, refusedAs rules: [String]) -> [String] {
    if hasQuotationMark(text) { return ["must be a bare value, but \(quotedText)"] }
    if hasWhitespaceAround(text) {
      return rules.map { "\($0); the value begins or ends with whitespace or a line break" }
    }
    return rules
  }
}
