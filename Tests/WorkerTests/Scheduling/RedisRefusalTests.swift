// What is told where Redis refuses a single sweeper's commands.

import Reactor
import Testing

@testable import Worker

@Suite struct RedisRefusalTests {
  private static let wrongType = RedisError.server(code: "WRONGTYPE", message: "Operation against a key")

  @Test func onlyAnAnswerIsARefusal() {
    #expect(RedisRefusal(RedisError.notSent("connection refused")) == nil)
    #expect(RedisRefusal(RedisError.unknownOutcome("timed out")) == nil)
    #expect(RedisRefusal(Coordinator.UnexpectedAnswer())?.isOfAnotherType == false)
    #expect(RedisRefusal(Self.wrongType)?.reason == "a key holds another type of value (WRONGTYPE)")
    #expect(RedisRefusal(Self.wrongType)?.isOfAnotherType == true)
  }

  @Test func aRefusalThatCostsASlotIsToldOnceAndSoIsItsEnd() {
    var watch = RefusalWatch()
    watch.key = "record"
    let refusal = RedisRefusal(Self.wrongType)
    watch.met(refusal, isAgain: false, hasFailed: true, isOutage: false)
    expectNews(&watch, nil, "whether Redis as a whole refuses is not known yet")
    watch.met(refusal, isAgain: true, hasFailed: false, isOutage: false)
    expectNews(&watch, .refused(reason: "a key holds another type of value (WRONGTYPE)", key: "record"))
    watch.met(refusal, isAgain: true, hasFailed: true, isOutage: false)
    expectNews(&watch, nil)
    watch.answered()
    expectNews(&watch, .answered)
    watch.answered()
    expectNews(&watch, nil)
  }

  @Test func anOutageAndARefusalThatCostsNoSlotAreNotTold() {
    var watch = RefusalWatch()
    let refusal = RedisRefusal(Self.wrongType)
    watch.met(refusal, isAgain: true, hasFailed: true, isOutage: true)
    watch.answered()
    watch.met(refusal, isAgain: true, hasFailed: false, isOutage: false)
    watch.met(nil, isAgain: true, hasFailed: true, isOutage: false)
    expectNews(&watch, nil)
  }

  private func expectNews(_ watch: inout RefusalWatch, _ expected: RefusalWatch.News?, _ comment: Comment? = nil) {
    let news = watch.untold()
    #expect(news == expected, comment)
  }
}
