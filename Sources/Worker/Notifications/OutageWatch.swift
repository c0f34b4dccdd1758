// When an outage of one server is reported, and by which replica, as a pure struct. Invariant: the fleet reports an
// outage that lasts long enough once and its end once, and a shorter one not at all. OutageReporter is the loop around
// it; OutageClaim is the record that replicas share.

import Reactor

/// One server, as this replica sees it:
///
///       ready ── down ──▶ down ── lasts for reportAfter: claims ──▶ reported (by this replica or by another)
///         ▲                │ ▲                                         │  │ renews the claim
///         │                │ └─── another replica recorded the end ────┘  │
///         ├───── up ───────┘                                              │
///         └───── up: closes the claim, and reports the end if it was open ┘
///
/// A ready replica checks from time to time for a claim that is no longer renewed, because the replica that held it is
/// gone, and closes it.
struct OutageWatch: Sendable {
  /// What to do now.
  enum Action: Equatable {
    case reportOutage(reason: String, lasting: Duration)
    /// - Parameter after: the length of the outage, if known.
    case reportRecovery(after: Duration?)
    /// Send this to the claim, and pass the reply to `answered`.
    case send(Request)
    case wait(until: MonotonicInstant)
    /// Wait for the server's next change.
    case idle
  }

  /// A request to the claim. `outageFor`, the length of the outage so far, distinguishes an end recorded during the
  /// outage from an earlier one.
  enum Request: Equatable, Sendable {
    /// Has the outage been reported? Renews an open claim.
    case check(outageFor: Duration)
    /// Opens a claim, or renews an open one.
    case claim(outageFor: Duration)
    case close(outageFor: Duration)
    /// Closes the claim if it is abandoned.
    case closeAbandoned
  }

  /// The claim's reply.
  enum Reply: Equatable, Sendable {
    /// There was no claim.
    case absent
    /// The claim is open and renewed.
    case open
    /// The end was recorded after the outage began.
    case ended
    /// The claim was open for an outage of this length, and this request closed it.
    case closed(after: Duration)
  }

  /// Who reported an outage.
  private enum Reporter { case nobody, another, this }

  private struct Outage {
    /// When it began, or when its end was last recorded elsewhere.
    var since: MonotonicInstant
    var reason: String
    var reporter = Reporter.nobody
    /// The time of the next request to the claim.
    var nextRequest: MonotonicInstant
  }

  /// An outage that this replica saw end, with a claim that is still to be closed.
  private struct Ending {
    let since: MonotonicInstant
    let endedAt: MonotonicInstant
    let reason: String
    var reporter: Reporter
    /// Whether its end was reported without Redis.
    var isReported = false
    var nextRequest: MonotonicInstant
  }

  /// How often a ready replica checks for an abandoned claim.
  static let checkInterval = Duration.seconds(300)
  /// How long closing a claim may wait for Redis. After that, the replica that reported the outage reports its end.
  static let closeTimeout = Duration.seconds(60)

  /// How long an outage lasts before it is reported.
  let reportAfter: Duration
  private let sharesClaim: Bool
  private var outage: Outage?
  private var ending: Ending?
  private var nextCheck: MonotonicInstant?
  /// The request without a reply.
  private var pending: Request?
  /// Reports to return before any other action.
  private var unreported: [Action] = []

  /// - Parameter sharesClaim: whether replicas share a claim. Without one, each replica reports the outage itself.
  init(reportAfter: Duration, sharesClaim: Bool = false) {
    self.reportAfter = reportAfter
    self.sharesClaim = sharesClaim
  }

  /// How often the claim is renewed: at least once before another replica would report the outage, so that it finds the
  /// claim even if Redis has lost data.
  var renewalInterval: Duration { max(.milliseconds(500), min(.seconds(30), reportAfter / 2)) }
  /// A claim that was not renewed for this long counts as abandoned.
  var abandonedAfter: Duration { renewalInterval * 3 }

  /// The server is unavailable for a reason, or (nil) available.
  mutating func changed(to reason: String?, at now: MonotonicInstant) {
    if let reason {
      if outage == nil { outage = Outage(since: now, reason: reason, nextRequest: now) }
      outage?.reason = reason
    } else if let ended = outage {
      outage = nil
      end(ended, at: now)
    } else if nextCheck == nil {
      // At startup: an earlier process may have left an open claim.
      nextCheck = now
    }
  }

  private mutating func end(_ ended: Outage, at now: MonotonicInstant) {
    nextCheck = now.advanced(by: abandonedAfter)
    guard sharesClaim else {
      if ended.reporter == .this { unreported.append(.reportRecovery(after: ended.since.duration(to: now))) }
      return
    }
    // A replica that saw the outage only briefly leaves the end to the others, and checks later whether it was
    // reported.
    let isClaiming = if case .claim = pending { true } else { false }
    let sawItForLong = ended.since.advanced(by: reportAfter) <= now
    guard isClaiming || ended.reporter == .this || (ended.reporter == .another && sawItForLong) else { return }
    // The same request closes an ending that still waits for Redis.
    ending = Ending(
      since: ending?.since ?? ended.since, endedAt: now, reason: ended.reason,
      reporter: ending?.reporter == .this ? .this : ended.reporter, nextRequest: now)
  }

  mutating func next(at now: MonotonicInstant) -> Action {
    if !unreported.isEmpty { return unreported.removeFirst() }
    if let outage, !sharesClaim { return withoutClaim(outage, at: now) }
    guard sharesClaim else { return .idle }
    if let ending, ending.nextRequest <= now { return send(.close(outageFor: ending.since.duration(to: now))) }
    var until = ending?.nextRequest ?? .never
    if let outage {
      let length = outage.since.duration(to: now)
      let due = outage.reporter == .nobody ? outage.since.advanced(by: reportAfter) : .never
      let mustRenew = outage.reporter != .nobody && outage.nextRequest <= now
      if due <= now || mustRenew { return send(.claim(outageFor: length)) }
      if outage.nextRequest <= now { return send(.check(outageFor: length)) }
      until = min(until, due, outage.nextRequest)
    } else if let nextCheck {
      if nextCheck <= now { return send(.closeAbandoned) }
      until = min(until, nextCheck)
    }
    return until == .never ? .idle : .wait(until: until)
  }

  private mutating func withoutClaim(_ outage: Outage, at now: MonotonicInstant) -> Action {
    guard outage.reporter == .nobody else { return .idle }
    let due = outage.since.advanced(by: reportAfter)
    guard now >= due else { return .wait(until: due) }
    self.outage?.reporter = .this
    return .reportOutage(reason: outage.reason, lasting: outage.since.duration(to: now))
  }

  private mutating func send(_ request: Request) -> Action {
    pending = request
    return .send(request)
  }

  // MARK: - The claim's replies

  /// The reply to the last request; nil if Redis did not answer.
  mutating func answered(_ reply: Reply?, at now: MonotonicInstant) {
    guard let request = pending.take() else { return }
    let nextRequest = now.advanced(by: renewalInterval)
    switch request {
    case .check:
      if reply == .open, outage?.reporter == .nobody { outage?.reporter = .another }
      noteRecordedEnd(reply, at: now)
      outage?.nextRequest = nextRequest
    case .claim:
      claimed(reply, at: now)
      noteRecordedEnd(reply, at: now)
      outage?.nextRequest = nextRequest
    case .close:
      closed(reply, at: now)
    case .closeAbandoned:
      if case .closed(let length) = reply { unreported.append(.reportRecovery(after: length > .zero ? length : nil)) }
      let isClosed = reply != nil && reply != .open
      nextCheck = now.advanced(by: isClosed ? Self.checkInterval : abandonedAfter)
    }
  }

  /// Another replica saw the server return. If the server is still unavailable here, that is a new outage.
  private mutating func noteRecordedEnd(_ reply: Reply?, at now: MonotonicInstant) {
    guard reply == .ended else { return }
    outage?.since = now
    outage?.reporter = .nobody
  }

  /// Handles the reply to a claim. The outage is long enough to be reported, and may have ended in the meantime.
  private mutating func claimed(_ reply: Reply?, at now: MonotonicInstant) {
    let isFirst = reply == nil || reply == .absent
    let reporter: Reporter = isFirst ? .this : .another
    if let ended = ending, ended.reporter == .nobody {
      ending?.reporter = reporter
      if isFirst {
        unreported.append(.reportOutage(reason: ended.reason, lasting: ended.since.duration(to: ended.endedAt)))
      }
    } else if let outage, outage.reporter == .nobody, reply != .ended {
      self.outage?.reporter = reporter
      if isFirst { unreported.append(.reportOutage(reason: outage.reason, lasting: outage.since.duration(to: now))) }
    }
  }

  private mutating func closed(_ reply: Reply?, at now: MonotonicInstant) {
    guard let ended = ending else { return }
    let length = ended.since.duration(to: ended.endedAt)
    switch reply {
    case .closed(let claimed):
      if !ended.isReported { unreported.append(.reportRecovery(after: max(length, claimed))) }
    case .absent:
      if !ended.isReported { unreported.append(.reportRecovery(after: length)) }
    case .ended, .open:
      break
    case nil:
      let nextRequest = now.advanced(by: renewalInterval)
      ending?.nextRequest = nextRequest
      let isLate = ended.endedAt.advanced(by: Self.closeTimeout) <= now
      if isLate, ended.reporter == .this, !ended.isReported {
        ending?.isReported = true
        unreported.append(.reportRecovery(after: length))
      }
      return
    }
    ending = nil
    nextCheck = now.advanced(by: Self.checkInterval)
  }
}
