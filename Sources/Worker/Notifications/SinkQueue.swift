// What one sink still has to send, as a pure struct: it takes events and outcomes with the time, and says what to do
// next. Invariants: order is kept, nothing is sent twice but what failed, and the queue never exceeds its bound.
// The loop around it is SinkDelivery.

import Reactor

/// A sink's queue. One event is under way at a time, always the first:
///
///       add ─▶ queued ─── its turn ───▶ under way ─── delivered ────▶ gone
///                │ ▲                       │  │
///     full, or   │ └─── failed, may be ────┘  └─ refused for good ──▶ gone (rejected)
///     an hour    │      tried again: waits
///     old        ▼
///              gone (dropped)
struct SinkQueue: Sendable {
  /// Events that wait at most: 256 of them are a few tens of kilobytes.
  static let lengthLimit = 256
  /// How long after it came an event is given up.
  static let ageLimit = Duration.seconds(3_600)
  /// How long a sink can ask to be left alone.
  static let retryAfterLimit = Duration.seconds(600)
  /// Between tries of a sink that fails: a minute at most, so that its return is soon noticed.
  static let backoff = Backoff(initial: .seconds(1), cap: .seconds(60), jitter: 0.2)

  /// What to do now.
  enum Action: Equatable {
    /// Send it, and tell the outcome by `ended`.
    case send(Event)
    /// It was given up after an hour: say so.
    case giveUp(Event)
    /// Nothing until this instant, or until an event comes.
    case wait(until: MonotonicInstant)
    /// Nothing until an event comes.
    case rest
  }

  /// What came of sending.
  enum Outcome: Equatable, Sendable {
    case delivered
    /// It may work another time, not before what the sink asked for.
    case failed(retryAfter: Duration?)
    /// It will never work.
    case rejected
  }

  private struct Entry {
    var event: Event
    let cameAt: MonotonicInstant
    /// It may have arrived: from now on it stays what it is, so that a receiver that knows its id may drop it.
    var wasSent = false
  }

  private var entries: [Entry] = []
  private var isUnderWay = false
  /// Failures in a row, whichever event's: they are the sink's.
  private(set) var failures = 0
  private var notBefore: MonotonicInstant?

  var count: Int { entries.count }

  /// Takes an event over; a report is merged into the component's last waiting event where that is one of the same.
  ///
  /// - Returns: the event that had to go for it, the oldest that is not under way.
  mutating func add(_ event: Event, at now: MonotonicInstant) -> Event? {
    let last = entries.lastIndex { $0.event.component == event.component }
    if let last, !entries[last].wasSent, entries[last].event.absorb(event) { return nil }
    var dropped: Event?
    if entries.count == Self.lengthLimit { dropped = entries.remove(at: isUnderWay ? 1 : 0).event }
    entries.append(Entry(event: event, cameAt: now))
    return dropped
  }

  mutating func next(at now: MonotonicInstant) -> Action {
    precondition(!isUnderWay, "one at a time")
    guard let first = entries.first else { return .rest }
    let givenUpAt = first.cameAt.advanced(by: Self.ageLimit)
    if now >= givenUpAt { return .giveUp(entries.removeFirst().event) }
    if let notBefore, now < notBefore { return .wait(until: min(notBefore, givenUpAt)) }
    isUnderWay = true
    entries[0].wasSent = true
    return .send(first.event)
  }

  /// The event under way came to this.
  ///
  /// - Returns: how long after it came it was gone; nil where it stays.
  mutating func ended(_ outcome: Outcome, at now: MonotonicInstant, chance: Double) -> Duration? {
    precondition(isUnderWay, "nothing is under way")
    isUnderWay = false
    switch outcome {
    case .failed(let retryAfter):
      failures += 1
      let delay = Self.backoff.delay(afterFailures: failures, chance: chance)
      notBefore = now.advanced(by: max(delay, min(retryAfter ?? .zero, Self.retryAfterLimit)))
      return nil
    case .delivered, .rejected:
      // A sink that refuses one event is there for the next.
      failures = 0
      notBefore = nil
      return entries.removeFirst().cameAt.duration(to: now)
    }
  }

  /// The process ends: what waits for another try gets it now, once more before the rest of the grace.
  mutating func hurry() {
    failures = 0
    notBefore = nil
  }

  /// Gives up all that is left.
  mutating func abandon() -> [Event] {
    defer { entries = [] }
    isUnderWay = false
    return entries.map(\.event)
  }
}
