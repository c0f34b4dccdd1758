// The growing delays between attempts.

import Reactor
import Testing

@Suite struct BackoffTests {
  @Test func delaysDoubleUpToTheCap() {
    let backoff = Backoff(initial: .seconds(1), cap: .seconds(10), jitter: 0)
    let delays = (1...6).map { backoff.delay(afterFailures: $0, jitter: 0.5) }
    #expect(delays == [.seconds(1), .seconds(2), .seconds(4), .seconds(8), .seconds(10), .seconds(10)])
  }

  @Test func jitterSpreadsEachDelayByItsFractionAndNeverBeyondTheCap() {
    let backoff = Backoff(initial: .seconds(1), cap: .seconds(3_600), jitter: 0.2)
    #expect(backoff.delay(afterFailures: 1, jitter: 0) == .milliseconds(800))
    #expect(backoff.delay(afterFailures: 1, jitter: 1) == .milliseconds(1_200))
    for failures in [12, 13, 20, 1_000, Int.max] {
      #expect(backoff.delay(afterFailures: failures, jitter: 1) <= .seconds(3_600))
      #expect(backoff.delay(afterFailures: failures, jitter: 0) < .seconds(2_700))
    }
  }

  @Test func aResetBeginsAnew() {
    var backoff = Backoff(initial: .milliseconds(100), cap: .seconds(2), jitter: 0)
    #expect(backoff.next(jitter: 0) == .milliseconds(100))
    #expect(backoff.next(jitter: 0) == .milliseconds(200))
    #expect(backoff.failures == 2)
    backoff.reset()
    #expect(backoff.next(jitter: 0) == .milliseconds(100))
  }

  @Test func aConstantBackoffStaysConstant() {
    let backoff = Backoff(initial: .seconds(1), factor: 1, cap: .seconds(2), jitter: 0)
    #expect(backoff.delay(afterFailures: Int.max, jitter: 0) == .seconds(1))
  }
}
