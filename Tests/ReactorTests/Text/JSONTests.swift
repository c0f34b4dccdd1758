// JSON out and in: what is written can be read by another parser, and what is wrong is told without quoting it.

import Foundation
import Reactor
import Testing

@Suite struct JSONTests {
  @Test func aWrittenObjectReadsBackAsItWas() throws {
    var json = JSONWriter()
    json.beginObject()
    json.field("text", "a\"b\\c\n\u{0}\u{1f}\u{7f}\u{2028}é😀")
    json.key("list")
    json.beginArray()
    json.int(0)
    json.int(Int64.min)
    json.int(UInt64.max)
    json.int(Int8.min)
    json.double(0.1)
    json.double(.infinity)
    json.bool(true)
    json.null()
    json.beginObject()
    json.endObject()
    json.endArray()
    json.field("last", false)
    json.endObject()
    let expected =
      ##"{"text":"a\"b\\c\n\u0000\u001f\u007f"## + "\u{2028}é😀"
      + #"","list":[0,-9223372036854775808,18446744073709551615,-128,0.1,null,true,null,{}],"last":false}"#
    #expect(String(decoding: json.bytes, as: UTF8.self) == expected)
    let read = try JSONSerialization.jsonObject(with: Data(json.bytes)) as? [String: Any]
    #expect(read?["text"] as? String == "a\"b\\c\n\u{0}\u{1f}\u{7f}\u{2028}é😀")
  }

  @Test func anyBytesMakeAValidString() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var state = seed
    for round in 0..<20_000 {
      // A letter first: Foundation takes a byte order mark off a string's beginning.
      var bytes: [UInt8] = [0x61]
      for _ in 0..<(round % 12) {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        // Mostly leading and following bytes at the edges of what is valid.
        let edges: [UInt8] = [
          0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0x22, 0x41,
        ]
        bytes.append(state >> 63 == 0 ? edges[Int(state >> 40) & 15] : UInt8(truncatingIfNeeded: state >> 48))
      }
      var json = JSONWriter()
      json.beginArray()
      bytes.withUnsafeBufferPointer { json.string(utf8: $0) }
      json.endArray()
      let read = try JSONSerialization.jsonObject(with: Data(json.bytes)) as? [String]
      try #require(read == [String(decoding: bytes, as: UTF8.self)], "seed \(seed), round \(round): \(bytes)")
    }
  }

  @Test func doublesReadBackExactly() throws {
    for value in [0, -0.0, 1e-5, 1e20, .leastNonzeroMagnitude, .greatestFiniteMagnitude, 0.1 + 0.2, 123456789.125] {
      var json = JSONWriter()
      json.double(value)
      #expect(Double(String(decoding: json.bytes, as: UTF8.self)) == value)
      _ = try JSONDocument(String(decoding: json.bytes, as: UTF8.self))
    }
  }

  @Test func aKeyMayOccurTwiceWhereThatIsAllowed() throws {
    let document = try JSONDocument(#"{"a": 1, "b": {"c": 1, "c": "x"}, "a": "last"}"#, repeatedKeys: true)
    #expect(document.root["a"]?.string == "last" && document.root["b"]?["c"]?.string == "x")
  }

  @Test func thePiecesOfATextAreThoseThatItHas() throws {
    let text = #" { "a" : [1, {"b":"],}\\\""}, -2.50e+3 , null,true ] ,"é\n":"","a":{} , "c" : false } "#
    _ = try JSONDocument(text, repeatedKeys: true)
    let members = JSONSlice(text).members
    #expect(members.map(\.key.text) == [#""a""#, #""é\n""#, #""a""#, #""c""#])
    #expect(members.map(\.key.string) == ["a", "é\n", "a", "c"])
    #expect(members.map(\.value.kind) == [.array, .string, .object, .boolean])
    #expect(members[0].value.elements.map(\.text) == ["1", #"{"b":"],}\\\""}"#, "-2.50e+3", "null", "true"])
    #expect(members[0].value.elements[1].members[0].value.string == #"],}\""#)
    #expect(members[2].value.members.isEmpty && members[2].value.elements.isEmpty && members[1].value.string == "")
    for empty in ["[]", " [ ] ", "{}", "\"[1]\"", "7"] {
      #expect(JSONSlice(empty).elements.isEmpty && JSONSlice(empty).members.isEmpty)
    }
  }

  @Test func aDocumentShowsItsParts() throws {
    let document = try JSONDocument(
      #"[{"name": "é\n", "config": {"id": 12345678901234567890123}, "x": null, "y": true, "a": 0.1}, [], "s"]"#)
    #expect(document.root.kind == .array)
    let target = try #require(document.root.elements.first)
    #expect(target.keys == ["name", "config", "x", "y", "a"])
    #expect(target["name"]?.string == "é\n")
    #expect(target["config"]?["id"]?.kind == .number)
    #expect(target["x"]?.kind == .null)
    #expect(target["y"]?.kind == .boolean)
    #expect(target["absent"] == nil)
    #expect(target.string == nil)
    #expect(document.root.elements.map(\.kind) == [.object, .array, .string])
  }

  @Test(arguments: [
    ("[1,\n 2,, 3]", "not valid JSON", 2), ("", "the text ends too early", 1),
    ("[\"secret", "the text ends too early", 1), ("[] secret", "there is something after", 1),
    ("{\"secret\":1,\n\"secret\":2}", "a key occurs twice in one object", 2),
    ("[1e999]", "a number is out of range", 1), ("[\"\\u0000\"]", "a string contains the character NUL", 1),
    (String(repeating: "[", count: 100_000), "nested too deeply", 1), ("secret", "not valid JSON", 1),
  ])
  func aFaultNamesItsPlaceWithoutTheText(text: String, reason: String, line: Int) {
    let error = #expect(throws: JSONSyntaxError.self) { try JSONDocument(text) }
    #expect(error?.reason.hasPrefix(reason) == true, "\(error as Any)")
    #expect(error?.line == line)
    #expect(error?.description.contains("secret") == false)
  }
}
