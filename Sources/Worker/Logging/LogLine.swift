// One log line: a JSON object of time, level, message and fields, in bytes. Pure.
// Invariant: whatever the strings hold, the line is one valid JSON object, ends with its only newline, and is bounded.

import Logging
import Reactor

/// A line of the log being written.
struct LogLine {
  /// The longest text of a message, a key or a field in bytes; what is beyond is cut.
  static let textByteLimit = 8 * 1024
  /// Fields that would begin beyond this many bytes are left out, and the line says so.
  static let byteLimit = 32 * 1024
  /// How deep fields may nest.
  static let depthLimit = 4

  private(set) var bytes: [UInt8] = []

  init(time: WallClockTime, level: Logger.Level, message: String, fields: [(key: String, value: Logger.MetadataValue)]) {
    bytes.reserveCapacity(256)
    append("{\"time\":\"")
    time.appendRFC3339(to: &bytes)
    append("\",\"level\":\"")
    append(Self.name(level))
    append("\",\"msg\":")
    appendText(message)
    for (index, (key, value)) in fields.enumerated() {
      guard bytes.count < Self.byteLimit else {
        append(",\"fields_left_out\":\(fields.count - index)")
        break
      }
      append(",")
      // A second key of the same name would make the object ambiguous.
      appendText(Self.reserved.contains(key) ? "_" + key : key)
      append(":")
      appendValue(value, depth: 1)
    }
    append("}\n")
  }

  private static let reserved = ["time", "level", "msg", "fields_left_out"]

  private static func name(_ level: Logger.Level) -> String {
    switch level {
    case .trace, .debug: "DEBUG"
    case .info, .notice: "INFO"
    case .warning: "WARN"
    case .error, .critical: "ERROR"
    }
  }

  private mutating func appendValue(_ value: Logger.MetadataValue, depth: Int) {
    switch value {
    case .string(let text): appendText(text)
    case .stringConvertible(let convertible): appendConvertible(convertible)
    case .array(let values):
      guard hasRoom(depth) else { return appendText("…") }
      append("[")
      for (index, value) in values.enumerated() {
        if index > 0 { append(",") }
        guard bytes.count < Self.byteLimit else {
          appendText("…")
          break
        }
        appendValue(value, depth: depth + 1)
      }
      append("]")
    case .dictionary(let fields):
      guard hasRoom(depth) else { return appendText("…") }
      append("{")
      for (index, key) in fields.keys.sorted().enumerated() {
        guard bytes.count < Self.byteLimit, let value = fields[key] else { break }
        if index > 0 { append(",") }
        appendText(key)
        append(":")
        appendValue(value, depth: depth + 1)
      }
      append("}")
    }
  }

  private func hasRoom(_ depth: Int) -> Bool {
    depth < Self.depthLimit && bytes.count < Self.byteLimit
  }

  /// Numbers and booleans stay what they are; all else is text.
  private mutating func appendConvertible(_ value: any CustomStringConvertible & Sendable) {
    switch value {
    case let number as Int: append("\(number)")
    case let number as Int32: append("\(number)")
    case let number as Int64: append("\(number)")
    case let number as UInt64: append("\(number)")
    case let number as Double where number.isFinite: append("\(number)")
    case let flag as Bool: append(flag ? "true" : "false")
    default: appendText(value.description)
    }
  }

  private mutating func append(_ text: String) {
    bytes.append(contentsOf: text.utf8)
  }

  /// Appends a JSON string, cut between two characters of UTF-8 where it is too long.
  private mutating func appendText(_ text: String) {
    bytes.append(UInt8(ascii: "\""))
    var count = 0
    for byte in text.utf8 {
      // Past the limit the character at hand is finished: its further bytes begin with the bits 10.
      if count >= Self.textByteLimit, byte & 0xC0 != 0x80 {
        append("…")
        break
      }
      count += 1
      switch byte {
      case UInt8(ascii: "\""): append("\\\"")
      case UInt8(ascii: "\\"): append("\\\\")
      case UInt8(ascii: "\n"): append("\\n")
      case UInt8(ascii: "\r"): append("\\r")
      case UInt8(ascii: "\t"): append("\\t")
      case 0..<0x20, 0x7F:
        append("\\u00")
        bytes.append(Self.hexadecimal[Int(byte >> 4)])
        bytes.append(Self.hexadecimal[Int(byte & 15)])
      default: bytes.append(byte)
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }

  private static let hexadecimal = Array("0123456789abcdef".utf8)
}
