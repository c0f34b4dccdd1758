// How long a sweep waits between its batches, as a pure struct; and the setting.
// Invariant: the waits make up for the work at hand, so a pace holds over each batch and not only on average.

import Reactor

/// How fast sweeps work.
enum Pace: Equatable, Sendable {
  case full
  /// For one part of the time in so many: "1/4".
  case onePart(of: Int)
  /// So many rows a second: "5000/s".
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
/// Work is the time that PostgreSQL takes, with the commit: the time until the answer, less the shortest way there and
/// back that was seen.
struct Pacing: Sendable {
  /// At a rate, batches have no more rows than belong to this part of a second.
  static let batchesASecond = 4

  let pace: Pace
  private var beganAt: MonotonicInstant?
  private var work = Duration.zero
  private var leastWay: Duration?

  init(_ pace: Pace) {
    self.pace = pace
  }

  /// The most rows of a batch; nil without a limit.
  var rowLimit: Int? {
    if case .rate(let rate) = pace { max(1, rate / Self.batchesASecond) } else { nil }
  }

  /// A batch was sent, and answered.
  ///
  /// - Parameter serverTime: what it took there, without the commit; nil if it failed.
  mutating func worked(from sentAt: MonotonicInstant, until answeredAt: MonotonicInstant, serverTime: Duration?) {
    let elapsed = sentAt.duration(to: answeredAt)
    if let serverTime {
      let way = max(.zero, elapsed - serverTime)
      leastWay = min(way, leastWay ?? way)
    }
    work += max(.zero, elapsed - (leastWay ?? .zero))
    beganAt = beganAt ?? sentAt
  }

  /// When the next batch may be sent, after those since the last call changed so many rows; nil for at once.
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
