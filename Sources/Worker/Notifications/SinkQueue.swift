// The events that a sink still has to send, as a pure struct: it takes events and outcomes with the time, and returns
// the next action. Invariants: order is kept, only failed attempts are repeated, and the queue never exceeds its limit.
// SinkDelivery is the loop around it.

import Reactor

/// A sink's queue. At most one event is being sent, always the first:
///
///       add ─▶ queued ─── its turn ───▶ under way ─── delivered ────▶ gone
///                │ ▲                       │  │
///     full, or   │ └─── failed, may be ────┘  └─ refused for good ──▶ gone (rejected)
///     an hour    │      tried again: waits
///     old        ▼
///              gone (dropped)
struct SinkQueue: Sendable {
  /// The most waiting events: 256 of them are a few tens of kilobytes.
  static let lengthLimit = 256
  /// How long after its arrival an event is given up.
  static let ageLimit = Duration.seconds(3_600)
  /// The longest Retry-After that is respected.
  static let retryAfterLimit = Duration.seconds(600)
  /// The delays between attempts. At most a minute, so that a sink's return is noticed soon.
  static let backoff = Backoff(initial: .seconds(1), cap: .seconds(60), jitter: 0.2)

  /// What to do now.
  enum Action: Equatable {
    /// Send it, and report the outcome to `ended`.
    case send(Event)
    /// It was given up after an hour: report that.
    case giveUp(Event)
    /// Nothing until this instant, or until an event comes.
    case wait(until: MonotonicInstant)
    /// Nothing until an event comes.
    case rest
  }

  /// The outcome of an attempt.
  enum Outcome: Equatable, Sendable {
    case delivered
    /// It may work later, but not before what the sink asked for.
    case failed(retryAfter: Duration?)
    /// It will never work.
    case rejected
  }

  private struct Entry {
    var event: Event
    let cameAt: MonotonicInstant
    /// It may have arrived. It is not changed from then on, so a receiver that knows its id may drop it.
    var wasSent = false
  }

  private var entries: [Entry] = []
  private var isUnderWay = false
  /// Failures in a row, of any event: they are the sink's.
  private(set) var failures = 0
  private var notBefore: MonotonicInstant?

  var count: Int { entries.count }

  /// Adds an event. A report is merged into the component's last waiting event if that is of the same kind.
  ///
  /// - Returns: the event that was dropped for it: the oldest one that is not being sent.
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

  /// Records the outcome for the event that was being sent.
  ///
  /// - Returns: the time from its arrival until it left the queue; nil if it stays.
  mutating func ended(_ outcome: Outcome, at now: MonotonicInstant, jitter: Double) -> Duration? {
    precondition(isUnderWay, "nothing is under way")
    isUnderWay = false
    switch outcome {
    case .failed(let retryAfter):
      failures += 1
      let delay = Self.backoff.delay(afterFailures: failures, jitter: jitter)
      notBefore = now.advanced(by: max(delay, min(retryAfter ?? .zero, Self.retryAfterLimit)))
      return nil
    case .delivered, .rejected:
      // A sink that refuses an event is available for the next.
      failures = 0
      notBefore = nil
      return entries.removeFirst().cameAt.duration(to: now)
    }
  }

  /// The process is shutting down: a delayed retry happens now, once.
  mutating func hurry() {
    failures = 0
    notBefore = nil
  }

  /// Gives up all remaining events.
  mutating func abandon() -> [Event] {
    defer { entries = [] }
    isUnderWay = false
    return entries.map(\.event)
  }
}
