// The Date field of a response (RFC 9110, 5.6.7), which an origin server must send (6.6.1). Nothing depends on it. Used
// by HTTPServer.

enum HTTPDate {
  static let byteCount = 29

  /// Writes `Sun, 06 Nov 1994 08:49:37 GMT` over the 29 bytes of `text`. Years 1970 to 9999; earlier times become the
  /// beginning of 1970.
  static func render(secondsSince1970 seconds: Int64, into text: inout [UInt8]) {
    let seconds = max(0, seconds)
    let days = seconds / 86_400
    let second = seconds % 86_400
    let (year, month, day) = WallClockTime.date(daysSince1970: days)
    put("ThuFriSatSunMonTueWed", days % 7, at: 0, into: &text)
    text[3] = ASCII.comma
    text[4] = ASCII.space
    put(day, digits: 2, at: 5, then: ASCII.space, into: &text)
    put("JanFebMarAprMayJunJulAugSepOctNovDec", month - 1, at: 8, into: &text)
    text[11] = ASCII.space
    put(year, digits: 4, at: 12, then: ASCII.space, into: &text)
    put(second / 3600, digits: 2, at: 17, then: ASCII.colon, into: &text)
    put(second / 60 % 60, digits: 2, at: 20, then: ASCII.colon, into: &text)
    put(second % 60, digits: 2, at: 23, then: ASCII.space, into: &text)
    put("GMT", 0, at: 26, into: &text)
  }

  private static func put(_ names: StaticString, _ index: Int64, at place: Int, into text: inout [UInt8]) {
    for offset in 0..<3 { text[place + offset] = names.utf8Start[Int(index) * 3 + offset] }
  }

  private static func put(_ number: Int64, digits: Int, at place: Int, then next: UInt8, into text: inout [UInt8]) {
    var rest = number
    for offset in (0..<digits).reversed() {
      text[place + offset] = ASCII.zero + UInt8(rest % 10)
      rest /= 10
    }
    text[place + digits] = next
  }
}

/// The field's text. The wall clock is read at most four times a second, and the text rendered if it may have changed.
struct HTTPDateCache {
  private static let lifetime = Duration.milliseconds(250)

  private var text = [UInt8](repeating: ASCII.space, count: HTTPDate.byteCount)
  private var validUntil = MonotonicInstant(nanoseconds: .min)

  mutating func text(at now: MonotonicInstant, on clock: LoopClock) -> [UInt8] {
    if now >= validUntil {
      HTTPDate.render(secondsSince1970: clock.wallTime.seconds, into: &text)
      validUntil = now.advanced(by: Self.lifetime)
    }
    return text
  }
}
