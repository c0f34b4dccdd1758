// Durations against the table of Go's own tests of time.ParseDuration.

import TestSupport
import Testing

@testable import Reactor

@Suite struct GoDurationTests {
  private static let second: Int64 = 1_000_000_000
  private static let minute = 60 * second
  private static let hour = 60 * minute

  private static let accepted: [(String, Int64)] = [
    ("0", 0), ("-0", 0), ("+0", 0), ("5s", 5 * second), ("30s", 30 * second), ("1478s", 1_478 * second),
    ("-5s", -5 * second), ("+5s", 5 * second), ("5.0s", 5 * second), ("5.6s", 5_600_000_000), ("5.s", 5 * second),
    (".5s", 500_000_000), ("1.0s", second), ("1.00s", second), ("1.004s", 1_004_000_000), ("1.0040s", 1_004_000_000),
    ("100.00100s", 100 * second + 1_000_000), ("10ns", 10), ("11us", 11_000), ("12\u{B5}s", 12_000),
    ("12\u{3BC}s", 12_000), ("13ms", 13_000_000), ("14s", 14 * second), ("15m", 15 * minute), ("16h", 16 * hour),
    ("300ms", 300_000_000), ("1.5h", 90 * minute), ("2h45m", 165 * minute), ("3h30m", 210 * minute),
    ("10.5s4m", 4 * minute + 10_500_000_000), ("-2m3.4s", -(2 * minute + 3_400_000_000)),
    ("1h2m3s4ms5us6ns", hour + 2 * minute + 3 * second + 4_005_006), ("39h9m14.425s", 140_954_425_000_000),
    ("52763797000ns", 52_763_797_000), ("0.3333333333333333333h", 20 * minute),
    ("9007199254740993ns", 9_007_199_254_740_993), ("9223372036854775807ns", .max),
    ("9223372036854775.807us", .max), ("9223372036s854ms775us807ns", .max), ("-9223372036854775808ns", .min),
    ("-9223372036854775.808us", .min), ("-9223372036s854ms775us808ns", .min), ("-2562047h47m16.854775808s", .min),
    ("0.100000000000000000000h", 6 * minute), ("0.830103483285477580700h", 2_988_372_539_827),
    ("1s1s", 2 * second), ("00001s", second),
  ]

  @Test(arguments: accepted) func whatGoAcceptsHasTheSameValueToTheNanosecond(text: String, nanoseconds: Int64) {
    #expect(GoDuration.parse(text) == .nanoseconds(nanoseconds))
  }

  private static let refused = [
    "", "3", "-", "+", "s", ".", "-.", ".s", "+.s", "1d", "1w", "+-1s", "--1s", " 1s", "1s ", "1 s", "1S", "1e3s",
    "1,5s",
    "0x1s", "1s-1s", "1sm", "\u{85}\u{85}", "\u{FFFD}", "hello \u{FFFD} world", "\u{661}s", "1s0", "00", "1.2.3s",
    "9223372036854775810ns", "9223372036854775808ns", "-9223372036854775809ns", "9223372036854776us", "3000000h",
    "9223372036854775.808us", "9223372036854ms775us808ns", "99999999999999999999999999s",
    "9223372036854775808ns9223372036854775808ns", "-9223372036854775808ns1ns",
  ]

  @Test(arguments: refused) func whatGoRefusesIsRefused(text: String) {
    #expect(GoDuration.parse(text) == nil)
  }

  @Test func aDurationIsWrittenAsAPersonWouldAndReadBackTheSame() {
    let texts: [(Duration, String)] = [
      (.zero, "0s"), (.seconds(15), "15s"), (.seconds(60), "1m"), (.seconds(1_800), "30m"), (.seconds(86_400), "24h"),
      (.seconds(5_400), "1h30m"), (.milliseconds(250), "250ms"), (.milliseconds(1_500), "1s500ms"),
      (.nanoseconds(1), "1ns"), (.seconds(-61), "-1m1s"), (.nanoseconds(Int64.max), "2562047h47m16s854ms775us807ns"),
    ]
    for (duration, text) in texts {
      #expect(GoDuration.text(duration) == text)
      #expect(GoDuration.parse(text) == duration)
    }
  }

  @Test func noTextCrashesAndEveryWrittenDurationIsReadBack() {
    let seed = UInt64.random(in: .min ... .max)
    var random = SeededRandom(seed: seed)
    let alphabet = Array("0123456789.+-nuµmshs".unicodeScalars)
    for _ in 0..<20_000 {
      var text = ""
      for _ in 0..<Int.random(in: 0...12, using: &random) {
        text.unicodeScalars.append(alphabet[Int.random(in: 0..<alphabet.count, using: &random)])
      }
      if let duration = GoDuration.parse(text) {
        #expect(GoDuration.parse(GoDuration.text(duration)) == duration, "seed \(seed): \(text)")
      }
    }
  }
}
