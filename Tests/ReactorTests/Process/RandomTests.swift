// Random numbers and code pages: what both guarantee their callers.

import TestSupport
import Testing

@testable import Reactor

@Suite struct RandomTests {
  @Test func noNumberComesTwice() async throws {
    try await onLoop {
      // Over many fetches. That 4,000 numbers of 64 bits meet by chance is as likely as 1 in 2 billion of billions.
      var seen: Set<UInt64> = []
      for _ in 0..<4_000 { seen.insert(Random.system.number()) }
      #expect(seen.count == 4_000)
    }
  }

  @Test func fractionsLieFromZeroUpToOneAndSpread() async throws {
    try await onLoop {
      let fractions = (0..<4_000).map { _ in Random.system.fraction() }
      #expect(fractions.allSatisfy { $0 >= 0 && $0 < 1 })
      // Eleven standard errors of the mean.
      #expect(abs(fractions.reduce(0, +) / 4_000 - 0.5) < 0.05)
    }
  }
}

@Suite struct LoadedCodeTests {
  @Test func pagesOfCodeAreGivenBackAndComeBackAsTheyWere() async throws {
    try await onLoop {
      let before = ProcessStatistics.current.residentBytes
      LoadedCode.giveBackPages()
      let after = ProcessStatistics.current.residentBytes
      #expect(after < before)
      // Code, constants, and what the linker relocated still are what they were.
      #expect("\(Double.pi)" == "3.141592653589793")
      #expect(SHA1.digest(Array("abc".utf8)).prefix(4) == [0xa9, 0x99, 0x3e, 0x36])
    }
  }
}
