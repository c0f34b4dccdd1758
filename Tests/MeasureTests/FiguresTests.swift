// Medians, percentiles, and what is printed of them.

import Testing

@testable import Measure

@Suite struct FiguresTests {
  @Test(arguments: [([3], 3), ([9, 1, 5], 5), ([4, 1, 3, 2], 2), ([10, 9], 9)])
  func theMedianIsTheLowerOfTheTwoInTheMiddle(values: [Int], median: Int) {
    #expect(Statistics.median(values) == median)
  }

  @Test func nothingHasNoMedianAndNoPercentile() {
    #expect(Statistics.median([Int]()) == nil)
    #expect(Statistics.percentile(99, of: [Int]()) == nil)
  }

  @Test(arguments: [(1, 1), (50, 50), (99, 99), (100, 99), (101, 100), (200, 198), (1000, 990)])
  func ninetyNinePercentDoNotExceedThePercentile(count: Int, percentile: Int) {
    #expect(Statistics.percentile(99, of: (1...count).shuffled()) == percentile)
  }

  @Test(arguments: [(0, 0), (19, 0), (20, 1), (39, 1), (60, 2)])
  func aShareIsRoundedHalvesUp(whole: Int, rounded: Int) {
    #expect(Statistics.rounded(whole, per: 40) == rounded)
  }

  @Test func aFigureIsComparedAsItIsPrinted() {
    #expect(Figure(1.199, decimals: 2) == Figure(1.2, decimals: 1))
    #expect(Figure(1.199, decimals: 2).description == "1.20")
    #expect(Figure("857.378")?.description == "857.378")
    #expect([Figure(10), Figure(9)].min()?.value == 9)
    #expect(Figure("12 ms") == nil && Figure("") == nil && Figure("nan") == nil)
    #expect(Statistics.share(7, per: 2).description == "3.50")
    #expect(Statistics.share(7, per: 0).description == "0.00")
  }

  @Test func jsonKeepsItsOrderAndQuotesWhatItMust() {
    let text = OrderedJSON.object([("b", "1"), ("a", OrderedJSON.string("a \"quote\"\\\n"))])
    #expect(text == #"{"b": 1, "a": "a \"quote\"\\\u000a"}"#)
  }
}
