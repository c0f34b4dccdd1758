// How often a sweep has changed the same rows, as a pure struct that the schedule record keeps between runs.
// Invariants: its size is bounded, and it keeps the rows with the highest counts; a row that cannot become due again is
// removed. Used by RowSweepRun.

import Reactor

/// Counts by row, for a sweep with an `AttemptLimit`.
struct AttemptCounts: Equatable, Sendable {
  /// The most rows that are counted: about 9 kB of text.
  static let rowLimit = 256

  /// How often a row may be changed.
  let limit: Int
  /// By the row's UUID, as 32 hexadecimal digits.
  private(set) var counts: [String: Int] = [:]
  /// How many of the rows that this run changed had reached the limit.
  private(set) var exhaustedCount = 0
  /// Whether the text has changed since the beginning.
  private(set) var isChanged = false

  /// - Parameter text: from an earlier run; nil if there is none.
  init(limit: Int, _ text: String?) {
    self.limit = limit
    for word in (text ?? "").utf8.split(separator: UInt8(ascii: ",")) { read(Array(word)) }
    shrink()
  }

  /// Reads "<row>=<count>" and ignores anything else.
  private mutating func read(_ bytes: [UInt8]) {
    guard bytes.count > Self.digits + 1, bytes[Self.digits] == UInt8(ascii: "="),
      let row = Self.row(bytes[..<Self.digits]),
      let count = Int(String(decoding: bytes[(Self.digits + 1)...], as: UTF8.self)), (1...1_000_000).contains(count)
    else { return }
    counts[row] = count
  }

  private static let digits = 32

  /// A UUID's digits without hyphens; nil for anything else.
  private static func row(_ text: some Sequence<UInt8>) -> String? {
    let bytes = text.filter { $0 != UInt8(ascii: "-") }
    let isHexadecimal = bytes.allSatisfy {
      (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains($0)
    }
    return bytes.count == digits && isHexadecimal ? String(decoding: bytes, as: UTF8.self) : nil
  }

  /// For the next run.
  var text: String {
    var text = ""
    for (row, count) in counts.sorted(by: { $0.key < $1.key }) {
      text += (text.isEmpty ? "" : ",") + "\(row)=\(count)"
    }
    return text
  }

  /// The counted rows, and those of them that have reached the limit, as PostgreSQL arrays.
  var rows: String { PostgresArray.words(counts.keys) }
  var exhaustedRows: String { PostgresArray.words(counts.filter { $0.value >= limit }.keys) }

  /// A committed batch changed these rows: UUIDs, each followed by a comma.
  mutating func changed(_ list: String) {
    guard !list.isEmpty else { return }
    isChanged = true
    for word in list.utf8.split(separator: UInt8(ascii: ",")) {
      guard let row = Self.row(word) else { continue }
      let count = counts[row] ?? 0
      if count >= limit {
        exhaustedCount += 1
        counts[row] = nil
      } else {
        counts[row] = count + 1
      }
    }
    shrink()
  }

  /// Only these of the counted rows can become due again.
  mutating func keep(_ rows: [String]) {
    let kept = Set(rows.compactMap { Self.row($0.utf8) })
    let before = counts.count
    counts = counts.filter { kept.contains($0.key) }
    if counts.count < before { isChanged = true }
  }

  private mutating func shrink() {
    guard counts.count > Self.rowLimit else { return }
    let most = counts.sorted { $0.value == $1.value ? $0.key < $1.key : $0.value > $1.value }.prefix(Self.rowLimit)
    counts = Dictionary(uniqueKeysWithValues: most.map { ($0.key, $0.value) })
  }
}
