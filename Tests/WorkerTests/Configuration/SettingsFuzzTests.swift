// Reads every setting from valid texts that were mutated at random.

import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SettingsFuzzTests {
  /// Texts with all that a reader looks at; the password is the same in all.
  private static let texts = [
    "postgres://us%65r:hunter2@db-1.internal:5432,[::1]:5433/control?sslmode=verify-full&pool_max_conns=7&a.b=c%20d",
    "postgresql://user@tenant:hunter2@[fe80::1%25eth0]/d?statement_timeout=5s&options=-c%20a.b%3D1&connect_timeout=3",
    "host=h,k port=1,2 dbname=d user=u password='hunter2\\' x' sslmode=disable",
    "redis://user:hunter2@cache.internal:6379/3?client_name=w&dial_timeout=1.5s&pool_size=3",
    "rediss://:hunter2@[::1]:7000?db=2&skip_verify=false",
    "https://user:hunter2@hooks.example:8443/services/hunter2?token=hunter2#x", "smtps://u:hunter2@[::1]:465",
    #"[{"name":"a","cluster":"c","provider_type":"vault","provider_config":{"token":"hunter2","n":[1.5e3,-0]}}]"#,
    "2h45m30.5s", "-9223372036854775808ns", "127.0.0.1:8091", "[::1]:0", "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVy",
    "ops@example.com, dba@example.com", "262143", "true", "secrets-bridge",
  ]

  private static let characters = Array("/?#@:%&=,[]{}'\"\\ +-.0123456789aseh_\n\0µé\u{301}\u{FFFD}".unicodeScalars)

  private static func changed(_ text: String, _ random: inout SeededRandom) -> String {
    var scalars = Array(text.unicodeScalars)
    for _ in 0..<Int.random(in: 1...4, using: &random) {
      let place = Int.random(in: 0...scalars.count, using: &random)
      let end = min(scalars.count, place + Int.random(in: 0...6, using: &random))
      switch Int.random(in: 0...3, using: &random) {
      case 0: scalars.removeSubrange(place..<end)
      case 1: scalars.insert(contentsOf: scalars[place..<end], at: place)
      default: scalars.insert(characters.randomElement(using: &random)!, at: place)
      }
    }
    var text = ""
    text.unicodeScalars.append(contentsOf: scalars)
    return text
  }

  @Test func noTextCrashesItsReaderAndNoFaultRepeatsAPassword() {
    let seed = UInt64.random(in: .min ... .max)
    var random = SeededRandom(seed: seed)
    let rows = SettingRow.all.filter(\.isSecret) + SettingRow.all
    for _ in 0..<40_000 {
      let text = Self.changed(Self.texts.randomElement(using: &random)!, &random)
      let row = rows.randomElement(using: &random)!
      let said: [String] =
        switch row.load(text) {
        case .accepted(_, let warnings): warnings
        case .refused(let expected): expected
        }
      for line in said where line.contains("hunter2") { Issue.record("seed \(seed): \(row.name) \(text): \(line)") }
    }
  }
}
