// Parses JSON to validate it and look into it; nothing is re-encoded from it. Invariant: no message quotes the
// document, which may contain credentials. Used at startup for JSON settings; not bound to the loop.

import CReactor

/// Where a text stops being JSON. Does not quote it.
public struct JSONSyntaxError: Error, Equatable, CustomStringConvertible {
  public let reason: String
  /// Both count from 1, the column in characters; the position counts bytes from 0.
  public let line: Int
  public let column: Int
  public let position: Int

  public var description: String { "\(reason) at line \(line), column \(column)" }

  fileprivate init(_ error: inout json_error_t) {
    reason =
      switch json_error_code(&error) {
      case json_error_premature_end_of_input: "the text ends too early"
      case json_error_end_of_input_expected: "there is something after the end"
      case json_error_invalid_utf8: "not UTF-8"
      case json_error_duplicate_key: "a key occurs twice in one object"
      case json_error_numeric_overflow: "a number is out of range"
      case json_error_stack_overflow: "nested too deeply"
      case json_error_null_character, json_error_null_byte_in_key: "a string contains the character NUL"
      default: "not valid JSON"
      }
    line = max(Int(error.line), 1)
    column = max(Int(error.column), 1)
    position = max(Int(error.position), 0)
  }
}

/// A parsed document. Integers of any length within a double's range are accepted.
public final class JSONDocument {
  fileprivate let pointer: UnsafeMutablePointer<json_t>

  /// - Parameter repeatedKeys: whether an object may repeat a key; its last value then counts.
  /// - Throws: `JSONSyntaxError` for anything but one JSON value, and for nesting beyond jansson's limit of 2,048.
  public init(_ text: String, repeatedKeys: Bool = false) throws(JSONSyntaxError) {
    var error = json_error_t()
    // INT_AS_REAL: integers beyond 64 bits are accepted, because their value is not used.
    let repeated = repeatedKeys ? 0 : JSON_REJECT_DUPLICATES
    let flags = Int(repeated | JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL)
    var text = text
    let loaded = text.withUTF8 { bytes in
      bytes.withMemoryRebound(to: CChar.self) { json_loadb($0.baseAddress, $0.count, flags, &error) }
    }
    guard let loaded else { throw JSONSyntaxError(&error) }
    pointer = loaded
  }

  deinit {
    json_decref(pointer)
  }

  public var root: JSONValue { JSONValue(pointer, in: self) }
}

/// A value inside a document, which it keeps alive.
public struct JSONValue {
  public enum Kind: Sendable {
    case object, array, string, number, boolean, null
  }

  private let document: JSONDocument
  private let pointer: UnsafeMutablePointer<json_t>

  fileprivate init(_ pointer: UnsafeMutablePointer<json_t>, in document: JSONDocument) {
    self.pointer = pointer
    self.document = document
  }

  public var kind: Kind {
    switch pointer.pointee.type {
    case JSON_OBJECT: .object
    case JSON_ARRAY: .array
    case JSON_STRING: .string
    case JSON_TRUE, JSON_FALSE: .boolean
    case JSON_NULL: .null
    default: .number
    }
  }

  /// The text of a string; nil for other values.
  public var string: String? {
    guard let text = json_string_value(pointer) else { return nil }
    return String(
      decoding: UnsafeRawBufferPointer(start: text, count: json_string_length(pointer)), as: UTF8.self)
  }

  /// The elements of an array; empty for other values.
  public var elements: [JSONValue] {
    (0..<json_array_size(pointer)).compactMap { index in
      json_array_get(pointer, index).map { JSONValue($0, in: document) }
    }
  }

  /// The keys of an object in document order; empty for other values.
  public var keys: [String] {
    var keys: [String] = []
    var iterator = json_object_iter(pointer)
    while let place = iterator {
      keys.append(String(cString: json_object_iter_key(place)))
      iterator = json_object_iter_next(pointer, place)
    }
    return keys
  }

  /// The member of an object; nil if there is none, and for other values.
  public subscript(key: String) -> JSONValue? {
    json_object_get(pointer, key).map { JSONValue($0, in: document) }
  }
}
