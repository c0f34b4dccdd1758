// Parses a connection URL, or "name=value" pairs. Invariant: of the text, faults repeat only parameter names. Pure;
// called by PostgresConfiguration.

/// The grammar of connection strings: RFC 3986 for the URL as Go's parser reads it, libpq's for the pairs.
enum PostgresURL {
  /// The parameters under libpq's names, in order of appearance.
  static func parameters(of text: String) -> Result<[PostgresParameter], PostgresURLFault> {
    do throws(Fault) {
      let bytes = Array(text.utf8)
      for scheme in ["postgres://", "postgresql://"] where bytes.starts(with: Array(scheme.utf8)) {
        return .success(try url(bytes[scheme.utf8.count...]))
      }
      if bytes.isEmpty { throw Fault("the URL is empty") }
      if find(bytes[...], "://") != nil { throw Fault("the URL must begin with postgres:// or postgresql://") }
      return .success(try pairs(bytes))
    } catch {
      return .failure(PostgresURLFault(faults: [error.text]))
    }
  }

  private struct Fault: Error {
    let text: String
    init(_ text: String) { self.text = text }
  }

  private static let escapeHint = "in a user, password or database the characters / ? # @ : must be written %2F %3F …"

  // MARK: - URL

  private static func url(_ rest: ArraySlice<UInt8>) throws(Fault) -> [PostgresParameter] {
    // As in Go, which existing URLs were written for. A newline at the end of a secret's file is one.
    if rest.contains(where: { $0 < 0x20 || $0 == 0x7f }) {
      throw Fault("the URL contains a control character, perhaps the end of a line")
    }
    if rest.last == UInt8(ascii: " ") { throw Fault("the URL ends with a space; in a name it must be written %20") }
    if rest.contains(UInt8(ascii: "#")) { throw Fault("the URL contains a #; \(escapeHint)") }
    let end = rest.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") } ?? rest.endIndex
    let queryStart = rest[end...].firstIndex(of: UInt8(ascii: "?")) ?? rest.endIndex
    var found: [PostgresParameter] = []
    let authority = rest[..<end]
    var places = authority
    if let at = authority.lastIndex(of: UInt8(ascii: "@")) {
      let login = authority[..<at]
      places = authority[(at + 1)...]
      let colon = login.firstIndex(of: UInt8(ascii: ":")) ?? login.endIndex
      found.append(try parameter("user", login[..<colon]))
      if colon < login.endIndex { found.append(try parameter("password", login[(colon + 1)...])) }
    } else if rest[end...].contains(UInt8(ascii: "@")) {
      throw Fault("the URL has an @ after the host; \(escapeHint)")
    }
    let (hosts, ports) = try hostsAndPorts(places)
    if !hosts.isEmpty { found.append(PostgresParameter(name: "host", value: hosts)) }
    if !ports.isEmpty { found.append(PostgresParameter(name: "port", value: ports)) }
    if end < queryStart, queryStart - end > 1 {
      found.append(try parameter("dbname", rest[(end + 1)..<queryStart]))
    }
    if queryStart < rest.endIndex { found += try query(rest[(queryStart + 1)...]) }
    return found.filter { !$0.value.isEmpty || !["user", "dbname"].contains($0.name) }
  }

  private static func hostsAndPorts(_ text: ArraySlice<UInt8>) throws(Fault) -> (hosts: String, ports: String) {
    var hosts = ""
    var ports = ""
    var hasPort = false
    for (index, place) in split(text, at: UInt8(ascii: ",")).enumerated() {
      var name = place
      var port = place[place.endIndex...]
      if place.first == UInt8(ascii: "[") {
        guard let close = place.firstIndex(of: UInt8(ascii: "]")) else { throw Fault("the host has a [ without a ]") }
        name = place[(place.startIndex + 1)..<close]
        let rest = place[(close + 1)...]
        guard rest.isEmpty || rest.first == UInt8(ascii: ":") else { throw Fault("the host is malformed") }
        port = rest.dropFirst()
      } else if let colon = place.firstIndex(of: UInt8(ascii: ":")) {
        name = place[..<colon]
        port = place[(colon + 1)...]
      }
      let isNumber = port.allSatisfy { $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }
      let number = Int(String(decoding: port, as: UTF8.self))
      guard port.isEmpty || isNumber && number.map({ (1...65_535).contains($0) }) ?? false else {
        throw Fault("the port must be a number from 1 to 65535; \(escapeHint)")
      }
      if !port.isEmpty { hasPort = true }
      hosts += (index == 0 ? "" : ",") + (try decoded(name, plusIsSpace: false, "host"))
      ports += (index == 0 ? "" : ",") + String(decoding: port, as: UTF8.self)
    }
    return (hosts, hasPort ? ports : "")
  }

  /// As in Go, which existing URLs were written for: a plus sign is a space.
  private static func query(_ text: ArraySlice<UInt8>) throws(Fault) -> [PostgresParameter] {
    var found: [PostgresParameter] = []
    for part in split(text, at: UInt8(ascii: "&")) where !part.isEmpty {
      let equals = part.firstIndex(of: UInt8(ascii: "=")) ?? part.endIndex
      let name = try decoded(part[..<equals], plusIsSpace: true, "name of a parameter")
      // Not repeated: it may be the rest of a password that was not encoded.
      guard PostgresParameterNames.isPlain(name) else {
        throw Fault("a parameter's name is not made of letters, digits, underscores and dots; \(escapeHint)")
      }
      let value = try decoded(part[equals...].dropFirst(), plusIsSpace: true, "value of \(name)")
      found.append(PostgresParameter(name: canonical(name), value: value))
    }
    return found
  }

  private static func parameter(_ name: String, _ text: ArraySlice<UInt8>) throws(Fault) -> PostgresParameter {
    PostgresParameter(name: name, value: try decoded(text, plusIsSpace: false, name))
  }

  /// Also pgx's name for the database.
  private static func canonical(_ name: String) -> String { name == "database" ? "dbname" : name }

  private static func decoded(_ text: ArraySlice<UInt8>, plusIsSpace: Bool, _ what: String) throws(Fault) -> String {
    var bytes: [UInt8] = []
    var index = text.startIndex
    while index < text.endIndex {
      switch text[index] {
      case UInt8(ascii: "%"):
        guard text.endIndex - index > 2, let high = hexadecimal(text[index + 1]), let low = hexadecimal(text[index + 2])
        else { throw Fault("the \(what) has a % without two hexadecimal digits") }
        bytes.append(high << 4 | low)
        index += 3
      case UInt8(ascii: "+") where plusIsSpace:
        bytes.append(UInt8(ascii: " "))
        index += 1
      case let byte:
        bytes.append(byte)
        index += 1
      }
    }
    return try checked(bytes, what)
  }

  private static func hexadecimal(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
  }

  private static func checked(_ bytes: [UInt8], _ what: String) throws(Fault) -> String {
    if bytes.contains(0) { throw Fault("the \(what) contains a NUL byte") }
    guard let text = String(validating: bytes, as: UTF8.self) else { throw Fault("the \(what) is not UTF-8") }
    return text
  }

  // MARK: - Pairs

  /// libpq's `name = value`: a value can be in single quotes; a backslash escapes the next character.
  private static func pairs(_ bytes: [UInt8]) throws(Fault) -> [PostgresParameter] {
    var found: [PostgresParameter] = []
    var index = 0
    func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0d).contains(byte) }
    func skipSpace() { while index < bytes.count, isSpace(bytes[index]) { index += 1 } }
    while true {
      skipSpace()
      if index == bytes.count { return found }
      let start = index
      while index < bytes.count, bytes[index] != UInt8(ascii: "="), !isSpace(bytes[index]) { index += 1 }
      let name = String(decoding: bytes[start..<index], as: UTF8.self)
      skipSpace()
      // Not repeated: it could be a URL with a fault at its beginning, or a part of a password that was not quoted.
      guard index < bytes.count, bytes[index] == UInt8(ascii: "="), PostgresParameterNames.isPlain(name) else {
        throw Fault("expected a URL, or name=value pairs with spaces between them and quotes around values with spaces")
      }
      index += 1
      skipSpace()
      let isQuoted = index < bytes.count && bytes[index] == UInt8(ascii: "'")
      if isQuoted { index += 1 }
      var value: [UInt8] = []
      var isClosed = !isQuoted
      while index < bytes.count {
        let byte = bytes[index]
        if isQuoted ? byte == UInt8(ascii: "'") : isSpace(byte) {
          index += 1
          isClosed = true
          break
        }
        if byte == UInt8(ascii: "\\"), index + 1 < bytes.count { index += 1 }
        value.append(bytes[index])
        index += 1
      }
      if !isClosed { throw Fault("the value of \(name) has a quote without its end") }
      found.append(PostgresParameter(name: canonical(name), value: try checked(value, "value of \(name)")))
    }
  }

  // MARK: - Pieces

  static func split(_ text: String, at separator: UInt8) -> [String] {
    split(Array(text.utf8)[...], at: separator).map { String(decoding: $0, as: UTF8.self) }
  }

  private static func split(_ text: ArraySlice<UInt8>, at separator: UInt8) -> [ArraySlice<UInt8>] {
    var parts: [ArraySlice<UInt8>] = []
    var start = text.startIndex
    for index in text.indices where text[index] == separator {
      parts.append(text[start..<index])
      start = index + 1
    }
    parts.append(text[start...])
    return parts
  }

  private static func find(_ bytes: ArraySlice<UInt8>, _ part: String) -> Int? {
    let part = Array(part.utf8)
    guard bytes.count >= part.count else { return nil }
    return (bytes.startIndex...(bytes.endIndex - part.count)).first { bytes[$0...].starts(with: part) }
  }
}
