// What a run leaves for the next one in the schedule record, as text. Pure.

/// How far earlier runs got: for how many slots all that was due was locked, where the full pass stands, what an
/// operator has accepted, or how often rows were changed. No sweep has two of the last three.
struct SweepProgress: Equatable, Sendable {
  /// From so many slots on, that all of what is due is locked is a failure.
  static let lockedSlotLimit = 3

  var lockedSlots = 0
  /// `FullPass.Record`, as text; nil if there is none.
  var pass: String?
  /// An operator accepted whatever was due at this cutoff, in µs since 1970; nil if none did.
  var acceptedCutoff: Int64?
  /// `AttemptCounts`, as text; nil if there are none.
  var attempts: String?

  init() {}

  /// Reads a record's text, also one of a version that knew of passes only.
  init(_ text: String?) {
    guard let text else { return }
    let bytes = Array(text.utf8)
    guard bytes.first == Self.mark else {
      pass = text
      return
    }
    var index = 1
    while index < bytes.count, bytes[index] != Self.space {
      guard (0x30...0x39).contains(bytes[index]), lockedSlots < 1_000_000 else {
        lockedSlots = 0
        return
      }
      lockedSlots = lockedSlots * 10 + Int(bytes[index] - 0x30)
      index += 1
    }
    let rest = String(decoding: bytes.dropFirst(index + 1), as: UTF8.self)
    if rest.utf8.first == Self.acceptedMark {
      acceptedCutoff = Int64(rest.dropFirst()).flatMap { (0...(1 << 53)).contains($0) ? $0 : nil }
    } else if rest.utf8.first == Self.attemptsMark {
      attempts = String(rest.dropFirst())
    } else {
      pass = rest.isEmpty ? nil : rest
    }
  }

  /// Not empty, for that would leave the record as it is.
  var text: String {
    "l\(lockedSlots)" + ((acceptedCutoff.map { "a\($0)" } ?? attempts.map { "r\($0)" } ?? pass).map { " \($0)" } ?? "")
  }

  private static let mark = UInt8(ascii: "l")
  private static let acceptedMark = UInt8(ascii: "a")
  private static let attemptsMark = UInt8(ascii: "r")
  private static let space = UInt8(ascii: " ")
}
