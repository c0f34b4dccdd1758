// When an outage of one server is reported, and by which replica, as a pure struct. Invariant: an outage that lasts
// long enough is reported once in the fleet, its end once, and a shorter one not at all. OutageNotice is the loop
// around it, OutageClaim the note that replicas share.

import Reactor

/// One server, as this replica sees it:
///
///       ready ── away ──▶ away ── patience passed: claims the note ──▶ known (told by this replica or by another)
///         ▲                │ ▲                                           │  │ renews the note
///         │                │ └─── somebody else ended the note ──────────┘  │
///         ├──── back ──────┘                                                │
///         └──── back: closes the note, and tells the end if it was open ────┘
///
/// A ready replica occasionally looks for a note that nobody renews any more, and closes it: the replica that kept it
/// is gone.
struct OutageWatch: Sendable {
  /// What to do now.
  enum Step: Equatable {
    case tellAway(reason: String, lasting: Duration)
    /// - Parameter after: the length of the outage, if known.
    case tellBack(after: Duration?)
    /// Ask the ledger, and pass its reply to `answered`.
    case ask(Question)
    case wait(until: MonotonicInstant)
    /// Nothing until something changes.
    case rest
  }

  /// A question to the ledger. `awayFor` distinguishes an end recorded during the outage from an earlier one.
  enum Question: Equatable, Sendable {
    /// Has the outage been reported? An existing note is renewed.
    case see(awayFor: Duration)
    /// Records the outage, or renews an existing note.
    case keep(awayFor: Duration)
    case close(awayFor: Duration)
    /// Closes an abandoned note.
    case closeAbandoned
  }

  /// The ledger's reply.
  enum Reply: Equatable, Sendable {
    /// There was no note.
    case absent
    /// Somebody keeps a note.
    case kept
    /// The end was recorded after the outage began.
    case ended
    /// There was a note for an outage of this length, and this call closed it.
    case closed(after: Duration)
  }

  /// Who reported an outage.
  private enum Teller { case nobody, another, this }

  private struct Outage {
    /// When it began, or when its end was last recorded elsewhere.
    var since: MonotonicInstant
    var reason: String
    var teller = Teller.nobody
    /// The time of the next question to the ledger.
    var nextQuestion: MonotonicInstant
  }

  /// An outage that has ended here, and whose note is to be closed.
  private struct Ending {
    let since: MonotonicInstant
    let endedAt: MonotonicInstant
    let reason: String
    var teller: Teller
    /// Its end was reported without Redis.
    var isTold = false
    var nextQuestion: MonotonicInstant
  }

  /// How often a ready replica looks for an abandoned note.
  static let lookInterval = Duration.seconds(300)
  /// How long the end waits for Redis. After that, the replica that reported the outage reports its end without Redis.
  static let endPatience = Duration.seconds(60)

  let patience: Duration
  private let sharesNotes: Bool
  private var outage: Outage?
  private var ending: Ending?
  private var nextLook: MonotonicInstant?
  private var asked: Question?
  /// Steps to report first.
  private var untold: [Step] = []

  /// - Parameter sharesNotes: whether there is a ledger. Without one each replica reports for itself.
  init(patience: Duration, sharesNotes: Bool = false) {
    self.patience = patience
    self.sharesNotes = sharesNotes
  }

  /// How often the note is renewed: at least once before another replica's patience ends, so that it finds the note
  /// even if Redis lost it.
  var renewalInterval: Duration { max(.milliseconds(500), min(.seconds(30), patience / 2)) }
  /// A note that was not renewed for this long counts as abandoned.
  var abandonedAfter: Duration { renewalInterval * 3 }

  /// The server is unavailable for a reason, or (nil) available.
  mutating func changed(to reason: String?, at now: MonotonicInstant) {
    if let reason {
      if outage == nil { outage = Outage(since: now, reason: reason, nextQuestion: now) }
      outage?.reason = reason
    } else if let ended = outage {
      outage = nil
      end(ended, at: now)
    } else if nextLook == nil {
      // At first: an earlier process may have left a note.
      nextLook = now
    }
  }

  private mutating func end(_ ended: Outage, at now: MonotonicInstant) {
    nextLook = now.advanced(by: abandonedAfter)
    guard sharesNotes else {
      if ended.teller == .this { untold.append(.tellBack(after: ended.since.duration(to: now))) }
      return
    }
    // A replica that saw the outage only briefly leaves the end to the others, and checks later whether it was
    // reported.
    let isClaiming = if case .keep = asked { true } else { false }
    let sawItForLong = ended.since.advanced(by: patience) <= now
    guard isClaiming || ended.teller == .this || (ended.teller == .another && sawItForLong) else { return }
    // An ending that still waits for Redis is closed by the same call.
    ending = Ending(
      since: ending?.since ?? ended.since, endedAt: now, reason: ended.reason,
      teller: ending?.teller == .this ? .this : ended.teller, nextQuestion: now)
  }

  mutating func next(at now: MonotonicInstant) -> Step {
    if !untold.isEmpty { return untold.removeFirst() }
    if let outage, !sharesNotes { return withoutNotes(outage, at: now) }
    guard sharesNotes else { return .rest }
    if let ending, ending.nextQuestion <= now { return ask(.close(awayFor: ending.since.duration(to: now))) }
    var until = ending?.nextQuestion ?? .never
    if let outage {
      let awayFor = outage.since.duration(to: now)
      let due = outage.teller == .nobody ? outage.since.advanced(by: patience) : .never
      if due <= now || (outage.teller != .nobody && outage.nextQuestion <= now) { return ask(.keep(awayFor: awayFor)) }
      if outage.nextQuestion <= now { return ask(.see(awayFor: awayFor)) }
      until = min(until, due, outage.nextQuestion)
    } else if let nextLook {
      if nextLook <= now { return ask(.closeAbandoned) }
      until = min(until, nextLook)
    }
    return until == .never ? .rest : .wait(until: until)
  }

  private mutating func withoutNotes(_ outage: Outage, at now: MonotonicInstant) -> Step {
    guard outage.teller == .nobody else { return .rest }
    let due = outage.since.advanced(by: patience)
    guard now >= due else { return .wait(until: due) }
    self.outage?.teller = .this
    return .tellAway(reason: outage.reason, lasting: outage.since.duration(to: now))
  }

  private mutating func ask(_ question: Question) -> Step {
    asked = question
    return .ask(question)
  }

  // MARK: - What the ledger says

  /// The reply to the last question; nil if Redis did not answer.
  mutating func answered(_ reply: Reply?, at now: MonotonicInstant) {
    guard let question = asked.take() else { return }
    let nextQuestion = now.advanced(by: renewalInterval)
    switch question {
    case .see:
      if reply == .kept, outage?.teller == .nobody { outage?.teller = .another }
      noteEnd(reply, at: now)
      outage?.nextQuestion = nextQuestion
    case .keep:
      claimed(reply, at: now)
      noteEnd(reply, at: now)
      outage?.nextQuestion = nextQuestion
    case .close:
      closed(reply, at: now)
    case .closeAbandoned:
      if case .closed(let length) = reply { untold.append(.tellBack(after: length > .zero ? length : nil)) }
      let isSettled = reply != nil && reply != .kept
      nextLook = now.advanced(by: isSettled ? Self.lookInterval : abandonedAfter)
    }
  }

  /// Another replica saw the server return. If it is still unavailable here, that is another outage.
  private mutating func noteEnd(_ reply: Reply?, at now: MonotonicInstant) {
    guard reply == .ended else { return }
    outage?.since = now
    outage?.teller = .nobody
  }

  /// Handles the reply to recording the outage, which was long enough to be reported and may have ended meanwhile.
  private mutating func claimed(_ reply: Reply?, at now: MonotonicInstant) {
    let isFirst = reply == nil || reply == .absent
    let teller: Teller = isFirst ? .this : .another
    if let ended = ending, ended.teller == .nobody {
      ending?.teller = teller
      if isFirst {
        untold.append(.tellAway(reason: ended.reason, lasting: ended.since.duration(to: ended.endedAt)))
      }
    } else if let outage, outage.teller == .nobody, reply != .ended {
      self.outage?.teller = teller
      if isFirst { untold.append(.tellAway(reason: outage.reason, lasting: outage.since.duration(to: now))) }
    }
  }

  private mutating func closed(_ reply: Reply?, at now: MonotonicInstant) {
    guard let ended = ending else { return }
    let length = ended.since.duration(to: ended.endedAt)
    switch reply {
    case .closed(let noted):
      if !ended.isTold { untold.append(.tellBack(after: max(length, noted))) }
    case .absent:
      if !ended.isTold { untold.append(.tellBack(after: length)) }
    case .ended, .kept:
      break
    case nil:
      let nextQuestion = now.advanced(by: renewalInterval)
      ending?.nextQuestion = nextQuestion
      let isLate = ended.endedAt.advanced(by: Self.endPatience) <= now
      if isLate, ended.teller == .this, !ended.isTold {
        ending?.isTold = true
        untold.append(.tellBack(after: length))
      }
      return
    }
    ending = nil
    nextLook = now.advanced(by: Self.lookInterval)
  }
}
