// The events that a sink still has to send, as a pure struct: it takes events and outcomes with the time, and returns
// the next action. Invariants: order is kept, only failed attempts are repeated, and the queue never exceeds its limit.
// SinkDelivery is the loop around it.

import Reactor

/// A sink's queue. At most one event is being sent, always the first:
///
///       add ─▶ queued ── first ───────▶ under way ─── delivered ────▶ gone
///                │ ▲                       │  │
///     full, or   │ └─── failed: retried ────┘  └─ rejected ─────────▶ gone (rejected)
///     an hour    │      after a delay
///     old        ▼
///              gone (dropped)
struct SinkQueue: Sendable {
  /// The most waiting events: 256 of them are a few tens of kilobytes.
  static let lengthLimit = 256
  /// How long after it was added an event is dropped.
  static let ageLimit = Duration.seconds(3_600)
  /// The longest Retry-After that is respected.
  static let retryAfterLimit = Duration.seconds(600)
  /// The delays between attempts. At most a minute, so that a sink's return is noticed soon.
  static let backoff = Backoff(initial: .seconds(1), cap: .seconds(60), jitter: 0.2)

  /// What to do now.
  enum Action: Equatable {
    /// Send it, and pass the outcome to `ended`.
    case send(Event)
    /// It was not delivered for an hour and is dropped: log and count that.
    case drop(Event)
    /// Wait until this instant or the next event.
    case wait(until: MonotonicInstant)
    /// Wait for the next event.
    case idle
  }

  /// The outcome of an attempt.
  enum Outcome: Equatable, Sendable {
    case delivered
    /// Another attempt may succeed, but not before the sink's Retry-After.
    case failed(retryAfter: Duration?)
    /// No attempt will succeed.
    case rejected
  }

  private struct Entry {
    var event: Event
    let addedAt: MonotonicInstant
    /// It may have been received, and must not change: a receiver may drop a second event with the same id.
    var wasSent = false
  }

  private var entries: [Entry] = []
  private var isUnderWay = false
  /// Failures in a row, whichever events they concerned.
  private(set) var failures = 0
  private var notBefore: MonotonicInstant?

  var count: Int { entries.count }

  /// Adds an event. A report is merged into the component's last waiting event if that is of the same kind.
  ///
  /// - Returns: the event that was dropped for it: the oldest one that is not being sent.
  mutating func add(_ event: Event, at now: MonotonicInstant) -> Event? {
    let last = entries.lastIndex { $0.event.component == event.component }
    if let last, !entries[last].wasSent, entries[last].event.merge(event) { return nil }
    var dropped: Event?
    if entries.count == Self.lengthLimit { dropped = entries.remove(at: isUnderWay ? 1 : 0).event }
    entries.append(Entry(event: event, addedAt: now))
    return dropped
  }

  mutating func next(at now: MonotonicInstant) -> Action {
    precondition(!isUnderWay, "an event is being sent")
    guard let first = entries.first else { return .idle }
    let expiresAt = first.addedAt.advanced(by: Self.ageLimit)
    if now >= expiresAt { return .drop(entries.removeFirst().event) }
    if let notBefore, now < notBefore { return .wait(until: min(notBefore, expiresAt)) }
    isUnderWay = true
    entries[0].wasSent = true
    return .send(first.event)
  }

  /// Records the outcome for the event that was being sent.
  ///
  /// - Returns: how long it was in the queue; nil if it stays.
  mutating func ended(_ outcome: Outcome, at now: MonotonicInstant, jitter: Double) -> Duration? {
    precondition(isUnderWay, "no event is being sent")
    isUnderWay = false
    switch outcome {
    case .failed(let retryAfter):
      failures += 1
      let delay = Self.backoff.delay(afterFailures: failures, jitter: jitter)
      notBefore = now.advanced(by: max(delay, min(retryAfter ?? .zero, Self.retryAfterLimit)))
      return nil
    case .delivered, .rejected:
      // A sink that rejects an event is available for the next one.
      failures = 0
      notBefore = nil
      return entries.removeFirst().addedAt.duration(to: now)
    }
  }

  /// Makes a delayed retry due at once, because the process is shutting down or the sink has changed.
  mutating func retryNow() {
    failures = 0
    notBefore = nil
  }

  /// Removes the remaining events, which are not going to be sent.
  mutating func removeAll() -> [Event] {
    defer { entries = [] }
    isUnderWay = false
    return entries.map(\.event)
  }
}
