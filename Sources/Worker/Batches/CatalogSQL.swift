// SQL that uses PostgreSQL's own functions, operators and types, whatever the session's search_path.
// Invariant: no name in the result is resolved in a schema that another role can write to. Pure text.

/// Qualifies plain SQL: `now() < :at` becomes `pg_catalog.now() OPERATOR(pg_catalog.<) :at`.
///
/// Otherwise a role that can create functions in a schema of the search path could define one that better fits an
/// argument's type, and it would run with the worker's privileges. An exact match in pg_catalog does not prevent that:
/// a search path can name pg_catalog last (PostgreSQL, "Writing SECURITY DEFINER Functions Safely").
///
/// Requirements on the text, which `CatalogSQLTests` checks for every statement:
/// - A function's name is followed directly by its parenthesis; a column list has a space before it.
/// - Each operation is in parentheses, because `OPERATOR()` has a single precedence: `(a + b) < c`.
/// - No IN, LIKE, BETWEEN, NULLIF, IS DISTINCT FROM or USING, which look up operators implicitly.
/// - Relations are quoted, and types follow `::`.
enum CatalogSQL {
  static func qualified(_ text: String) -> String {
    var scanner = Scanner(bytes: Array(text.utf8))
    return scanner.qualified()
  }

  /// The part `tree` of a WITH RECURSIVE: the OIDs of the tables that `root` selects and of all their descendants.
  static func tree(from root: String) -> String {
    """
    tree AS (
      \(root)
       UNION SELECT child.inhrelid FROM tree JOIN "pg_catalog"."pg_inherits" AS child ON (child.inhparent = tree.oid))
    """
  }

  /// How many transactions after number `first` the row's is, from 0: numbers are 32 bits and wrap around.
  static func transactions(from first: String, to row: String) -> String {
    "((\(row).xmin::text::bigint - \(first)::bigint) & 4294967295)"
  }

  /// Syntax that looks like a function call, or is followed by no function.
  static let keywords: [StaticString] = [
    "ANY", "ARRAY", "AS", "CASE", "COALESCE", "EXISTS", "EXTRACT", "FROM", "GREATEST", "LEAST", "OPERATOR",
    "VALUES",
  ]

  /// Types whose names are syntax, which always means pg_catalog's.
  static let keywordTypes: [StaticString] = [
    "BIGINT", "BOOLEAN", "DOUBLE", "INT", "INTEGER", "INTERVAL", "NUMERIC",
  ]
}

private struct Scanner {
  let bytes: [UInt8]
  private var output: [UInt8] = []
  private var index = 0
  private var depth = 0
  /// The depth of a SET list, at which an equals sign assigns.
  private var assigningDepth: Int?

  init(bytes: [UInt8]) {
    self.bytes = bytes
    output.reserveCapacity(bytes.count * 2)
  }

  mutating func qualified() -> String {
    while index < bytes.count {
      let byte = bytes[index]
      if byte == UInt8(ascii: "'") || byte == UInt8(ascii: "\"") {
        copyQuoted(byte)
      } else if Self.isNameStart(byte) {
        copyName()
      } else if byte == UInt8(ascii: ":"), peek(1) == UInt8(ascii: ":") {
        output.append(byte)
        output.append(byte)
        index += 2
        copyType()
      } else if Self.isOperator(byte) {
        copyOperator()
      } else {
        if byte == UInt8(ascii: "(") { depth += 1 }
        if byte == UInt8(ascii: ")") { depth -= 1 }
        output.append(byte)
        index += 1
      }
    }
    return String(decoding: output, as: UTF8.self)
  }

  private func peek(_ distance: Int) -> UInt8? {
    index + distance < bytes.count ? bytes[index + distance] : nil
  }

  private mutating func copyQuoted(_ quote: UInt8) {
    repeat {
      output.append(bytes[index])
      index += 1
    } while index < bytes.count && bytes[index] != quote
    if index < bytes.count {
      output.append(quote)
      index += 1
    }
  }

  private mutating func name() -> ArraySlice<UInt8> {
    let start = index
    while index < bytes.count, Self.isNamePart(bytes[index]) { index += 1 }
    return bytes[start..<index]
  }

  private mutating func copyName() {
    let isQualified = output.last == UInt8(ascii: ".")
    let isParameter = output.last == UInt8(ascii: "$") || output.last == UInt8(ascii: ":")
    let name = name()
    let isCall = peek(0) == UInt8(ascii: "(")
    if Self.isWord(name, "SET") { assigningDepth = depth }
    if assigningDepth == depth, Self.isWord(name, "WHERE") { assigningDepth = nil }
    if isCall, !isQualified, !isParameter, !CatalogSQL.keywords.contains(where: { Self.isWord(name, $0) }) {
      output += Self.catalog
    }
    output += name
  }

  private mutating func copyType() {
    let name = name()
    if !CatalogSQL.keywordTypes.contains(where: { Self.isWord(name, $0) }) { output += Self.catalog }
    output += name
  }

  private mutating func copyOperator() {
    let start = index
    while index < bytes.count, Self.isOperator(bytes[index]) { index += 1 }
    let isStar = bytes[start..<index] == [UInt8(ascii: "*")] && output.last == UInt8(ascii: "(")
    let isAssignment = bytes[start..<index] == [UInt8(ascii: "=")] && assigningDepth == depth
    // count(*) and assignments have no operator.
    if isStar || isAssignment {
      output += bytes[start..<index]
    } else {
      output += Self.operatorBegin
      output += bytes[start..<index]
      output.append(UInt8(ascii: ")"))
    }
  }

  private static let catalog = Array("pg_catalog.".utf8)
  private static let operatorBegin = Array("OPERATOR(pg_catalog.".utf8)

  /// Whether `name` is `word`, ignoring case.
  private static func isWord(_ name: ArraySlice<UInt8>, _ word: StaticString) -> Bool {
    guard name.count == word.utf8CodeUnitCount else { return false }
    return word.withUTF8Buffer { letters in zip(name, letters).allSatisfy { $0 & ~0x20 == $1 } }
  }

  private static func isNameStart(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20) || byte == UInt8(ascii: "_")
  }

  private static func isNamePart(_ byte: UInt8) -> Bool {
    isNameStart(byte) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
  }

  private static func isOperator(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "*"), UInt8(ascii: "/"), UInt8(ascii: "<"),
      UInt8(ascii: ">"), UInt8(ascii: "="), UInt8(ascii: "~"), UInt8(ascii: "!"), UInt8(ascii: "@"),
      UInt8(ascii: "#"), UInt8(ascii: "%"), UInt8(ascii: "^"), UInt8(ascii: "&"), UInt8(ascii: "|"),
      UInt8(ascii: "?"):
      true
    default: false
    }
  }
}
