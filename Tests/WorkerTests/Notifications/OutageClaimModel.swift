// What OutageClaim's script does, as a struct in virtual time: the fleets of OutageFleetTests share it, and
// OutageLedgerTests compare it with the script on a real Redis.

import Reactor

@testable import Worker

/// Redis, as far as an outage's note goes. All times in ms.
struct OutageClaimModel {
  private enum Note {
    case kept(since: Int64, due: Int64)
    case ended(at: Int64)
  }

  private var note: (value: Note, expiry: Int64)?

  mutating func lose() { note = nil }

  mutating func setEnded(at time: Int64) { note = (.ended(at: time), .max) }
  mutating func setKept(since: Int64, due: Int64) { note = (.kept(since: since, due: due), .max) }

  mutating func reply(
    to question: OutageWatch.Question, abandonedAfter: Duration, at now: Int64
  ) -> OutageWatch.Reply {
    if let expiry = note?.expiry, expiry <= now { note = nil }
    switch question {
    case .see(let away): return see(away.milliseconds, keeps: false, abandonedAfter, now)
    case .keep(let away): return see(away.milliseconds, keeps: true, abandonedAfter, now)
    case .close(let away):
      if isOver(within: away.milliseconds, now) { return .ended }
      let since = keptSince
      close(now)
      return since.map { .closed(after: .milliseconds(max(0, now - $0))) } ?? .absent
    case .closeAbandoned:
      guard case .kept(let since, let due) = note?.value else { return .absent }
      if now < due, due - now <= Int64(OutageClaim.noteLifetime) { return .kept }
      close(now)
      return .closed(after: .milliseconds(max(0, now - since)))
    }
  }

  private var keptSince: Int64? {
    if case .kept(let since, _) = note?.value { since } else { nil }
  }

  private func isOver(within away: Int64, _ now: Int64) -> Bool {
    guard case .ended(let at) = note?.value else { return false }
    return at <= now && now - at <= away
  }

  private mutating func see(
    _ away: Int64, keeps: Bool, _ abandonedAfter: Duration, _ now: Int64
  ) -> OutageWatch.Reply {
    if keptSince == nil, isOver(within: away, now) { return .ended }
    let since = keptSince
    if since != nil || keeps {
      let value = Note.kept(since: since ?? now - away, due: now + abandonedAfter.milliseconds)
      note = (value, now + Int64(OutageClaim.noteLifetime))
    }
    return since == nil ? .absent : .kept
  }

  private mutating func close(_ now: Int64) {
    note = (.ended(at: now), now + Int64(OutageClaim.endLifetime))
  }
}
