// Events that are sent to people, and their receivers. Invariant: `accept` returns at once, so a slow sink never slows
// a sweep; an event contains counts, cutoffs, SQLSTATEs and names, never row data.

import Reactor

/// Something that operators want to know.
struct Event: Equatable, Sendable {
  enum Severity: String, Comparable, CaseIterable, Sendable {
    case info, warn, error

    static func < (left: Severity, right: Severity) -> Bool {
      left.rank < right.rank
    }

    private var rank: Int {
      switch self {
      case .info: 0
      case .warn: 1
      case .error: 2
      }
    }
  }

  enum Kind: Sendable {
    /// A sweep changed rows.
    case report
    /// A sweeper keeps failing, or a server is unavailable. Sent once, then as reminders.
    case failure
    /// A failure that was sent has ended.
    case recovery
    /// A test of whether notifications arrive.
    case test
  }

  /// Unique per event; every attempt to send it has the same id.
  let id: String
  var kind: Kind
  var time: WallClockTime
  var severity: Severity
  /// The sweeper or server.
  var component: String
  var title: String
  var detail: String
  /// Counts in the order in which they are shown.
  var metadata: [Count]
  /// The severity of the failure that a recovery ends.
  var endedSeverity = Severity.error

  /// A named count.
  struct Count: Equatable, Sendable {
    var name: String
    var count: Int

    init(_ name: String, _ count: Int) {
      self.name = name
      self.count = count
    }
  }

  init(
    id: String, kind: Kind = .report, time: WallClockTime, severity: Severity, component: String, title: String,
    detail: String = "", metadata: [Count] = []
  ) {
    self.id = id
    self.kind = kind
    self.time = time
    self.severity = severity
    self.component = component
    self.title = Self.oneLine(title, limit: Self.titleLimit)
    self.detail = Self.oneLine(detail, limit: Self.detailLimit)
    self.metadata = metadata
  }

  /// The limits of a title and a detail, in bytes. A full queue stays below a megabyte, and every sink accepts them.
  static let titleLimit = 256
  static let detailLimit = 2_048

  /// The text as one line: control characters become blanks, and text beyond the limit is cut.
  static func oneLine(_ text: String, limit: Int) -> String {
    let isPlain = text.utf8.count <= limit && text.utf8.allSatisfy { (0x20...0x7E).contains($0) }
    if isPlain { return text }
    var line = String.UnicodeScalarView()
    var length = 0
    for scalar in text.unicodeScalars {
      let isBreak =
        scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || (0x2028...0x2029).contains(scalar.value)
      length += isBreak ? 1 : UTF8.width(scalar)
      guard length <= limit - 3 else { return String(line) + "…" }
      line.append(isBreak ? " " : scalar)
    }
    return String(line)
  }

  /// The name of the count of merged reports, present if there are several.
  private static let mergedReports = "runs"

  /// Merges a later report of the same kind: adds its counts and takes its time and detail.
  ///
  /// - Returns: whether it was of the same kind.
  mutating func merge(_ later: Event) -> Bool {
    guard kind == .report, later.kind == .report, component == later.component, title == later.title else {
      return false
    }
    var runs = Count(Self.mergedReports, 1)
    if metadata.last?.name == runs.name { runs = metadata.removeLast() }
    for count in later.metadata {
      if let index = metadata.firstIndex(where: { $0.name == count.name }) {
        metadata[index].count += count.count
      } else {
        metadata.append(count)
      }
    }
    runs.count += 1
    metadata.append(runs)
    severity = max(severity, later.severity)
    time = later.time
    detail = later.detail
    return true
  }

  /// The event as a line: `[severity] title — detail`.
  var line: String {
    "[\(severity.rawValue)] \(title)" + (detail.isEmpty ? "" : " — \(detail)")
  }
}

/// A receiver of events.
@EventLoop
protocol EventReceiver: AnyObject {
  /// Accepts an event within microseconds. Delivering it is up to the sink.
  func accept(_ event: Event)
}
