// A table that a command prints: aligned columns for people, or the same rows as JSON. Pure.
// Invariant: a cell cannot move the cursor or colour a terminal: control characters are replaced.

import Reactor

/// Rows under named columns.
struct ReportTable: Sendable {
  enum Format: Equatable, Sendable {
    case text, json
  }

  enum Cell: Equatable, Sendable {
    case text(String)
    case number(Int)
    case list([String])
    /// Shown as a dash; null in JSON.
    case missing

    init(_ text: String?) { self = text.map { .text($0) } ?? .missing }
    init(_ number: Int64?) { self = number.map { .number(Int($0)) } ?? .missing }
  }

  /// The columns' titles, which are the keys in JSON.
  var columns: [String]
  /// Each with a cell for each column.
  var rows: [[Cell]] = []
  /// Whether the first line has the titles.
  var hasTitles = true
  /// Minimum column widths, so that lines printed later align with earlier ones.
  var leastWidths: [Int] = []

  init(_ columns: [String]) {
    self.columns = columns
  }

  /// The lines of the table, or a JSON array of objects on one line.
  func text(as format: Format) -> String {
    switch format {
    case .text: return lines
    case .json:
      var json = JSONWriter()
      write(to: &json)
      return String(decoding: json.bytes, as: UTF8.self) + "\n"
    }
  }

  /// Appends an array with an object for each row.
  func write(to json: inout JSONWriter) {
    json.beginArray()
    writeObjects(to: &json)
    json.endArray()
  }

  /// Appends an object for each row.
  func writeObjects(to json: inout JSONWriter) {
    for row in rows {
      json.beginObject()
      for (column, cell) in zip(columns, row) {
        json.key(column)
        switch cell {
        case .text(let text): json.string(text)
        case .number(let number): json.int(number)
        case .missing: json.null()
        case .list(let texts):
          json.beginArray()
          for text in texts { json.string(text) }
          json.endArray()
        }
      }
      json.endObject()
    }
  }

  /// Two spaces between columns; numbers are aligned on the right, and the last column is not padded.
  private var lines: String {
    let lines = (hasTitles ? [columns] : []) + rows.map { $0.map(Self.shown) }
    let widths = columns.indices.map { column in
      max(lines.map { $0[column].count }.max() ?? 0, column < leastWidths.count ? leastWidths[column] : 0)
    }
    let areNumbers = columns.indices.map { column in
      rows.contains { if case .number = $0[column] { true } else { false } }
    }
    var text = ""
    for line in lines {
      var row = ""
      for (column, cell) in line.enumerated() {
        if column > 0 { row += "  " }
        let padding = String(repeating: " ", count: widths[column] - cell.count)
        if areNumbers[column] {
          row += padding + cell
        } else {
          row += column == line.count - 1 ? cell : cell + padding
        }
      }
      while row.last == " " { row.removeLast() }
      text += row + "\n"
    }
    return text
  }

  private static func shown(_ cell: Cell) -> String {
    switch cell {
    case .text(let text): return printable(text)
    case .number(let number): return "\(number)"
    case .missing: return "-"
    case .list(let texts):
      var joined = ""
      for text in texts { joined += joined.isEmpty ? text : "; " + text }
      return joined.isEmpty ? "-" : printable(joined)
    }
  }

  /// The text with U+FFFD in place of each control character.
  static func printable(_ text: String) -> String {
    var printable = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
      printable.append(isControl ? "\u{FFFD}" : scalar)
    }
    return String(printable)
  }
}
