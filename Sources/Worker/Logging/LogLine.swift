// One log line: a JSON object of time, level, message and fields, in bytes. Pure.
// Invariant: whatever the strings contain, the line is one valid JSON object, ends with its only newline, and is
// bounded.

import Logging
import Reactor

/// A line of the log being written.
struct LogLine {
  /// The longest text of a message, a key or a field in bytes; what is beyond is cut.
  static let textByteLimit = 8 * 1024
  /// Fields that would start beyond this many bytes are omitted, and the line says so.
  static let byteLimit = 32 * 1024
  /// The maximum depth of nested fields.
  static let depthLimit = 4

  private var json = JSONWriter()

  init(time: WallClockTime, level: Logger.Level, message: String, fields: [(key: String, value: Logger.MetadataValue)])
  {
    json.beginObject()
    json.key("time")
    json.raw(Self.quoted(time))
    json.field("level", Self.name(level))
    json.field("msg", Self.cut(message))
    for (index, (key, value)) in fields.enumerated() {
      guard hasRoom else {
        json.field("fields_left_out", fields.count - index)
        break
      }
      // A repeated key would make the object ambiguous.
      json.key(Self.cut(Self.reserved.contains(key) ? "_" + key : key))
      append(value, depth: 1)
    }
    json.endObject()
  }

  /// The line with its newline.
  var bytes: [UInt8] {
    json.bytes + [UInt8(ascii: "\n")]
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

  private static func quoted(_ time: WallClockTime) -> [UInt8] {
    var bytes = [UInt8(ascii: "\"")]
    time.appendRFC3339(to: &bytes)
    bytes.append(UInt8(ascii: "\""))
    return bytes
  }

  /// A string, cut between two characters if it is too long.
  private static func cut(_ text: String) -> String {
    guard text.utf8.count > textByteLimit else { return text }
    var end = text.utf8.index(text.utf8.startIndex, offsetBy: textByteLimit)
    // Continuation bytes begin with the bits 10.
    while text.utf8[end] & 0xC0 == 0x80 { end = text.utf8.index(before: end) }
    return text[..<end] + "…"
  }

  private var hasRoom: Bool { json.bytes.count < Self.byteLimit }

  private mutating func append(_ value: Logger.MetadataValue, depth: Int) {
    switch value {
    case .string(let text): json.string(Self.cut(text))
    case .stringConvertible(let convertible): append(convertible)
    case .array(let values):
      guard depth < Self.depthLimit else { return json.string("…") }
      json.beginArray()
      for value in values {
        guard hasRoom else {
          json.string("…")
          break
        }
        append(value, depth: depth + 1)
      }
      json.endArray()
    case .dictionary(let fields):
      guard depth < Self.depthLimit else { return json.string("…") }
      json.beginObject()
      for key in fields.keys.sorted() {
        guard hasRoom, let value = fields[key] else { break }
        json.key(Self.cut(key))
        append(value, depth: depth + 1)
      }
      json.endObject()
    }
  }

  /// Numbers and booleans are kept; everything else becomes a string.
  private mutating func append(_ value: any CustomStringConvertible & Sendable) {
    switch value {
    case let number as Int: json.int(number)
    case let number as Int32: json.int(number)
    case let number as Int64: json.int(number)
    case let number as UInt64: json.int(number)
    case let number as Double where number.isFinite: json.double(number)
    case let flag as Bool: json.bool(flag)
    default: json.string(Self.cut(value.description))
    }
  }
}
