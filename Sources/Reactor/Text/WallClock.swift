// The calendar time, for people and logs only; `LoopClock.wallTime` returns it. Pure. Invariant: no decision and no
// wait depends on it.

/// A moment in UTC.
public struct WallClockTime: Equatable, Sendable {
  /// Since 1970-01-01T00:00:00Z.
  public var seconds: Int64
  /// Nanoseconds within the second, 0 to 999,999,999.
  public var nanoseconds: Int64

  public init(seconds: Int64, nanoseconds: Int64) {
    self.seconds = seconds
    self.nanoseconds = nanoseconds
  }

  /// A moment from PostgreSQL's microseconds since 1970.
  public init(microsecondsSince1970 microseconds: Int64) {
    // Rounded down even before 1970: the fraction counts forwards.
    let fraction = (microseconds % 1_000_000 + 1_000_000) % 1_000_000
    self.init(seconds: (microseconds - fraction) / 1_000_000, nanoseconds: fraction * 1_000)
  }

  /// A moment from Redis's milliseconds since 1970.
  public init(millisecondsSince1970 milliseconds: Int64) {
    let fraction = (milliseconds % 1_000 + 1_000) % 1_000
    self.init(seconds: (milliseconds - fraction) / 1_000, nanoseconds: fraction * 1_000_000)
  }

  /// Appends this time in RFC 3339 with microseconds: `2026-11-24T01:29:31.123456Z`.
  public func appendRFC3339(to bytes: inout [UInt8]) {
    appendDateAndTime(to: &bytes)
    bytes.append(UInt8(ascii: "."))
    Self.append(nanoseconds / 1_000, digits: 6, to: &bytes)
    bytes.append(UInt8(ascii: "Z"))
  }

  /// RFC 3339 to the second: `2026-11-24T01:29:31Z`. The fraction is cut, not rounded.
  public var rfc3339Seconds: String {
    var bytes: [UInt8] = []
    appendDateAndTime(to: &bytes)
    bytes.append(UInt8(ascii: "Z"))
    return String(decoding: bytes, as: UTF8.self)
  }

  /// RFC 3339 has years of four digits: the first and the last second that it can write.
  private static let writable: ClosedRange<Int64> = -62_167_219_200...253_402_300_799

  /// Everything before the fraction.
  private func appendDateAndTime(to bytes: inout [UInt8]) {
    let seconds = min(max(seconds, Self.writable.lowerBound), Self.writable.upperBound)
    let day = (seconds >= 0 ? seconds : seconds - 86_399) / 86_400
    let second = seconds - day * 86_400
    let date = Self.date(daysSince1970: day)
    Self.append(date.year, digits: 4, to: &bytes)
    bytes.append(UInt8(ascii: "-"))
    Self.append(date.month, digits: 2, to: &bytes)
    bytes.append(UInt8(ascii: "-"))
    Self.append(date.day, digits: 2, to: &bytes)
    bytes.append(UInt8(ascii: "T"))
    Self.append(second / 3_600, digits: 2, to: &bytes)
    bytes.append(UInt8(ascii: ":"))
    Self.append(second / 60 % 60, digits: 2, to: &bytes)
    bytes.append(UInt8(ascii: ":"))
    Self.append(second % 60, digits: 2, to: &bytes)
  }

  /// The same as a string.
  public var rfc3339: String {
    var bytes: [UInt8] = []
    appendRFC3339(to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  /// The format of a mail's Date (RFC 5322, 3.3): `Sun, 06 Nov 1994 08:49:37 +0000`. From 1970 on.
  public var rfc5322: String {
    var bytes = [UInt8](repeating: 0, count: HTTPDate.byteCount)
    HTTPDate.render(secondsSince1970: seconds, into: &bytes)
    // The same except for the zone, which is numeric in mail.
    return String(decoding: bytes.dropLast("GMT".utf8.count), as: UTF8.self) + "+0000"
  }

  /// The Gregorian date of a day counted from 1970-01-01. Years start in March here, so that the leap day is last.
  static func date(daysSince1970: Int64) -> (year: Int64, month: Int64, day: Int64) {
    let days = daysSince1970 + 719_468
    let era = (days >= 0 ? days : days - 146_096) / 146_097
    let dayOfEra = days - era * 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let marchMonth = (5 * dayOfYear + 2) / 153
    let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    return (year, month, dayOfYear - (153 * marchMonth + 2) / 5 + 1)
  }

  private static func append(_ number: Int64, digits: Int, to bytes: inout [UInt8]) {
    var divisor: Int64 = 1
    for _ in 1..<digits { divisor *= 10 }
    while divisor > 0 {
      bytes.append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: number / divisor % 10))
      divisor /= 10
    }
  }
}
