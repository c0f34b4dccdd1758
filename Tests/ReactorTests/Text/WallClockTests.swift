// The calendar's time as text.

import Foundation
import Testing

@testable import Reactor

@Suite struct WallClockTests {
  private static func text(_ seconds: Int64, _ nanoseconds: Int64 = 0) -> String {
    var bytes: [UInt8] = []
    WallClockTime(seconds: seconds, nanoseconds: nanoseconds).appendRFC3339(to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  @Test func timesAreWrittenInUTCWithMicroseconds() {
    #expect(Self.text(0) == "1970-01-01T00:00:00.000000Z")
    #expect(Self.text(951_782_400) == "2000-02-29T00:00:00.000000Z")
    #expect(Self.text(1_709_251_199, 999_999_999) == "2024-02-29T23:59:59.999999Z")
    #expect(Self.text(4_107_542_400) == "2100-03-01T00:00:00.000000Z")
    #expect(Self.text(-1) == "1969-12-31T23:59:59.000000Z")
    #expect(Self.text(253_402_300_799, 1_000) == "9999-12-31T23:59:59.000001Z")
  }

  @Test func everyDayIsTheCalendarsDay() {
    let formatter = ISO8601DateFormatter()
    for day in stride(from: Int64(-20_000), through: 60_000, by: 17) {
      let seconds = day * 86_400 + day.magnitude.quotientAndRemainder(dividingBy: 86_400).remainder.signed
      let expected = formatter.string(from: Date(timeIntervalSince1970: Double(seconds)))
      #expect(Self.text(seconds) == expected.dropLast() + ".000000Z")
    }
  }

  @Test(arguments: [
    (Int64(1_795_708_823_999_999), "2026-11-26T16:00:23Z"), (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z"),
    (-1_000_000, "1969-12-31T23:59:59Z"), (-1_000_001, "1969-12-31T23:59:58Z"),
  ])
  func aCountOfMicrosecondsIsATimeToTheSecond(microseconds: Int64, text: String) {
    #expect(WallClockTime(microsecondsSince1970: microseconds).rfc3339Seconds == text)
  }

  /// Whoever can write to Redis can write any number where a time is.
  @Test(arguments: [
    (Int64(1_700_000_000_999), "2023-11-14T22:13:20Z"), (-1, "1969-12-31T23:59:59Z"),
    (-62_167_219_200_000, "0000-01-01T00:00:00Z"), (-62_167_219_200_001, "0000-01-01T00:00:00Z"),
    (253_402_300_799_999, "9999-12-31T23:59:59Z"), (253_402_300_800_000, "9999-12-31T23:59:59Z"),
    (1 << 54, "9999-12-31T23:59:59Z"), (-1 << 54, "0000-01-01T00:00:00Z"),
  ])
  func aTimeThatHasNoYearOfFourDigitsIsTheFirstOrTheLastThatHas(milliseconds: Int64, text: String) {
    #expect(WallClockTime(millisecondsSince1970: milliseconds).rfc3339Seconds == text)
  }

  @Test func microsecondsAreKept() {
    let time = WallClockTime(microsecondsSince1970: -1_500_000)
    #expect(time == WallClockTime(seconds: -2, nanoseconds: 500_000_000))
    #expect(time.rfc3339 == "1969-12-31T23:59:58.500000Z")
  }

  @Test func nowIsNow() {
    #expect(abs(Double(EventLoop.clock.wallTime.seconds) - Date().timeIntervalSince1970) < 5)
  }
}

extension UInt64 {
  fileprivate var signed: Int64 { Int64(self) }
}
