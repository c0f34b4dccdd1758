// Arrays as PostgreSQL reads them, for parameters. Pure.
// Invariant: elements come from the program, or PostgreSQL wrote them; nothing is escaped.

enum PostgresArray {
  /// Of elements such as UUIDs and names: none is empty, and none has a character that means something in an array.
  static func words(_ elements: some Sequence<String>) -> String { "{" + elements.joined(separator: ",") + "}" }

  /// Of elements without quotation marks and backslashes.
  static func quoted(_ elements: some Sequence<String>) -> String { words(elements.map { "\"\($0)\"" }) }
}
