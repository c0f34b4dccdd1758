// Array parameters in PostgreSQL's input syntax. Pure.
// Invariant: elements come from the program or from PostgreSQL; nothing is escaped.

enum PostgresArray {
  /// Of elements such as UUIDs and names: none is empty or has a character that is special in an array.
  static func words(_ elements: some Sequence<String>) -> String { "{" + elements.joined(separator: ",") + "}" }

  /// Of elements without quotation marks and backslashes.
  static func quoted(_ elements: some Sequence<String>) -> String { words(elements.map { "\"\($0)\"" }) }
}
