// Edit distance and the choice of the nearest name.

import Testing

@testable import Worker

@Suite struct NearestNameTests {
  @Test func aDistanceIsTheFewestEdits() {
    let distances: [(String, String, Int)] = [
      ("", "", 0), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "ab", 1),
      ("kitten", "sitting", 3), ("abcd", "abdc", 1), ("abcd", "badc", 2),
    ]
    for (left, right, distance) in distances { #expect(NearestName.distance(left, right) == distance) }
  }

  @Test func theNearestNameWinsAndAFarOneIsNone() {
    #expect(NearestName.of("--onec", among: ["--table", "--once"]) == "--once")
    #expect(NearestName.of("completely-different", among: ["--once"]) == nil)
    #expect(NearestName.of(String(repeating: "a", count: 1_000_000), among: ["a"]) == nil)
    #expect(NearestName.of("a", among: []) == nil)
  }
}
