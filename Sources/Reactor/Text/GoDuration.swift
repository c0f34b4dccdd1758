// Durations in Go's notation: `300ms`, `1.5h`, `2h45m`. Pure; used by the servers' URLs and the settings table.
// Invariant: accepts exactly what Go's time.ParseDuration accepts, with the same value to the nanosecond.

/// Parses and formats durations in the notation of Go's `time.ParseDuration`.
public enum GoDuration {
  /// The duration that `text` denotes; nil if it is invalid or exceeds 64 bits of nanoseconds.
  public static func parse(_ text: String) -> Duration? {
    var rest = Array(text.utf8)[...]
    var isNegative = false
    if let sign = rest.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") {
      isNegative = sign == UInt8(ascii: "-")
      rest.removeFirst()
    }
    if rest.count == 1, rest.first == zero { return .zero }
    guard !rest.isEmpty else { return nil }
    var total: UInt64 = 0
    while !rest.isEmpty {
      guard let part = nextPart(&rest) else { return nil }
      let (sum, overflow) = total.addingReportingOverflow(part)
      guard !overflow, sum <= magnitudeLimit else { return nil }
      total = sum
    }
    if isNegative { return .nanoseconds(Int64(truncatingIfNeeded: 0 &- total)) }
    return total < magnitudeLimit ? .nanoseconds(Int64(total)) : nil
  }

  /// The shortest text that denotes `duration`: `15s`, `24h`, `1h30m`, `250ms`.
  public static func text(_ duration: Duration) -> String {
    let (seconds, attoseconds) = duration.components
    if seconds == 0, attoseconds / 1_000_000_000 == 0 { return "0s" }
    var text = seconds < 0 || attoseconds < 0 ? "-" : ""
    let whole = seconds.magnitude
    var nanoseconds = attoseconds.magnitude / 1_000_000_000
    if whole >= 3_600 { text += "\(whole / 3_600)h" }
    if whole / 60 % 60 > 0 { text += "\(whole / 60 % 60)m" }
    if whole % 60 > 0 { text += "\(whole % 60)s" }
    for (unit, length) in [("ms", 1_000_000), ("us", 1_000), ("ns", 1)] as [(String, UInt64)] {
      if nanoseconds >= length { text += "\(nanoseconds / length)\(unit)" }
      nanoseconds %= length
    }
    return text
  }

  /// The same without the fraction of a second.
  public static func text(wholeSecondsOf duration: Duration) -> String {
    text(.seconds(duration.components.seconds))
  }

  /// 2^63: the magnitude of the smallest 64-bit number.
  private static let magnitudeLimit: UInt64 = 1 << 63
  private static let zero = UInt8(ascii: "0")

  /// Removes a leading number with its unit and returns the nanoseconds.
  private static func nextPart(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
    let before = rest.count
    guard let whole = wholeNumber(&rest) else { return nil }
    var hasDigits = rest.count < before
    var fraction = (digits: UInt64(0), scale: 1.0)
    if rest.first == UInt8(ascii: ".") {
      rest.removeFirst()
      let before = rest.count
      fraction = fractionDigits(&rest)
      hasDigits = hasDigits || rest.count < before
    }
    guard hasDigits, let unit = unit(&rest), whole <= magnitudeLimit / unit else { return nil }
    var value = whole * unit
    if fraction.digits > 0 {
      // In floating point, as in Go, for the same nanosecond in fractions of hours.
      value += UInt64(Double(fraction.digits) * (Double(unit) / fraction.scale))
    }
    return value <= magnitudeLimit ? value : nil
  }

  private static func wholeNumber(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
    var number: UInt64 = 0
    while let digit = digit(rest.first) {
      guard number <= magnitudeLimit / 10 else { return nil }
      number = number * 10 + digit
      guard number <= magnitudeLimit else { return nil }
      rest.removeFirst()
    }
    return number
  }

  /// The fractional digits and their power of ten. Digits beyond 64 bits are discarded, as in Go.
  private static func fractionDigits(_ rest: inout ArraySlice<UInt8>) -> (digits: UInt64, scale: Double) {
    var number: UInt64 = 0
    var scale = 1.0
    var isFull = false
    while let digit = digit(rest.first) {
      rest.removeFirst()
      guard !isFull, number <= (magnitudeLimit - 1) / 10, number * 10 + digit <= magnitudeLimit else {
        isFull = true
        continue
      }
      number = number * 10 + digit
      scale *= 10
    }
    return (number, scale)
  }

  /// Removes a leading unit, everything up to the next digit or point, and returns its length in nanoseconds.
  private static func unit(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
    var name: [UInt8] = []
    while let byte = rest.first, byte != UInt8(ascii: "."), digit(byte) == nil {
      name.append(byte)
      rest.removeFirst()
    }
    for (unit, nanoseconds) in units where name.elementsEqual(unit.utf8) { return nanoseconds }
    return nil
  }

  private static let units: [(String, UInt64)] = [
    ("ns", 1), ("us", 1_000),
    // The micro sign (U+00B5), then the Greek letter mu (U+03BC).
    ("\u{B5}s", 1_000), ("\u{3BC}s", 1_000),
    ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
  ]

  private static func digit(_ byte: UInt8?) -> UInt64? {
    guard let byte, byte >= zero, byte <= UInt8(ascii: "9") else { return nil }
    return UInt64(byte - zero)
  }
}
