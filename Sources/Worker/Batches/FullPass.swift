// When the whole table is read for rows that no index finds, as a pure struct.
// Invariant: the time between two reads of a page does not exceed the promise, as long as the sweeper runs.

import Reactor

/// The passes over a table, from run to run. Times are ms on PostgreSQL's clock since 1970.
///
///                begins (page 0)                    ended
///     waiting ────────────────────▶ under way ────────────────▶ waiting
///        ▲  due at the latest            │   ▲
///        │  so long before the           └───┘ the run ended early: the next one goes on where this one stopped
///        │  promise's end that
///        │  a whole try may fail
///
/// A row that becomes due on a page just after a pass read it is found by the end of the next pass. So a pass has to
/// end within the promise after the previous one began.
struct FullPass: Equatable, Sendable {
  /// A table of up to this many pages is read in every run, in a few milliseconds.
  static let smallTablePages = 500

  /// Time for the slots' jitter, the lock and a first retry.
  static let slack = Duration.seconds(5)

  /// The state between runs, which the schedule record keeps as text.
  struct Record: Equatable, Sendable {
    /// The number of the table's file. A rewrite makes a new file with other pages.
    var file = 0
    /// When the last completed pass began, and how long it read; 0 if unknown.
    var endedPassBegan: Int64 = 0
    var endedPassTook: Int64 = 0
    /// When the current pass began, how long it has read, and its next page; 0 if there is none.
    var began: Int64 = 0
    var took: Int64 = 0
    var nextPage = 0
  }

  let promise: Duration
  let interval: Duration
  private(set) var record: Record
  /// Whether passes are recorded; not for a small table, which every run reads.
  private(set) var isRecorded = false

  init(promise: Duration, interval: Duration, record: String?) {
    self.promise = promise
    self.interval = interval
    self.record = record.flatMap { Record($0) } ?? Record()
  }

  /// The page at which this run's pass begins or continues; nil if none is due.
  ///
  /// - Parameter mustBegin: makes a pass even if none is due.
  mutating func start(_ table: TableSize, at now: Int64, mustBegin: Bool = false) -> Int? {
    isRecorded = table.pages > Self.smallTablePages
    guard isRecorded else { return 0 }
    // A new file has different pages.
    if record.file != table.file { record = Record() }
    record.file = table.file
    // The clock stepped back, so it is unknown when the last pass began.
    if record.endedPassBegan > now { record.endedPassBegan = 0 }
    record.began = min(record.began, now)
    if record.began > 0 {
      // At any age: if it started over each time, a pass that is always cut short would never reach the end.
      return record.nextPage
    } else if !mustBegin, record.endedPassBegan > 0, now < dueAt {
      return nil
    }
    begin(at: now)
    return 0
  }

  /// A pass begins at the first page.
  mutating func begin(at now: Int64) {
    record.began = now
    record.took = 0
    record.nextPage = 0
  }

  /// All pages before `page` were read, in `duration` since the last call.
  mutating func reached(_ page: Int, after duration: Duration) {
    record.nextPage = page
    record.took += duration.milliseconds
  }

  /// The pass reached the end of the table, now in `file`.
  mutating func ended(file: Int) {
    guard file == record.file else {
      record = Record()
      return
    }
    record.endedPassBegan = record.began
    record.endedPassTook = record.took
    record.began = 0
    record.took = 0
    record.nextPage = 0
  }

  /// When the next pass is due: two intervals and the duration of two passes before the end of the promise.
  private var dueAt: Int64 {
    record.endedPassBegan + promise.milliseconds - 2 * interval.milliseconds - 2 * record.endedPassTook
      - Self.slack.milliseconds
  }
}

/// A table's size.
struct TableSize: Equatable, Sendable {
  var pages: Int
  /// The number of its file.
  var file: Int
}

extension FullPass.Record {
  private static let version = 1

  /// The record's text; nil if it is invalid.
  init?(_ text: String) {
    var numbers: [Int64] = [0]
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: " "):
        guard numbers.count < 7 else { return nil }
        numbers.append(0)
      case UInt8(ascii: "0")...UInt8(ascii: "9"):
        let last = numbers.count - 1
        // No number in a record has more than 16 digits.
        guard numbers[last] < 1_000_000_000_000_000 else { return nil }
        numbers[last] = numbers[last] * 10 + Int64(byte - UInt8(ascii: "0"))
      default:
        return nil
      }
    }
    guard numbers.count == 7, numbers[0] == Self.version else { return nil }
    file = Int(numbers[1])
    endedPassBegan = numbers[2]
    endedPassTook = numbers[3]
    began = numbers[4]
    took = numbers[5]
    nextPage = Int(numbers[6])
  }

  var text: String {
    "\(Self.version) \(file) \(endedPassBegan) \(endedPassTook) \(began) \(took) \(nextPage)"
  }
}
