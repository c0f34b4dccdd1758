// What a run leaves in the schedule record for the next one, as text. Pure.

/// The progress of a sweep from run to run.
struct SweepProgress: Equatable, Sendable {
  /// What a sweep remembers. Each sweep has at most one of these.
  enum Memory: Equatable, Sendable {
    case nothing
    /// `FullPass.Record`, as text.
    case fullPass(String)
    /// An operator accepted whatever was due at this cutoff, in µs since 1970.
    case accepted(cutoff: Int64)
    /// `AttemptCounts`, as text.
    case attempts(String)
  }

  /// A run fails after this many slots in a row with all due rows locked.
  static let lockedSlotLimit = 3

  /// The number of consecutive slots in which all due rows were locked.
  var lockedSlots = 0
  var memory = Memory.nothing

  var pass: String? { if case .fullPass(let record) = memory { record } else { nil } }
  var acceptedCutoff: Int64? { if case .accepted(let cutoff) = memory { cutoff } else { nil } }
  var attempts: String? { if case .attempts(let counts) = memory { counts } else { nil } }

  init() {}

  /// Reads a record's text, including that of a version that recorded only passes.
  init(_ text: String?) {
    guard let text else { return }
    let bytes = Array(text.utf8)
    guard bytes.first == Self.mark else {
      memory = .fullPass(text)
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
      if let cutoff = Int64(rest.dropFirst()), (0...(1 << 53)).contains(cutoff) { memory = .accepted(cutoff: cutoff) }
    } else if rest.utf8.first == Self.attemptsMark {
      memory = .attempts(String(rest.dropFirst()))
    } else if !rest.isEmpty {
      memory = .fullPass(rest)
    }
  }

  /// Never empty: an empty text leaves the record unchanged.
  var text: String {
    switch memory {
    case .nothing: "l\(lockedSlots)"
    case .fullPass(let record): "l\(lockedSlots) \(record)"
    case .accepted(let cutoff): "l\(lockedSlots) a\(cutoff)"
    case .attempts(let counts): "l\(lockedSlots) r\(counts)"
    }
  }

  private static let mark = UInt8(ascii: "l")
  private static let acceptedMark = UInt8(ascii: "a")
  private static let attemptsMark = UInt8(ascii: "r")
  private static let space = UInt8(ascii: " ")
}
