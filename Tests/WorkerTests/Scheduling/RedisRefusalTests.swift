// When a refusal of a single sweeper's commands by Redis is reported.

import Reactor
import Testing

@testable import Worker

@Suite struct RedisRefusalTests {
  private static let wrongType = RedisError.server(code: "WRONGTYPE", message: "Operation against a key")

  @Test func onlyAnAnswerCanBeARefusal() {
    #expect(RedisRefusal(RedisError.notSent("connection refused")) == nil)
    #expect(RedisRefusal(RedisError.unknownOutcome("timed out")) == nil)
    #expect(RedisRefusal(Coordinator.UnexpectedAnswer())?.isOfAnotherType == false)
    #expect(RedisRefusal(Self.wrongType)?.reason == "a key holds another type of value (WRONGTYPE)")
    #expect(RedisRefusal(Self.wrongType)?.isOfAnotherType == true)
  }

  @Test func aRefusalThatFailsASlotIsReportedOnceAndSoIsItsEnd() {
    var watch = RefusalWatch()
    watch.key = "record"
    let refusal = RedisRefusal(Self.wrongType)
    watch.noAnswer(refusal, isAgain: false, hasFailed: true, isOutage: false)
    expectChange(&watch, nil, "whether Redis as a whole refuses is not known yet")
    watch.noAnswer(refusal, isAgain: true, hasFailed: false, isOutage: false)
    expectChange(&watch, .refused(reason: "a key holds another type of value (WRONGTYPE)", key: "record"))
    watch.noAnswer(refusal, isAgain: true, hasFailed: true, isOutage: false)
    expectChange(&watch, nil)
    watch.answered()
    expectChange(&watch, .answered)
    watch.answered()
    expectChange(&watch, nil)
  }

  @Test func anOutageAndARefusalThatFailsNoSlotAreNotReported() {
    var watch = RefusalWatch()
    let refusal = RedisRefusal(Self.wrongType)
    watch.noAnswer(refusal, isAgain: true, hasFailed: true, isOutage: true)
    watch.answered()
    watch.noAnswer(refusal, isAgain: true, hasFailed: false, isOutage: false)
    watch.noAnswer(nil, isAgain: true, hasFailed: true, isOutage: false)
    expectChange(&watch, nil)
  }

  private func expectChange(_ watch: inout RefusalWatch, _ expected: RefusalWatch.Change?, _ comment: Comment? = nil) {
    let change = watch.takeChange()
    #expect(change == expected, comment)
  }
}
