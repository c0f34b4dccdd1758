// How long a sweep waits between batches, as a pure struct; and the setting.
// Invariant: each wait is proportional to the preceding work, so the pace holds per batch, not only on average.

import Reactor

/// How fast sweeps work.
enum Pace: Equatable, Sendable {
  case full
  /// This fraction of the time: "1/4".
  case onePart(of: Int)
  /// Rows per second: "5000/s".
  case rate(Int)

  static let parts = 2...100
  static let rates = 1...1_000_000

  init?(_ text: String) {
    if text == "full" {
      self = .full
    } else if text.hasPrefix("1/"), let parts = Int(text.dropFirst(2)), Self.parts.contains(parts) {
      self = .onePart(of: parts)
    } else if text.hasSuffix("/s"), let rate = Int(text.dropLast(2)), Self.rates.contains(rate) {
      self = .rate(rate)
    } else {
      return nil
    }
  }
}

/// The pace of one run.
///
/// Work is PostgreSQL's time including the commit: the time until the answer minus the shortest round trip measured so
/// far.
struct Pacing: Sendable {
  /// With a rate, a batch has at most this fraction of the rows of a second.
  static let batchesASecond = 4

  let pace: Pace
  private var beganAt: MonotonicInstant?
  private var work = Duration.zero
  private var leastWay: Duration?

  init(_ pace: Pace) {
    self.pace = pace
  }

  /// The row limit of a batch; nil for none.
  var rowLimit: Int? {
    if case .rate(let rate) = pace { max(1, rate / Self.batchesASecond) } else { nil }
  }

  /// Records a batch that was answered.
  ///
  /// - Parameter serverTime: its time on the server without the commit; nil if it failed.
  mutating func worked(from sentAt: MonotonicInstant, until answeredAt: MonotonicInstant, serverTime: Duration?) {
    let elapsed = sentAt.duration(to: answeredAt)
    if let serverTime {
      let way = max(.zero, elapsed - serverTime)
      leastWay = min(way, leastWay ?? way)
    }
    work += max(.zero, elapsed - (leastWay ?? .zero))
    beganAt = beganAt ?? sentAt
  }

  /// When the next batch may be sent, given the rows changed since the last call; nil for now.
  mutating func nextBatch(rows: Int) -> MonotonicInstant? {
    defer { (beganAt, work) = (nil, .zero) }
    guard let beganAt else { return nil }
    switch pace {
    case .full: return nil
    case .onePart(let parts): return beganAt.advanced(by: work * parts)
    case .rate(let rate): return beganAt.advanced(by: .milliseconds(Int64(rows) * 1_000 / Int64(rate)))
    }
  }
}

extension Setting where Value == Pace {
  static var pace: Setting {
    let kind = "full, part or rate"
    return Setting(
      name: "SB_WORKER_PACE", kind: kind, absence: .text("full"),
      help: "Speed of each sweeper: full, a share of the time such as 1/4, or rows per second such as 5000/s."
    ) { text in
      guard let pace = Pace(text) else {
        return .mustBe("full, a part of the time from 1/2 to 1/100, or a rate such as 5000/s")
      }
      return .accepted(pace)
    }
  }
}
