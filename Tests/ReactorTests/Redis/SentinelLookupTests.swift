// The search for a master through Sentinels, in seeded orders of events: it ends, and tries what it is told.

import Testing

@testable import Reactor

@Suite struct SentinelLookupTests {
  private static let servers = (1...3).map { RedisEndpoint(host: "10.0.0.\($0)", port: 6379) }

  @Test func asksOneSentinelAfterTheOtherUntilOneNamesAServer() {
    var lookup = SentinelLookup(count: 3, beginningAt: 2)
    #expect(lookup.begin() == .ask(2) && lookup.unaskedCount == 3)
    #expect(lookup.unanswered(.timedOut) == .ask(0) && lookup.unaskedCount == 2)
    #expect(lookup.named(Self.servers[0]) == .connect(Self.servers[0]))
    #expect(lookup.answeringIndex == 0)
  }

  @Test func aServerThatFailedIsNotTriedAgainAndItsFailureIsReported() {
    var lookup = SentinelLookup(count: 3, beginningAt: 0)
    #expect(lookup.named(Self.servers[0]) == .connect(Self.servers[0]))
    #expect(lookup.failed(.refused) == .ask(1))
    #expect(lookup.named(Self.servers[0]) == .ask(2))
    #expect(lookup.unanswered(.timedOut) == .fail(.refused))
  }

  @Test func whileAServerIsSilentTheSentinelsAreAskedAgain() {
    var lookup = SentinelLookup(count: 2, beginningAt: 0)
    #expect(lookup.unanswered(.refused) == .ask(1))
    #expect(lookup.named(Self.servers[0]) == .connect(Self.servers[0]))
    #expect(lookup.overdue() == .ask(1))
    #expect(lookup.named(Self.servers[0]) == .wait)
    #expect(lookup.overdue() == .ask(1))
    #expect(lookup.unanswered(.timedOut) == .ask(0))
    #expect(lookup.unanswered(.refused) == .wait)
    #expect(lookup.overdue() == .ask(1))
    #expect(lookup.named(Self.servers[1]) == .connect(Self.servers[1]))
  }

  @Test func withoutAnAnswerTheMostTellingFailureIsReported() {
    var lookup = SentinelLookup(count: 3, beginningAt: 0)
    _ = lookup.unanswered(.refused)
    _ = lookup.unanswered(.other("it knows no master of that name"))
    let end = lookup.unanswered(.timedOut)
    #expect(end == .fail(.other("no Sentinel names the master: it knows no master of that name")))
  }

  @Test(arguments: 1...200 as ClosedRange<UInt64>)
  func anyOrderOfEventsEndsAndTriesEachServerOnce(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let count = Int.random(in: 1...4, using: &random)
    var lookup = SentinelLookup(count: count, beginningAt: Int.random(in: 0..<count, using: &random))
    var action = lookup.begin()
    var (waiting, failed): (RedisEndpoint?, [RedisEndpoint]) = (nil, [])
    var overdueCount = 0
    // A round has at most `count` questions; there is one for each server's end and each overdue answer, and the first.
    for _ in 0..<(count * (Self.servers.count + 3 + 1) * 2) {
      switch action {
      case .ask(let index):
        #expect(index < count)
        let server = Self.servers.randomElement(using: &random)!
        action = Bool.random(using: &random) ? lookup.unanswered(.refused) : lookup.named(server)
      case .connect(let server):
        #expect(!failed.contains(server) && server != waiting)
        waiting = server
        action = .wait
      case .wait:
        #expect(waiting != nil)
        overdueCount += 1
        if overdueCount <= 3, Bool.random(using: &random) {
          action = lookup.overdue()
        } else {
          failed.append(waiting!)
          waiting = nil
          action = lookup.failed(.timedOut)
        }
      case .fail(let reason):
        #expect(waiting == nil)
        #expect((reason == .timedOut) == !failed.isEmpty, "a server's failure, if one was tried")
        return
      }
    }
    Issue.record("seed \(seed): the attempt does not end")
  }
}
