// The variables that Kubernetes sets for each Service of a namespace. Those of a Service named sb-worker have our
// prefix. Pure. Used for the warnings about unknown variables.

/// Kubernetes' service variables: NAME_SERVICE_HOST, NAME_SERVICE_PORT[_PORTNAME], and Docker's older form NAME_PORT
/// and NAME_PORT_8091_TCP[_PROTO|_PORT|_ADDR].
enum ServiceVariable {
  private static let protocols = ["TCP", "UDP", "SCTP"]

  /// Whether a variable is one of them; `value` distinguishes NAME_PORT from a misspelt setting.
  static func isOne(_ name: String, value: String) -> Bool {
    let words = words(of: name)
    guard let last = words.last, words.count > 2 else { return false }
    let before = words[words.count - 2]
    if before == "SERVICE", last == "HOST" || last == "PORT" { return true }
    if hasNamedPort(words) { return true }
    if last == "PORT", isEndpoint(value) { return true }
    return isLink(words)
  }

  /// SERVICE_PORT and the port's name, in any number of words; the value is a number.
  private static func hasNamedPort(_ words: [Substring]) -> Bool {
    for place in words.indices.dropLast(2) where words[place] == "SERVICE" && words[place + 1] == "PORT" { return true }
    return false
  }

  /// PORT_8091_TCP, optionally followed by the name of a part.
  private static func isLink(_ words: [Substring]) -> Bool {
    var rest = words[...]
    if let last = rest.last, ["PROTO", "PORT", "ADDR"].contains(last) { rest.removeLast() }
    guard let name = rest.popLast(), protocols.contains(String(name)) else { return false }
    guard let number = rest.popLast(), UInt16(number) != nil else { return false }
    return rest.last == "PORT"
  }

  /// tcp://10.0.0.1:8091
  private static func isEndpoint(_ value: String) -> Bool {
    protocols.contains { value.hasPrefix($0.lowercased() + "://") }
  }

  private static func words(of name: String) -> [Substring] {
    var words: [Substring] = []
    var start = name.startIndex
    for place in name.indices where name[place] == "_" {
      words.append(name[start..<place])
      start = name.index(after: place)
    }
    words.append(name[start...])
    return words
  }
}
