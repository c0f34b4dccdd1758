// JSON in, to check a document and look into it; nothing is encoded again from it. Invariant: no message quotes the
// document, which may hold credentials. Used at boot for settings that are JSON; not tied to the loop.

import CReactor

/// Where a text stops being JSON. Says nothing of what stands there.
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

/// A parsed document. Integers of any length up to a double's range pass.
public final class JSONDocument {
  fileprivate let pointer: UnsafeMutablePointer<json_t>

  /// - Parameter repeatedKeys: whether a key may occur twice in one object: its last value then counts.
  /// - Throws: `JSONSyntaxError` for anything that is not one JSON value, and for nesting beyond jansson's bound of
  ///   2,048.
  public init(_ text: String, repeatedKeys: Bool = false) throws(JSONSyntaxError) {
    var error = json_error_t()
    // INT_AS_REAL: integers beyond 64 bits are no fault, their value is not used here.
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

/// A value inside of a document, which it keeps alive.
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

  /// The text of a string; nil of anything else.
  public var string: String? {
    guard let text = json_string_value(pointer) else { return nil }
    return String(
      decoding: UnsafeRawBufferPointer(start: text, count: json_string_length(pointer)), as: UTF8.self)
  }

  /// The elements of an array; none of anything else.
  public var elements: [JSONValue] {
    (0..<json_array_size(pointer)).compactMap { index in
      json_array_get(pointer, index).map { JSONValue($0, in: document) }
    }
  }

  /// The keys of an object in the order of the text; none of anything else.
  public var keys: [String] {
    var keys: [String] = []
    var iterator = json_object_iter(pointer)
    while let place = iterator {
      keys.append(String(cString: json_object_iter_key(place)))
      iterator = json_object_iter_next(pointer, place)
    }
    return keys
  }

  /// The member of an object; nil where there is none, and of anything else.
  public subscript(key: String) -> JSONValue? {
    json_object_get(pointer, key).map { JSONValue($0, in: document) }
  }
}
