// What the worker tells people: an event, and where events go. Invariant: `accept` returns at once, so a slow sink can
// never slow a sweep; an event carries counts, cutoffs, SQLSTATEs and names, never a row's content.

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
    /// Something keeps failing: a sweeper, or a server is away. Told once, then in reminders.
    case failure
    /// What was told as a failure has ended.
    case recovery
    /// Somebody tries out whether notifications arrive.
    case test
  }

  /// The same however often the event is sent, and no other event's.
  let id: String
  var kind: Kind
  var time: WallClockTime
  var severity: Severity
  /// The sweeper, or the server.
  var component: String
  var title: String
  var detail: String
  /// Counts in the order in which they are told.
  var metadata: [Count]

  /// How many of what.
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

  /// Of a title and of a detail, in bytes: a full queue of events stays below a megabyte, and every sink takes them.
  static let titleLimit = 256
  static let detailLimit = 2_048

  /// The text without control characters, which could begin a line of their own somewhere, cut where it is too long.
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

  /// A new event, with an id of its own.
  @EventLoop
  init(
    _ kind: Kind, time: WallClockTime, severity: Severity, component: String, title: String, detail: String = "",
    metadata: [Count] = []
  ) {
    self.init(
      id: Token.random(), kind: kind, time: time, severity: severity, component: component, title: title,
      detail: detail, metadata: metadata)
  }

  /// How many reports are in this one, as a count of its own once there are several.
  private static let mergedReports = "runs"

  /// Takes in a later report of the same: its counts are added, its time and detail hold from now on.
  ///
  /// - Returns: whether it was one of the same.
  mutating func absorb(_ later: Event) -> Bool {
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

  /// The event in a line: `[severity] title — detail`.
  var line: String {
    "[\(severity.rawValue)] \(title)" + (detail.isEmpty ? "" : " — \(detail)")
  }
}

/// Where events go.
@EventLoop
protocol EventReceiver: AnyObject {
  /// Takes an event over, in microseconds: to deliver it is the sink's own affair.
  func accept(_ event: Event)
}
