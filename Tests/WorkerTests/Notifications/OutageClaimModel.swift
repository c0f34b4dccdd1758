// OutageClaim's script as a struct in virtual time: the fleets of OutageFleetTests share it, and
// OutageTests compares it with the script on a real Redis.

import Reactor

@testable import Worker

/// Redis with the claim of one server's outage. All times in ms.
struct OutageClaimModel {
  private enum Claim {
    case open(since: Int64, due: Int64)
    case ended(at: Int64)
  }

  private var claim: (value: Claim, expiry: Int64)?

  mutating func lose() { claim = nil }

  mutating func setEnded(at time: Int64) { claim = (.ended(at: time), .max) }
  mutating func setOpen(since: Int64, due: Int64) { claim = (.open(since: since, due: due), .max) }

  mutating func reply(
    to request: OutageWatch.Request, abandonedAfter: Duration, at now: Int64
  ) -> OutageWatch.Reply {
    if let expiry = claim?.expiry, expiry <= now { claim = nil }
    switch request {
    case .check(let length): return check(length.milliseconds, opens: false, abandonedAfter, now)
    case .claim(let length): return check(length.milliseconds, opens: true, abandonedAfter, now)
    case .close(let length):
      if isOver(within: length.milliseconds, now) { return .ended }
      let since = openSince
      close(now)
      return since.map { .closed(after: .milliseconds(max(0, now - $0))) } ?? .absent
    case .closeAbandoned:
      guard case .open(let since, let due) = claim?.value else { return .absent }
      if now < due, due - now <= Int64(OutageClaim.claimLifetime) { return .open }
      close(now)
      return .closed(after: .milliseconds(max(0, now - since)))
    }
  }

  private var openSince: Int64? {
    if case .open(let since, _) = claim?.value { since } else { nil }
  }

  private func isOver(within length: Int64, _ now: Int64) -> Bool {
    guard case .ended(let at) = claim?.value else { return false }
    return at <= now && now - at <= length
  }

  private mutating func check(
    _ length: Int64, opens: Bool, _ abandonedAfter: Duration, _ now: Int64
  ) -> OutageWatch.Reply {
    if openSince == nil, isOver(within: length, now) { return .ended }
    let since = openSince
    if since != nil || opens {
      let value = Claim.open(since: since ?? now - length, due: now + abandonedAfter.milliseconds)
      claim = (value, now + Int64(OutageClaim.claimLifetime))
    }
    return since == nil ? .absent : .open
  }

  private mutating func close(_ now: Int64) {
    claim = (.ended(at: now), now + Int64(OutageClaim.endLifetime))
  }
}
