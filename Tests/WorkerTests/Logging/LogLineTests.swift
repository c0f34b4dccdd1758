// Log lines as JSON, whatever is in them.

import Foundation
import Logging
import Reactor
import Testing

@testable import Worker

@Suite struct LogLineTests {
  private static let time = WallClockTime(seconds: 1_795_483_771, nanoseconds: 123_456_789)

  private static func line(
    _ message: String, level: Logger.Level = .info, _ fields: [(key: String, value: Logger.MetadataValue)] = []
  ) -> LogLine {
    LogLine(time: time, level: level, message: message, fields: fields)
  }

  private static func text(_ line: LogLine) -> String { String(decoding: line.bytes, as: UTF8.self) }

  /// The line as JSON; it has to be one line.
  private static func object(_ line: LogLine) throws -> [String: Any] {
    #expect(line.bytes.last == UInt8(ascii: "\n"))
    #expect(line.bytes.count { $0 == UInt8(ascii: "\n") } == 1)
    return try #require(JSONSerialization.jsonObject(with: Data(line.bytes)) as? [String: Any])
  }

  @Test func aLineHasTimeLevelMessageAndThenItsFields() {
    let line = Self.line("swept", [("rows", .stringConvertible(3)), ("task", "wraps-expired")])
    #expect(
      Self.text(line) == """
        {"time":"2026-11-24T01:29:31.123456Z","level":"INFO","msg":"swept","rows":3,"task":"wraps-expired"}

        """)
  }

  @Test func levelsAreTheFourOfTheExistingWorker() throws {
    for (level, name) in [
      (Logger.Level.trace, "DEBUG"), (.debug, "DEBUG"), (.info, "INFO"), (.notice, "INFO"), (.warning, "WARN"),
      (.error, "ERROR"), (.critical, "ERROR"),
    ] {
      #expect(try Self.object(Self.line("x", level: level))["level"] as? String == name)
    }
  }

  @Test func everyCharacterComesBackAsItWas() throws {
    var text = ""
    for value in 0..<0x300 { text.unicodeScalars.append(Unicode.Scalar(UInt32(value))!) }
    text += "\u{2028}\u{2029}\u{FFFD}😀\u{10FFFF}\u{D7FF}\u{E000}\"\\/"
    let object = try Self.object(Self.line(text, [(text, .string(text))]))
    #expect(object["msg"] as? String == text)
    #expect(object[text] as? String == text)
  }

  @Test func bytesThatAreNoUTF8AreRepairedBeforeTheyAreWritten() throws {
    let object = try Self.object(Self.line(String(decoding: [0x61, 0xFF, 0xC3], as: UTF8.self)))
    #expect(object["msg"] as? String == "a\u{FFFD}\u{FFFD}")
  }

  @Test func aLongTextIsCutBetweenTwoCharacters() throws {
    for length in LogLine.textByteLimit - 4...LogLine.textByteLimit + 4 {
      let text = String(repeating: "a", count: length % 4) + String(repeating: "😀", count: length / 4)
      let cut = try #require(Self.object(Self.line(text))["msg"] as? String)
      let isWhole = cut == text
      #expect(isWhole == (text.utf8.count <= LogLine.textByteLimit))
      #expect(isWhole || (cut.hasSuffix("😀…") && text.hasPrefix(cut.dropLast())))
    }
  }

  @Test func aLineIsBoundedHoweverManyFieldsThereAre() throws {
    let long = String(repeating: "\u{1}", count: 100_000)
    var fields: [(key: String, value: Logger.MetadataValue)] = []
    for index in 0..<1_000 { fields.append(("field\(index)", .string(long))) }
    let line = Self.line(long, fields)
    // A text of control characters is six times as long in JSON.
    #expect(line.bytes.count < LogLine.byteLimit + 2 * 6 * LogLine.textByteLimit + 1_000)
    #expect(try Self.object(line)["fields_left_out"] as? Int ?? 0 > 900)
  }

  @Test func aListIsBoundedToo() throws {
    let long: Logger.MetadataValue = .string(String(repeating: "x", count: 1_000))
    var dictionary: Logger.Metadata = [:]
    for index in 0..<10_000 { dictionary["\(index)"] = long }
    let array = Logger.MetadataValue.array(Array(repeating: long, count: 10_000))
    for value in [array, .dictionary(dictionary), .array([array, array])] {
      let line = Self.line("x", [("value", value), ("last", "y")])
      #expect(line.bytes.count < LogLine.byteLimit + 3_000)
      _ = try Self.object(line)
    }
  }

  @Test func nestedFieldsAreJSONUpToADepth() throws {
    let object = try Self.object(
      Self.line("x", [("value", ["b": ["1", .stringConvertible(true)], "a": .stringConvertible(0.5)])]))
    let value = try #require(object["value"] as? [String: Any])
    #expect(value["a"] as? Double == 0.5)
    #expect((value["b"] as? [Any])?.count == 2)
    var deep: Logger.MetadataValue = "end"
    for _ in 0..<1_000 { deep = .array([deep]) }
    #expect(Self.text(Self.line("x", [("deep", deep)])).contains("\"deep\":[[[\"…\"]]]}"))
  }

  @Test func numbersAndBooleansStayWhatTheyAre() {
    let fields: [(key: String, value: Logger.MetadataValue)] = [
      ("a", .stringConvertible(Int64.min)), ("b", .stringConvertible(UInt64.max)), ("c", .stringConvertible(1.25)),
      ("d", .stringConvertible(false)), ("e", .stringConvertible(Double.infinity)), ("f", .stringConvertible(Int32(7))),
    ]
    #expect(
      Self.text(Self.line("x", fields)).hasSuffix(
        #""a":-9223372036854775808,"b":18446744073709551615,"c":1.25,"d":false,"e":"inf","f":7}"# + "\n"))
  }

  @Test func aFieldCannotTakeAReservedName() throws {
    let object = try Self.object(Self.line("real", [("level", "x"), ("msg", "forged"), ("time", "y")]))
    #expect(object["msg"] as? String == "real")
    #expect(object["_msg"] as? String == "forged")
  }
}

@Suite struct JSONLogHandlerTests {
  private struct Silent: Error { let password = "hunter2" }
  private struct Spoken: Error, CustomStringConvertible { let description = "connection refused" }

  @Test func fieldsAreSortedAndTheNearestOneWins() {
    let log = Collected()
    var logger = Logger.worker(output: log.output)
    logger[metadataKey: "task"] = "a"
    logger[metadataKey: "b"] = "outer"
    logger.info("x", metadata: ["z": "1", "b": "inner"])
    #expect(log.lines.count == 1)
    #expect(log.lines[0].hasSuffix(#""msg":"x","b":"inner","task":"a","z":"1"}"#))
  }

  @Test func whatIsBelowTheLevelIsNotWritten() {
    let log = Collected()
    let logger = Logger.worker(level: .warning, output: log.output)
    logger.info("no")
    logger.warning("yes")
    #expect(log.lines.count == 1)
  }

  @Test func loggersAreValues() {
    let log = Collected()
    let first = Logger.worker(output: log.output)
    var second = first
    second.logLevel = .error
    second[metadataKey: "only"] = "second"
    first.info("x")
    second.info("x")
    #expect(log.lines.count == 1)
    #expect(!log.lines[0].contains("only"))
  }

  @Test func anErrorIsShownInItsOwnWordsOrByItsTypeOnly() {
    let log = Collected()
    let logger = Logger.worker(output: log.output)
    logger.error("x", error: Silent())
    logger.error("x", error: Spoken())
    #expect(log.lines[0].hasSuffix(#""error":"Silent"}"#))
    #expect(log.lines[1].hasSuffix(#""error":"connection refused"}"#))
  }
}
