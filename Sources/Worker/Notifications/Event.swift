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

  var time: WallClockTime
  var severity: Severity
  /// The sweeper.
  var component: String
  var title: String
  var detail = ""
  /// Counts by name, in the order in which they are told.
  var metadata: [(name: String, count: Int)] = []

  static func == (left: Event, right: Event) -> Bool {
    left.time == right.time && left.severity == right.severity && left.component == right.component
      && left.title == right.title && left.detail == right.detail
      && left.metadata.elementsEqual(right.metadata) { $0 == $1 }
  }
}

/// Where events go.
@EventLoop
protocol NotificationSink: AnyObject {
  /// Takes an event over, in microseconds: to deliver it is the sink's own affair.
  func accept(_ event: Event)
}
