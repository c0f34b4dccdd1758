// A statement with its parameters, and the server's answer. Invariant: libpq's result is freed with its object. Made by
// the connection, read by its callers.

import CReactor

/// A statement and its parameters, in text format.
public struct PostgresStatement: Sendable {
  /// SQL with `$1`, `$2`, … for the parameters.
  public var sql: String
  /// The parameters' values as text; nil is NULL.
  public var parameters: [String?]
  /// Whether it stays prepared for the rest of the connection: for SQL that is sent repeatedly and whose plan does not
  /// depend on its parameters. Ignored behind a pooler.
  public var isPrepared = false

  public init(_ sql: String, _ parameters: [String?] = [], isPrepared: Bool = false) {
    self.sql = sql
    self.parameters = parameters
    self.isPrepared = isPrepared
  }

  /// The protocol counts parameters in 16 bits.
  private static let mostParameters = 65_535

  /// Why it cannot be sent, with the code that the server would use; nil if it can.
  var fault: PostgresError? {
    if parameters.count > Self.mostParameters { return .server(sqlState: "54023", message: "too many parameters") }
    // C strings end at NUL, and the server's text type cannot contain it.
    let hasNUL = Self.hasNUL(sql) || parameters.contains { $0.map(Self.hasNUL) ?? false }
    return hasNUL ? .server(sqlState: "22021", message: "a text contains a NUL byte") : nil
  }

  private static func hasNUL(_ text: String) -> Bool {
    text.utf8.withContiguousStorageIfAvailable { $0.count > 0 && memchr($0.baseAddress!, 0, $0.count) != nil }
      ?? text.utf8.contains(0)
  }
}

/// The rows of one statement, in text format.
@EventLoop
public final class PostgresResult {
  // Freed from whichever thread drops the last reference; libpq allows that.
  private nonisolated(unsafe) let result: OpaquePointer

  /// Takes over `result`.
  init(_ result: OpaquePointer) {
    self.result = result
  }

  /// Rows for a modelled server, and the command tag, such as "DELETE 3".
  ///
  /// - Parameter rows: all of the same length; nil is NULL.
  package convenience init(rows: [[String?]], command: String = "SELECT") {
    let result = PQmakeEmptyPGresult(nil, PGRES_TUPLES_OK)!
    var name = Array("column".utf8CString)
    name.withUnsafeMutableBufferPointer { name in
      var column = PGresAttDesc()
      column.name = name.baseAddress
      var columns = [PGresAttDesc](repeating: column, count: rows.first?.count ?? 0)
      _ = PQsetResultAttrs(result, Int32(columns.count), &columns)
    }
    for (row, values) in rows.enumerated() {
      for (index, value) in values.enumerated() {
        var bytes = value.map { Array($0.utf8CString) } ?? []
        _ = bytes.withUnsafeMutableBufferPointer {
          PQsetvalue(result, Int32(row), Int32(index), $0.baseAddress, Int32($0.count) - 1)
        }
      }
    }
    // libpq keeps the command tag in the result itself, with room for 64 bytes.
    for (index, byte) in command.utf8CString.enumerated() { PQcmdStatus(result)[index] = byte }
    self.init(result)
  }

  deinit {
    PQclear(result)
  }

  public var rowCount: Int { Int(PQntuples(result)) }

  public var columnCount: Int { Int(PQnfields(result)) }

  /// The value as text; nil for NULL, and for a row or column that does not exist. Both count from 0.
  public subscript(row row: Int, column column: Int) -> String? {
    guard (0..<rowCount).contains(row), (0..<columnCount).contains(column) else { return nil }
    if PQgetisnull(result, Int32(row), Int32(column)) != 0 { return nil }
    let length = Int(PQgetlength(result, Int32(row), Int32(column)))
    guard let value = PQgetvalue(result, Int32(row), Int32(column)) else { return nil }
    return value.withMemoryRebound(to: UInt8.self, capacity: length) {
      String(decoding: UnsafeBufferPointer(start: $0, count: length), as: UTF8.self)
    }
  }

  /// The number of rows that the statement inserted, updated, deleted or selected; 0 if the server does not say.
  public var affectedRows: Int {
    PQcmdTuples(result).flatMap { Int(String(cString: $0)) } ?? 0
  }
}

/// The parameters of a statement as C strings. Its memory is reused for the next one.
struct PostgresParameterBuffer: ~Copyable {
  /// Memory beyond this many bytes is freed after use.
  private static let keptBytes = 64 * 1024

  private var bytes: [UInt8] = []
  private var offsets: [Int] = []
  private var pointers: [UnsafePointer<CChar>?] = []

  /// Calls `send` with the values, each NUL-terminated. None contains a NUL: see `PostgresStatement.fault`.
  mutating func with<Value>(
    _ parameters: [String?], _ send: (_ count: Int32, _ values: UnsafePointer<UnsafePointer<CChar>?>?) -> Value
  ) -> Value {
    guard !parameters.isEmpty else { return send(0, nil) }
    bytes.removeAll(keepingCapacity: bytes.capacity <= Self.keptBytes)
    offsets.removeAll(keepingCapacity: true)
    pointers.removeAll(keepingCapacity: true)
    for parameter in parameters {
      guard let parameter else {
        offsets.append(-1)
        continue
      }
      offsets.append(bytes.count)
      // Copied at once if the text is contiguous, as it nearly always is.
      let isCopied: Void? = parameter.utf8.withContiguousStorageIfAvailable { bytes.append(contentsOf: $0) }
      if isCopied == nil { bytes.append(contentsOf: parameter.utf8) }
      bytes.append(0)
    }
    return bytes.withUnsafeBytes { memory in
      let start = memory.assumingMemoryBound(to: CChar.self).baseAddress
      for offset in offsets { pointers.append(offset < 0 ? nil : start! + offset) }
      return pointers.withUnsafeBufferPointer { send(Int32(parameters.count), $0.baseAddress) }
    }
  }
}
